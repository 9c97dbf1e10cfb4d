"""What AWS says was spent, laid beside the ledger: a Cost Explorer export, grouped by one tag.

Two forms are read, as AWS gives them: the CSV of the console's download button (a column a tag
value, a row a day or month) and the JSON of ``aws ce get-cost-and-usage --group-by
Type=TAG,Key=...``. Filter the export to the service the ledger's calls went to: what else carries
the tag is in AWS's figures and cannot be in ours.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, cast

from msgspec import Struct

from kimiya.errors import ConfigError
from kimiya.ledger.query import CostRow
from kimiya.ledger.report import aligned, short_usd, shown_plainly, unformula

_UNIT = "($)"
_TOTAL = "Total costs"
_HOW = (
    "Group the report by one tag and download it as CSV, or save the JSON of"
    " `aws ce get-cost-and-usage --group-by Type=TAG,Key=department`"
)


_NOT_SUCH = (
    ValueError, KeyError, TypeError, IndexError, StopIteration, InvalidOperation, RecursionError,
    csv.Error,
)  # fmt: skip
"""What reading something else as an export runs into."""


class CostExplorerBill(Struct, frozen=True):
    """What AWS billed, by the value of a tag."""

    tag: str
    since: date
    until: date
    """Last day, included."""
    usd: Mapping[str, Decimal]
    """By tag value; ``""`` is what carried no such tag."""


class Difference(Struct, frozen=True):
    """One tag value, by both accounts."""

    group: str
    ledger_usd: Decimal
    billed_usd: Decimal
    unpriced_attempts: int = 0
    """Calls the ledger has no dollars for: a reason why AWS shows more."""

    @property
    def difference_usd(self) -> Decimal:
        """What AWS billed beyond the ledger; negative where the ledger has more."""
        return self.billed_usd - self.ledger_usd


def read_cost_explorer(text: str, name: str) -> CostExplorerBill:
    """An export, in either form.

    Args:
        text: The file's content.
        name: What the file is called, for messages.

    Raises:
        ConfigError: It is no such export, or its figures are not dollars.
    """
    text = text.removeprefix("\ufeff")
    try:
        if text.lstrip().startswith("{"):
            return _from_json(json.loads(text))
        return _from_csv(text)
    except _NOT_SUCH as error:
        why = f": {error}" if str(error) else ""
        raise ConfigError(f"{name} is no Cost Explorer export by tag{why}", remedy=_HOW) from error


def differences(rows: Sequence[CostRow], bill: CostExplorerBill) -> tuple[Difference, ...]:
    """Every tag value either side knows."""
    ours = {row.group: row for row in rows}
    found: list[Difference] = []
    for group in sorted({*ours, *bill.usd}):
        row = ours.get(group, CostRow(group=group))
        billed = bill.usd.get(group, Decimal(0))
        found.append(Difference(group, row.usd, billed, row.unpriced_attempts))
    return tuple(found)


def as_difference_table(found: Sequence[Difference], bill: CostExplorerBill) -> str:
    """Eighty columns for a person."""
    lines = [_cells(each, each.group or "(no tag)") for each in found]
    total = Difference(
        "total",
        sum((each.ledger_usd for each in found), Decimal(0)),
        sum((each.billed_usd for each in found), Decimal(0)),
        sum(each.unpriced_attempts for each in found),
    )
    lines.append(_cells(total, "total"))
    heads = [bill.tag, "ledger", "Cost Explorer", "difference", "share"]
    table = aligned(heads, lines) + f"{bill.since} to {bill.until}, US dollars\n"
    if total.unpriced_attempts:
        table += f"the ledger has no price for {total.unpriced_attempts:,} attempts\n"
    return table


def as_difference_csv(found: Sequence[Difference], bill: CostExplorerBill) -> str:
    """One line a tag value, with every digit."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([bill.tag, "ledger_usd", "billed_usd", "difference_usd", "unpriced_attempts"])
    for each in found:
        figures = (each.ledger_usd, each.billed_usd, each.difference_usd)
        writer.writerow(
            [unformula(each.group), *(f"{usd:f}" for usd in figures), each.unpriced_attempts]
        )
    return out.getvalue()


def as_difference_json(found: Sequence[Difference], bill: CostExplorerBill) -> str:
    """Dollars as strings, because JSON's numbers are not exact."""
    rows = [
        {
            "group": each.group,
            "ledger_usd": f"{each.ledger_usd:f}",
            "billed_usd": f"{each.billed_usd:f}",
            "difference_usd": f"{each.difference_usd:f}",
            "unpriced_attempts": each.unpriced_attempts,
        }
        for each in found
    ]
    period = {"since": bill.since.isoformat(), "until": bill.until.isoformat()}
    return json.dumps({"tag": bill.tag, **period, "rows": rows}, indent=2, ensure_ascii=False)


def _cells(each: Difference, group: str) -> list[str]:
    share = each.difference_usd / each.billed_usd if each.billed_usd else None
    return [
        shown_plainly(group),
        short_usd(each.ledger_usd),
        short_usd(each.billed_usd),
        short_usd(each.difference_usd),
        "-" if share is None else f"{share:+.1%}",
    ]


def _from_csv(text: str) -> CostExplorerBill:
    heads, *lines = [line for line in csv.reader(io.StringIO(text)) if line]
    tag = heads[0].strip()
    names = [head.strip().removesuffix(_UNIT).strip() for head in heads[1:]]
    if not any(head.strip().endswith(_UNIT) for head in heads[1:]):
        raise ValueError("no column is in ($)")
    usd: dict[str, Decimal] = {}
    days: list[date] = []
    for line in lines:
        if line[0].strip() == f"{tag} total":
            continue
        days.append(date.fromisoformat(line[0].strip()))
        for name, cell in zip(names, line[1:], strict=True):
            if name != _TOTAL:
                _add(usd, _value(name, tag), cell)
    return CostExplorerBill(tag, min(days), _last_day(sorted(days)), usd)


def _from_json(export: Any) -> CostExplorerBill:
    tags = [each["Key"] for each in export["GroupDefinitions"] if each["Type"] == "TAG"]
    if len(tags) != 1:
        raise ValueError(f"grouped by {len(tags)} tags, not one")
    tag = str(tags[0])
    usd: dict[str, Decimal] = {}
    spans: list[tuple[date, date]] = []
    for period in export["ResultsByTime"]:
        start, end = (date.fromisoformat(period["TimePeriod"][k][:10]) for k in ("Start", "End"))
        spans.append((start, end))
        for group in period["Groups"]:
            (key,) = (key for key in group["Keys"] if key.startswith(f"{tag}$"))
            metrics = cast("dict[str, dict[str, str]]", group["Metrics"])
            cost = next(cost for name, cost in metrics.items() if name.endswith("Cost"))
            if cost["Unit"] != "USD":
                raise ValueError(f"figures are in {cost['Unit']}, not USD")
            _add(usd, _value(key, tag), cost["Amount"])
    since, end = min(start for start, _ in spans), max(end for _, end in spans)
    return CostExplorerBill(tag, since, end - timedelta(days=1), usd)


def _add(usd: dict[str, Decimal], group: str, cell: str) -> None:
    amount = Decimal(cell.strip().replace(",", "") or "0")
    if not amount.is_finite():
        raise ValueError(f"{cell!r} is no amount")
    usd[group] = usd.get(group, Decimal(0)) + amount


def _value(name: str, tag: str) -> str:
    """The tag's value in AWS's spelling of a group."""
    if name == f"No tag key: {tag}":
        return ""
    return name.removeprefix(f"{tag}$")


def _last_day(days: Sequence[date]) -> date:
    """The last day covered: rows that all begin a month are months."""
    last = days[-1]
    if all(day.day == 1 for day in days):
        return (last.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    return last
