"""What a report asks of a store, and the SQL for it that both databases understand.

Sums run over attempts, joined to their calls: a retry on another model is money spent there. The
figures that belong to a call (routing, prediction) stand on its last attempt, so nothing is counted
twice whatever the grouping.
"""

from datetime import date
from decimal import Decimal
from typing import Literal, TypeAlias

from msgspec import Struct

from kimiya.errors import ConfigError

Grouping: TypeAlias = Literal[
    "model", "key", "tag", "conversation", "user", "run", "day", "provider", "route", "total"
]

GROUPINGS: tuple[Grouping, ...] = (
    "model", "key", "tag", "conversation", "user", "run", "day", "provider", "route", "total",
)  # fmt: skip

_GROUP_SQL: dict[Grouping, str] = {
    "model": "coalesce(a.model_id, c.model)",
    "key": "coalesce(c.key_id, '')",
    "tag": "coalesce(t.value, '')",
    "conversation": "coalesce(c.conversation, '')",
    "user": "coalesce(c.user_id, '')",
    "run": "coalesce(c.run, '')",
    "day": "c.day",
    "provider": "coalesce(a.provider, '')",
    "route": "coalesce(c.route, '')",
    "total": "'total'",
}


class CostQuery(Struct, frozen=True, kw_only=True):
    """Which calls, grouped by what."""

    by: Grouping = "model"
    tag: str | None = None
    """Name of the tag to group by, for ``by="tag"``."""
    since: date | None = None
    """First day, UTC."""
    until: date | None = None
    """Last day, included, UTC."""
    key_id: str | None = None
    """Only this key's calls."""

    def __post_init__(self) -> None:
        if (self.by == "tag") != (self.tag is not None):
            raise ConfigError("a report by tag needs the tag's name", remedy="--by tag:department")
        if self.since and self.until and self.since > self.until:
            raise ConfigError(f"--since {self.since} is after --until {self.until}")


class CostRow(Struct, frozen=True, kw_only=True):
    """One line of a report."""

    group: str
    """Model id, key, tag value, day; ``""`` where a call had none."""
    calls: int = 0
    attempts: int = 0
    """More than ``calls`` where some were tried again."""
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    usd: Decimal = Decimal(0)
    """Dollars of everything that has a price, to the last digit."""
    unpriced_attempts: int = 0
    """Attempts that cost something nobody knows."""
    saved_by_caching_usd: Decimal = Decimal(0)
    saved_by_routing_usd: Decimal = Decimal(0)
    predicted_usd: Decimal = Decimal(0)
    repaired_calls: int = 0

    @property
    def cache_hit_rate(self) -> float | None:
        """Share of input tokens that were read from a cache; ``None`` without input."""
        return self.cache_read_tokens / self.input_tokens if self.input_tokens else None


def costs_sql(query: CostQuery) -> tuple[str, list[str]]:
    """The statement and its arguments; placeholders are ``$1``, ``$2``, as PostgreSQL has them."""
    arguments: list[str] = []
    wheres: list[str] = []

    def bound(value: str) -> str:
        arguments.append(value)
        return f"${len(arguments)}"

    tags = ""
    if query.tag is not None:
        tags = f" LEFT JOIN call_tags t ON t.call_id = c.call_id AND t.name = {bound(query.tag)}"
    if query.since is not None:
        wheres.append(f"c.day >= {bound(query.since.isoformat())}")
    if query.until is not None:
        wheres.append(f"c.day <= {bound(query.until.isoformat())}")
    if query.key_id is not None:
        wheres.append(f"c.key_id = {bound(query.key_id)}")
    where = f" WHERE {' AND '.join(wheres)}" if wheres else ""
    # Only this file's own words are joined here; what the user gave is bound.
    statement = (
        f"SELECT {_GROUP_SQL[query.by]} AS grouped, {_SUMS}"  # noqa: S608
        f" FROM calls c LEFT JOIN attempts a ON a.call_id = c.call_id{tags}{where}"
        " GROUP BY 1 ORDER BY 1"
    )
    return statement, arguments


_SUMS = """
 sum(CASE WHEN a.call_id IS NULL OR a.is_last = 1 THEN 1 ELSE 0 END),
 count(a.call_id), sum(a.input_tokens), sum(a.output_tokens), sum(a.cache_read_tokens),
 sum(a.cache_write_tokens), sum(a.reasoning_tokens), sum_usd(a.usd), sum(a.is_unpriced),
 sum_usd(a.saved_by_caching_usd), sum_usd(a.saved_by_routing_usd), sum_usd(a.predicted_usd),
 sum(CASE WHEN (a.call_id IS NULL OR a.is_last = 1) AND c.repairs > 0 THEN 1 ELSE 0 END)"""


def cost_row(cells: "tuple[str | int | Decimal | None, ...]") -> CostRow:
    """A row of the answer, in the order of the statement."""
    group, *sums = cells
    names = CostRow.__struct_fields__[1:]
    kinds = {name: Decimal if name.endswith("_usd") or name == "usd" else int for name in names}
    figures = {
        name: kinds[name](figure) if figure is not None else kinds[name](0)
        for name, figure in zip(names, sums, strict=True)
    }
    return CostRow(group=str(group), **figures)  # pyright: ignore[reportArgumentType]
