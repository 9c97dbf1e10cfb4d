"""What a reply says of its own making: ``x-kimiya-*`` headers, or a stream's trailing note.

Values are ASCII and short: codes, never prose, so that they fit a header and a metrics label.
"""

from collections.abc import Iterable

from kimiya.pipeline import Report


def opening_remarks(report: Report) -> dict[str, str]:
    """What is known before the first byte of a stream."""
    remarks = {"route": _ascii(report.target)}
    if report.adjustments:
        remarks["adjustments"] = _codes(item.code for item in report.adjustments)
    if report.budget_warnings:
        remarks["budget-warning"] = _ascii(",".join(report.budget_warnings))
    return remarks


def closing_remarks(report: Report) -> dict[str, str]:
    """What is known once the reply has ended."""
    remarks = opening_remarks(report)
    remarks["verdict"] = report.verdict.outcome
    if report.verdict.repairs:
        remarks["repairs"] = _codes(item.code for item in report.verdict.repairs)
    if report.verdict.reason:
        remarks["reason"] = _ascii(report.verdict.reason)
    remarks["attempts"] = str(len(report.attempts))
    remarks["cost-usd"] = "unpriced" if report.cost_usd is None else f"{report.cost_usd:f}"
    return remarks


def _codes(codes: Iterable[str]) -> str:
    """Distinct codes in their order, with a count where one occurs more than once."""
    counts: dict[str, int] = {}
    for code in codes:
        counts[code] = counts.get(code, 0) + 1
    return ",".join(code if n == 1 else f"{code}*{n}" for code, n in counts.items())


def _ascii(text: str) -> str:
    flat = " ".join(text.split())
    return flat.encode("ascii", "replace").decode()[:200]
