"""A report as a picture: horizontal bars of dollars, saved ones beside billed ones.

SVG is written here, by hand and exactly; PNG is drawn by matplotlib (``kimiya[plot]``).
"""

import importlib
import warnings
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import Any

from kimiya.errors import ConfigError
from kimiya.ledger.query import CostRow
from kimiya.ledger.report import CostReport, short_usd, shown_plainly

_BAR, _GAP, _LEFT, _WIDTH, _TOP = 18, 10, 220, 860, 60
_BILLED, _SAVED, _INK = "#2f6f73", "#d8a657", "#222222"
_MOST_BARS = 40
_FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "IPAexGothic", "Hiragino Sans", "Yu Gothic")
"""The first carries Latin, Greek and Cyrillic and comes with matplotlib; the others, where they are
installed, carry Japanese."""


def write_chart(report: CostReport, path: Path) -> None:
    """Draw the report into ``path``; its suffix, ``.svg`` or ``.png``, says how.

    Raises:
        ConfigError: Another suffix.
        ModuleNotFoundError: PNG without matplotlib.
        OSError: The file cannot be written.
    """
    match path.suffix.lower():
        case ".svg":
            path.write_text(as_svg(report), encoding="utf-8")
        case ".png":
            _write_png(report, path)
        case other:
            raise ConfigError(
                f"a plot is .svg or .png, not {other or 'without a suffix'}: {path}",
                remedy="Name the file costs.svg",
            )


def as_svg(report: CostReport) -> str:
    """The report as a picture any browser shows."""
    rows = _bars_of(report)
    most = max((_length(row) for row in rows), default=Decimal(0)) or Decimal(1)
    height = _TOP + len(rows) * (_BAR + _GAP) + 20
    scale = Decimal(_WIDTH - _LEFT - 120) / most
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}"'
        f' font-family="sans-serif" font-size="13" fill="{_INK}" role="img">',
        f"<title>{escape(_title(report))}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="16" y="24" font-size="16">{escape(_title(report))}</text>',
        *_legend(),
    ]
    for position, row in enumerate(rows):
        parts += _bar(row, _TOP + position * (_BAR + _GAP), scale)
    return "\n".join([*parts, "</svg>", ""])


def _bar(row: CostRow, y: int, scale: Decimal) -> list[str]:
    billed = max(row.usd, Decimal(0)) * scale
    saved = _saved(row) * scale
    words = f"${short_usd(row.usd)}" + (" + unpriced" if row.unpriced_attempts else "")
    name = row.group or "(none)"
    label = escape(shown_plainly(name if len(name) <= 28 else "…" + name[-27:]))
    middle = y + _BAR - 5
    return [
        f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end">{label}</text>',
        f'<rect x="{_LEFT}" y="{y}" width="{billed:.2f}" height="{_BAR}" fill="{_BILLED}"/>',
        f'<rect x="{_LEFT + billed:.2f}" y="{y}" width="{saved:.2f}" height="{_BAR}"'
        f' fill="{_SAVED}"/>',
        f'<text x="{_LEFT + billed + saved + 8:.2f}" y="{middle}">{escape(words)}</text>',
    ]


def _legend() -> list[str]:
    return [
        f'<rect x="16" y="36" width="12" height="12" fill="{_BILLED}"/>',
        '<text x="34" y="47">billed</text>',
        f'<rect x="96" y="36" width="12" height="12" fill="{_SAVED}"/>',
        '<text x="114" y="47">saved by caching and routing</text>',
    ]


def _write_png(report: CostReport, path: Path) -> None:
    # An optional library without types of ours: what comes out of it is anything.
    figures: Any = importlib.import_module("matplotlib.figure")
    matplotlib: Any = importlib.import_module("matplotlib")
    fonts: Any = importlib.import_module("matplotlib.font_manager")
    known = set(fonts.get_font_names())
    families = [name for name in _FONTS if name in known]
    # A letter no font here has is drawn as a box; that is not worth a warning on a terminal.
    with matplotlib.rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        _save_png(report, path, figures)


def _save_png(report: CostReport, path: Path, figures: Any) -> None:
    rows = _bars_of(report)
    size = (8.6, 0.9 + 0.3 * max(1, len(rows)))
    figure = figures.Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    names = [shown_plainly(row.group or "(none)")[-28:].replace("$", r"\$") for row in rows]
    billed = [float(row.usd) for row in rows]
    places = list(range(len(rows)))
    axes.barh(places, billed, color=_BILLED, label="billed")
    saved = [float(_saved(row)) for row in rows]
    axes.barh(places, saved, left=billed, color=_SAVED, label="saved")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel("US dollars")
    axes.set_title(_title(report).replace("$", r"\$"), loc="left")
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=150)


def _bars_of(report: CostReport) -> list[CostRow]:
    """Dearest first and not too many; days in order, the last ones."""
    if report.query.by == "day":
        return list(report.rows)[-_MOST_BARS:]
    return sorted(report.rows, key=lambda row: (-row.usd, row.group))[:_MOST_BARS]


def _saved(row: CostRow) -> Decimal:
    return max(Decimal(0), row.saved_by_caching_usd + row.saved_by_routing_usd)


def _length(row: CostRow) -> Decimal:
    return max(row.usd, Decimal(0)) + _saved(row)


def _title(report: CostReport) -> str:
    since, until = report.query.since, report.query.until
    days = f", {since or 'the beginning'} to {until or 'today'}" if since or until else ""
    return f"Cost by {shown_plainly(report.group_name)}{days}: ${short_usd(report.total.usd)}"
