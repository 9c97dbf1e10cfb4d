"""What happened on the path of one call: attempts, verdict, tokens, dollars."""

from collections.abc import Iterable
from decimal import Decimal

from msgspec import Struct

from kimiya.catalog.card import Price
from kimiya.core.exchange import Adjustment, Response, Usage, Verdict


class Attempt(Struct, frozen=True):
    """One try at one target: paid for, and shown, whatever became of it."""

    target: str
    """``provider:model_id``."""
    duration_s: float
    error: str | None = None
    """Class name of the error that ended it; ``None`` where it gave a reply."""
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    """``None`` where no price is known or no usage was reported."""
    price: Price | None = None
    """The row that priced it."""
    dialect: str = ""
    """The wire it went over; ``""`` where none was involved."""


class Report(Struct, frozen=True):
    """What happened on the path of one call."""

    model: str
    """As the caller wrote it."""
    target: str = ""
    """``provider:model_id`` of the last attempt."""
    adjustments: tuple[Adjustment, ...] = ()
    verdict: Verdict = Verdict()
    attempts: tuple[Attempt, ...] = ()
    usage: Usage | None = None
    """Of the attempt that answered."""
    cost_usd: Decimal | None = None
    """All attempts together; ``None`` where any part is unpriced."""
    budget_warnings: tuple[str, ...] = ()
    """Budgets whose soft limit is passed."""
    is_complete: bool = False
    """Whether the caller has the whole reply."""
    first_event_s: float | None = None
    """Seconds from the call to its first content."""
    duration_s: float = 0.0

    @property
    def retries(self) -> int:
        """Attempts beyond the first."""
        return max(0, len(self.attempts) - 1)


class Outcome(Struct, frozen=True):
    """A whole reply and what was done for it."""

    response: Response
    report: Report


class TokenCount(Struct, frozen=True):
    """Input tokens of a request that was not sent."""

    input_tokens: int
    is_estimate: bool = False
    """No host counted; see ``core.token_estimate``."""


def total_usd(attempts: Iterable[Attempt]) -> Decimal | None:
    """Dollars of all attempts; attempts that never reached a model cost nothing."""
    total = Decimal(0)
    for attempt in attempts:
        if attempt.usage is None and attempt.error is not None:
            continue
        if attempt.cost_usd is None:
            return None
        total += attempt.cost_usd
    return total
