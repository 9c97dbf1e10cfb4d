"""The schema, as numbered steps that are never edited once released.

Both databases take the same steps: ``{usd}`` is exact decimal text in SQLite, which has no decimal
type, and ``numeric`` in PostgreSQL. A database remembers the last step it took; one that took more
steps than this version knows is left alone.
"""

from collections.abc import Mapping

from kimiya.ledger.budget_functions import RESERVE, SETTLE, SWEEP

TYPES: Mapping[str, Mapping[str, str]] = {
    "sqlite": {
        "usd": "TEXT",
        "blob": "BLOB",
        "real": "REAL",
        "strict": " STRICT",
        "keyed": " STRICT, WITHOUT ROWID",
    },
    "postgres": {
        "usd": "numeric",
        "blob": "bytea",
        "real": "double precision",
        "strict": "",
        "keyed": "",
    },
}
"""What a column type is called, by database."""

LEDGER_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE calls (
            call_id TEXT PRIMARY KEY,
            at_us BIGINT NOT NULL,
            day TEXT NOT NULL,
            key_id TEXT,
            conversation TEXT,
            user_id TEXT,
            run TEXT,
            front TEXT NOT NULL,
            model TEXT NOT NULL,
            route TEXT,
            outcome TEXT NOT NULL,
            repairs INTEGER NOT NULL,
            first_event_s {real},
            duration_s {real} NOT NULL,
            record {blob} NOT NULL
        ){strict}""",
        "CREATE INDEX calls_by_day ON calls (day, key_id)",
        """CREATE TABLE attempts (
            call_id TEXT NOT NULL,
            number INTEGER NOT NULL,
            is_last INTEGER NOT NULL,
            provider TEXT NOT NULL,
            model_id TEXT NOT NULL,
            profile TEXT,
            input_tokens BIGINT NOT NULL,
            output_tokens BIGINT NOT NULL,
            cache_read_tokens BIGINT NOT NULL,
            cache_write_tokens BIGINT NOT NULL,
            cache_write_1h_tokens BIGINT NOT NULL,
            reasoning_tokens BIGINT NOT NULL,
            usd {usd},
            is_unpriced INTEGER NOT NULL,
            saved_by_caching_usd {usd},
            saved_by_routing_usd {usd},
            predicted_usd {usd},
            error TEXT,
            duration_s {real} NOT NULL,
            PRIMARY KEY (call_id, number)
        ){keyed}""",
        """CREATE TABLE call_tags (
            call_id TEXT NOT NULL,
            name TEXT NOT NULL,
            value TEXT NOT NULL,
            PRIMARY KEY (call_id, name)
        ){keyed}""",
    ),
)


def statements(step: tuple[str, ...], database: str) -> tuple[str, ...]:
    """One step in the words of a database."""
    return tuple(_filled(statement, TYPES[database]) for statement in step)


def _filled(statement: str, types: Mapping[str, str]) -> str:
    # STRICT tables know INTEGER only; a BIGINT there would be refused.
    if types["strict"]:
        statement = statement.replace("BIGINT", "INTEGER")
    for name, kind in types.items():
        statement = statement.replace("{" + name + "}", kind)
    return statement


BUDGET_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE budget_counters (
            counter TEXT PRIMARY KEY,
            spent_usd {usd} NOT NULL,
            spent_tokens BIGINT NOT NULL,
            spent_requests BIGINT NOT NULL,
            reserved_usd {usd} NOT NULL,
            reserved_tokens BIGINT NOT NULL,
            reserved_requests BIGINT NOT NULL
        ){keyed}""",
        """CREATE TABLE budget_reservations (
            reservation_id TEXT PRIMARY KEY,
            state TEXT NOT NULL,
            expires_us BIGINT NOT NULL,
            usd {usd} NOT NULL,
            tokens BIGINT NOT NULL,
            requests BIGINT NOT NULL,
            counters TEXT NOT NULL
        ){keyed}""",
        "CREATE INDEX budget_reservations_by_expiry ON budget_reservations (state, expires_us)",
    ),
)

POSTGRES_BUDGET_FUNCTIONS: tuple[str, ...] = (RESERVE, SETTLE, SWEEP)
"""Step two of the budgets, where there are replicas."""
