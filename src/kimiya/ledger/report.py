"""A cost report: rows of a store, their total, and their forms as table, CSV and JSON.

The table fits eighty columns and shows dollars rounded to what a person reads; CSV and JSON carry
every digit. What has no price is counted as unpriced beside the dollars, never among them.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

from msgspec import Struct
from rich.cells import cell_len, set_cell_size

from kimiya.ledger.query import CostQuery, CostRow

_WIDTH = 80
_COLUMNS: tuple[tuple[str, Callable[[CostRow], str]], ...] = (
    ("calls", lambda row: f"{row.calls:,}"),
    ("input", lambda row: short_tokens(row.input_tokens)),
    ("output", lambda row: short_tokens(row.output_tokens)),
    ("cached", lambda row: _percent(row.cache_hit_rate)),
    ("dollars", lambda row: _billed(row)),
    ("saved", lambda row: short_usd(row.saved_by_caching_usd + row.saved_by_routing_usd)),
)
_FIELDS = tuple(name for name in CostRow.__struct_fields__ if name != "group")


class CostReport(Struct, frozen=True):
    """What was spent, line by line."""

    query: CostQuery
    rows: tuple[CostRow, ...]

    @property
    def total(self) -> CostRow:
        """All lines together."""
        return add_up("total", self.rows)

    @property
    def group_name(self) -> str:
        """What a line stands for."""
        return self.query.tag or self.query.by


def add_up(group: str, rows: Iterable[CostRow]) -> CostRow:
    """Rows added figure by figure."""
    figures: dict[str, Any] = {name: Decimal(0) if name.endswith("usd") else 0 for name in _FIELDS}
    for row in rows:
        for name in _FIELDS:
            figures[name] += getattr(row, name)
    return CostRow(group=group, **figures)


def as_table(report: CostReport) -> str:
    """Eighty columns for a person, dearest line first, days in order."""
    if not report.rows:
        return "no calls in this period\n"
    rows = list(report.rows)
    if report.query.by != "day":
        rows.sort(key=lambda row: (-row.usd, row.group))
    lines = [_cells(row, row.group or "(none)") for row in rows]
    lines.append(_cells(report.total, "total"))
    heads = [report.group_name, *(name for name, _ in _COLUMNS)]
    return aligned(heads, lines) + "\n".join(_footer(report.total)) + "\n"


def as_csv(report: CostReport) -> str:
    """One line a row, with every digit."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([report.group_name, *_FIELDS, "cache_hit_rate"])
    for row in report.rows:
        rate = row.cache_hit_rate
        figures = (_plain(getattr(row, name)) for name in _FIELDS)
        writer.writerow([unformula(row.group), *figures, "" if rate is None else f"{rate:.6f}"])
    return out.getvalue()


def as_json(report: CostReport) -> str:
    """Rows and total; dollars as strings, because JSON's numbers are not exact."""
    return json.dumps(
        {
            "by": report.query.by,
            "tag": report.query.tag,
            "since": report.query.since.isoformat() if report.query.since else None,
            "until": report.query.until.isoformat() if report.query.until else None,
            "rows": [_object(row) for row in report.rows],
            "total": _object(report.total),
        },
        indent=2,
        ensure_ascii=False,
    )


def short_tokens(count: int) -> str:
    """A count a person can read.

    >>> [short_tokens(n) for n in (0, 999, 12_345, 999_999, 2_500_000)]
    ['0', '999', '12.3k', '1.0M', '2.5M']
    """
    for size, letter in ((999_950_000, "G"), (999_950, "M"), (1_000, "k")):
        if abs(count) >= size:
            unit = {"G": 1e9, "M": 1e6, "k": 1e3}[letter]
            return f"{count / unit:.1f}{letter}"
    return str(count)


def short_usd(usd: Decimal) -> str:
    """Dollars a person can read; what is not zero is never shown as zero.

    >>> [short_usd(Decimal(d)) for d in ("0", "1234.5", "0.0123", "0.0000004", "-2")]
    ['0', '1,234.50', '0.0123', '<0.0001', '-2.00']
    """
    if not usd:
        return "0"
    if abs(usd) >= 1:
        return f"{usd:,.2f}"
    if abs(usd) < Decimal("0.0001"):
        return "<0.0001" if usd > 0 else ">-0.0001"
    return f"{usd:.4f}"


def _billed(row: CostRow) -> str:
    if row.unpriced_attempts and not row.usd:
        return "unpriced"
    return short_usd(row.usd) + ("+" if row.unpriced_attempts else "")


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.0%}"


def _cells(row: CostRow, group: str) -> list[str]:
    return [shown_plainly(group), *(show(row) for _, show in _COLUMNS)]


def _footer(total: CostRow) -> list[str]:
    lines = [
        f"saved by caching ${short_usd(total.saved_by_caching_usd)},"
        f" by routing ${short_usd(total.saved_by_routing_usd)}",
    ]
    if total.predicted_usd:
        lines.append(
            f"reserved at most ${short_usd(total.predicted_usd)} before the calls,"
            f" billed ${short_usd(total.usd)}"
        )
    if total.attempts > total.calls:
        lines.append(f"{total.attempts - total.calls:,} retried or rerouted attempts are included")
    if total.unpriced_attempts:
        lines.append(
            f"+ {total.unpriced_attempts:,} attempts have no known price and are not in the dollars"
        )
    return lines


def aligned(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The first column to the left and cut to fit, figures to the right, a rule before the last."""
    columns = range(1, len(heads))
    widths = [max(len(line[n]) for line in (heads, *lines)) for n in columns]
    room = max(12, _WIDTH - sum(widths) - 2 * len(widths))
    first = min(room, max(cell_len(line[0]) for line in (heads, *lines)))
    shown = [
        "  ".join([_cut(line[0], first), *(line[n].rjust(widths[n - 1]) for n in columns)])
        for line in (heads, *lines)
    ]
    rule = "-" * cell_len(shown[0])
    return "\n".join([shown[0], rule, *shown[1:-1], rule, shown[-1]]) + "\n"


def _cut(text: str, width: int) -> str:
    """The end is what tells long ids apart; some characters are two columns wide."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    while cell_len(text) > width - 1:
        text = text[1 + max(0, len(text) - width) :]
    return set_cell_size("…" + text, width)


def shown_plainly(text: str) -> str:
    """Callers choose these words: nothing in them may move a cursor."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def unformula(text: str) -> str:
    """A spreadsheet must not take a caller's word for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _plain(figure: Decimal | int) -> str:
    return f"{figure:f}" if isinstance(figure, Decimal) else str(figure)


def _object(row: CostRow) -> dict[str, str | int | float | None]:
    figures = {name: getattr(row, name) for name in _FIELDS}
    shown = {
        name: f"{figure:f}" if isinstance(figure, Decimal) else figure
        for name, figure in figures.items()
    }
    return {"group": row.group, **shown, "cache_hit_rate": row.cache_hit_rate}
