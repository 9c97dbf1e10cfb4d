"""What a budget is: whom it binds, how much, and for how long. Values only; ``budgets`` enforces.

A budget's ``path`` is a way down the tree of who spends (key, tag, user, conversation, run, agent,
task). It binds every spender the whole path matches. A scope with a value binds that one; ``*``
gives each value a counter of its own: ``key=team, user=*`` is one budget for each user of a team.
A call is let through when every budget that binds it has room, all or none.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Literal, TypeAlias

from msgspec import Struct

from kimiya.catalog.card import Price
from kimiya.catalog.pricing import cost_usd
from kimiya.core.exchange import Usage
from kimiya.errors import ConfigError

ScopeKind: TypeAlias = Literal["key", "tag", "user", "conversation", "run", "agent", "task"]
Period: TypeAlias = Literal["day", "week", "month", "run"]
_MAX_COUNTER_CHARACTERS = 300


class Scope(Struct, frozen=True):
    """One step of a budget's path."""

    kind: ScopeKind
    value: str = "*"
    """Whose budget it is; ``*`` is each one's own."""
    name: str | None = None
    """Name of the tag, for ``kind="tag"``."""


class Spender(Struct, frozen=True, kw_only=True):
    """Who makes a call; ``None`` is nobody in particular, whom no scope of that kind binds."""

    key: str | None = None
    """Public id of the gateway key."""
    tags: dict[str, str] = {}
    user: str | None = None
    conversation: str | None = None
    run: str | None = None
    agent: str | None = None
    task: str | None = None

    def value_of(self, scope: Scope) -> str | None:
        """This spender's own value on a scope."""
        if scope.kind == "tag":
            return self.tags.get(scope.name or "")
        value: str | None = getattr(self, scope.kind)
        return value


class Amounts(Struct, frozen=True):
    """What is reserved, spent or allowed."""

    usd: Decimal | None = Decimal(0)
    """``None``: nobody knows the price."""
    tokens: int = 0
    """Input and output together."""
    requests: int = 0


class Limit(Struct, frozen=True, kw_only=True):
    """The most that may be spent in a period; ``None`` does not limit."""

    usd: Decimal | None = None
    tokens: int | None = None
    requests: int | None = None


class Budget(Struct, frozen=True, kw_only=True):
    """A limit on some spenders over a period."""

    name: str
    limit: Limit
    period: Period
    """Calendar periods in UTC; weeks begin on Monday; ``run`` never resets."""
    path: tuple[Scope, ...] = ()
    """Empty binds everyone together."""
    soft_share: Decimal | None = None
    """Share of the limit from which calls carry a warning, such as ``0.8``."""
    unpriced: Literal["refuse", "pass"] = "refuse"
    """What becomes of a call without a known price under a limit in dollars."""

    def __post_init__(self) -> None:
        amounts = (self.limit.usd, self.limit.tokens, self.limit.requests)
        if all(amount is None for amount in amounts):
            raise ConfigError(
                f"budget {self.name!r} limits nothing", remedy="Give it usd, tokens or requests"
            )
        # NaN is not a limit, and asking it whether it is smaller raises.
        if self.limit.usd is not None and not self.limit.usd.is_finite():
            raise ConfigError(f"budget {self.name!r}: {self.limit.usd} is no amount of dollars")
        if any(amount is not None and not 0 <= amount < 10**15 for amount in amounts):
            raise ConfigError(f"budget {self.name!r}: a limit is from 0 up to 10^15")
        if self.soft_share is not None and not 0 < self.soft_share <= 1:
            raise ConfigError(f"budget {self.name!r}: soft_share is above 0 and at most 1")
        for scope in self.path:
            if (scope.kind == "tag") != (scope.name is not None):
                raise ConfigError(f"budget {self.name!r}: a tag scope, and no other, has a name")

    def counter_for(self, spender: Spender, now: datetime) -> str | None:
        """Name of the counter this spender is counted on now; ``None`` where it is not bound."""
        values = [spender.value_of(scope) for scope in self.path]
        for scope, value in zip(self.path, values, strict=True):
            if value is None or scope.value not in ("*", value):
                return None
        window = spender.run if self.period == "run" else window_of(self.period, now)
        if window is None:
            return None
        counter = json.dumps([self.name, self.period, window, *values])
        if len(counter) <= _MAX_COUNTER_CHARACTERS:
            return counter
        return hashlib.sha256(counter.encode()).hexdigest()

    def label_for(self, spender: Spender) -> str:
        """Whose counter it is, for a person to read."""
        parts = [
            f"{scope.name or scope.kind} {spender.value_of(scope)}"[:80] for scope in self.path
        ]
        return f"budget {self.name!r}" + (f" of {', '.join(parts)}" if parts else "")


def window_of(period: Period, now: datetime) -> str:
    """The calendar period ``now`` is in, by its first day.

    >>> window_of("week", datetime(2026, 11, 22, tzinfo=UTC))
    '2026-11-16'
    """
    day = now.astimezone(UTC).date()
    if period == "week":
        day -= timedelta(days=day.weekday())
    elif period == "month":
        day = day.replace(day=1)
    return day.isoformat()


def resets_at(period: Period, now: datetime) -> datetime | None:
    """When the period ends; ``None`` for a run, which does not.

    >>> resets_at("month", datetime(2026, 12, 5, tzinfo=UTC)).isoformat()
    '2027-01-01T00:00:00+00:00'
    """
    if period == "run":
        return None
    first = datetime.fromisoformat(window_of(period, now)).date()
    days = {"day": 1, "week": 7, "month": 32}[period]
    following = first + timedelta(days=days)
    if period == "month":
        following = following.replace(day=1)
    return datetime.combine(following, time(), UTC)


def estimate(
    price: Price | None,
    *,
    input_tokens: int,
    max_output_tokens: int,
    cache_write: Literal["5m", "1h"] | None = None,
) -> Amounts:
    """The most a call can come to: all input at its dearest, output to the last token.

    Args:
        price: The row that will price it; ``None`` is unpriced.
        input_tokens: As counted or estimated before the call.
        max_output_tokens: What the request or the card allows.
        cache_write: The longest lifetime of its breakpoints, if it has any.
    """
    written = input_tokens if cache_write else 0
    usage = Usage(
        input_tokens=input_tokens,
        output_tokens=max_output_tokens,
        cache_write_tokens=written,
        cache_write_1h_tokens=written if cache_write == "1h" else 0,
    )
    return Amounts(cost_usd(usage, price), input_tokens + max_output_tokens, 1)


def names_are_unique(budgets: Sequence[Budget]) -> None:
    """Two budgets of one name would share counters.

    Raises:
        ConfigError: Two have the same name.
    """
    seen: set[str] = set()
    for budget in budgets:
        if budget.name in seen:
            raise ConfigError(f"two budgets are called {budget.name!r}", remedy="Rename one")
        seen.add(budget.name)
