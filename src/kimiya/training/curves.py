"""A run's curves, as a PNG and as one HTML page that needs nothing else.

Both are drawn from ``metrics.jsonl`` alone, so they can be drawn again at any time, also while the
run goes on. The page draws its own SVG; the PNG needs matplotlib and is left out without it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from kimiya.training.metrics import read_metrics

__all__ = ["draw_curves"]

_WIDTH, _HEIGHT, _MARGIN = 640, 220, 44

Series = Sequence[tuple[float, float]]
"""Points of one line: step and value."""


def draw_curves(folder: Path, *, title: str) -> list[Path]:
    """Write ``index.html`` and, with matplotlib, ``curves.png``; returns what was written."""
    panels = _panels(read_metrics(folder / "metrics.jsonl"))
    page = folder / "index.html"
    page.write_text(_page(title, panels))
    picture = _picture(folder / "curves.png", title, panels)
    return [page, picture] if picture else [page]


def _panels(rows: list[dict[str, Any]]) -> dict[str, dict[str, Series]]:
    """Panel title to line name to points."""
    layers = sorted({name for row in rows for name in row["max_logit"]})

    def line(value: Any) -> Series:
        points = ((row["step"], value(row)) for row in rows)
        return [(x, y) for x, y in points if y is not None and math.isfinite(y)]

    return {
        "loss": {"loss": line(lambda row: row["loss"])},
        "learning rate": {"lr": line(lambda row: row["lr"])},
        "tokens a second": {"tokens/s": line(lambda row: row["tokens_per_s"])},
        "max attention logit": {
            name: line(lambda row, name=name: row["max_logit"].get(name)) for name in layers
        },
        "heads clipped": {
            name: line(lambda row, name=name: row["clips"].get(name)) for name in layers
        },
        "expert load violation": {"worst layer": line(lambda row: row["load_violation"])},
    }


def _page(title: str, panels: dict[str, dict[str, Series]]) -> str:
    figures = "\n".join(
        f"<figure><figcaption>{html.escape(name)}</figcaption>{_svg(lines)}</figure>"
        for name, lines in panels.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title>"
        "<style>body{font:15px system-ui;margin:2rem;color:#222;background:#fff}"
        "figure{display:inline-block;margin:0 1rem 1.5rem 0}figcaption{font-weight:600}"
        "svg{border:1px solid #ddd}text{font-size:11px;fill:#555}"
        "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}}</style>"
        f"<h1>{html.escape(title)}</h1>\n{figures}\n</html>\n"
    )


def _svg(lines: dict[str, Series]) -> str:
    points = [point for series in lines.values() for point in series]
    if not points:
        return "<p>nothing yet</p>"
    (left, right), (low, high) = (_range([point[axis] for point in points]) for axis in (0, 1))

    def place(x: float, y: float) -> str:
        across = _MARGIN + (x - left) / (right - left) * (_WIDTH - _MARGIN - 8)
        down = _HEIGHT - 24 - (y - low) / (high - low) * (_HEIGHT - 36)
        return f"{across:.1f},{down:.1f}"

    drawn = [
        f'<polyline fill="none" stroke="{_color(index, len(lines))}" stroke-width="1.5" '
        f'points="{" ".join(place(x, y) for x, y in series)}">'
        f"<title>{html.escape(name)}</title></polyline>"
        for index, (name, series) in enumerate(lines.items())
    ]
    labels = [
        f'<text x="2" y="14">{high:.4g}</text><text x="2" y="{_HEIGHT - 24}">{low:.4g}</text>',
        f'<text x="{_MARGIN}" y="{_HEIGHT - 6}">step {left:.0f}</text>',
        f'<text x="{_WIDTH - 80}" y="{_HEIGHT - 6}">step {right:.0f}</text>',
    ]
    size = f'width="{_WIDTH}" height="{_HEIGHT}" role="img"'
    return f"<svg {size}>{''.join(labels + drawn)}</svg>"


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _color(index: int, count: int) -> str:
    return f"hsl({210 + 360 * index // max(count, 1)} 70% 45%)"


def _picture(path: Path, title: str, panels: dict[str, dict[str, Series]]) -> Path | None:
    try:
        import_module("matplotlib").use("Agg")
        pyplot = import_module("matplotlib.pyplot")
    except ImportError:
        return None
    figure, axes = pyplot.subplots(2, 3, figsize=(15, 7), layout="constrained")
    for axis, (name, lines) in zip(axes.flat, panels.items(), strict=True):
        for label, series in lines.items():
            axis.plot([x for x, _ in series], [y for _, y in series], label=label, linewidth=1)
        axis.set_title(name)
        axis.set_xlabel("step")
        if len(lines) > 1:
            axis.legend(fontsize=6)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
