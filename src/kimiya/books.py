"""From a configuration to open books: ledger, budgets and rate limits.

SQLite unless a PostgreSQL address is configured; then every replica shares the same counters.
"""

from collections.abc import Mapping
from pathlib import Path

from kimiya.config.settings import BudgetConfig, Config, LedgerConfig
from kimiya.core.clock import Clock
from kimiya.errors import ConfigError
from kimiya.ledger.budget import Budget, Limit, Scope, ScopeKind
from kimiya.ledger.budget_store import BudgetStore
from kimiya.ledger.budgets import BudgetPolicy, Budgets
from kimiya.ledger.ledger import Ledger, LedgerPolicy
from kimiya.ledger.rate_limits import RateLimit, RateLimits
from kimiya.ledger.store import LedgerStore
from kimiya.pipeline.accounts import Accounts, Listener

_KINDS: Mapping[str, ScopeKind] = {
    "key": "key",
    "user": "user",
    "conversation": "conversation",
    "run": "run",
}


async def open_accounts(config: Config, clock: Clock, env: Mapping[str, str]) -> Accounts:
    """Open what is configured.

    Raises:
        LedgerError: The ledger's files cannot be used.
        ConfigError: A budget cannot be read, or the database's address is not set.
    """
    ledger = None
    if config.ledger.enabled:
        ledger = await Ledger.open(
            ledger_store(config.ledger, env),
            _path(config.ledger.spool),
            policy=LedgerPolicy(when_full=config.ledger.when_full),
            clock=clock,
        )
    budgets = None
    if config.budgets:
        budgets = Budgets(
            [budget_of(name, settings) for name, settings in config.budgets.items()],
            _budget_store(config.ledger, env),
            policy=BudgetPolicy(when_away=config.ledger.when_away),
            clock=clock,
        )
    limits = {
        key: RateLimit(
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
        )
        for key, settings in config.limits.items()
    }
    return Accounts(
        clock,
        ledger=ledger,
        budgets=budgets,
        rate_limits=RateLimits(clock.monotonic) if limits else None,
        limits=limits,
        listener=_emf_log(config.ledger),
    )


def _emf_log(settings: LedgerConfig) -> Listener | None:
    if settings.emf is None:
        return None
    from kimiya.bedrock.metrics import EmfFormat, EmfLog

    path = settings.emf if settings.emf == "-" else _path(settings.emf)
    return EmfLog(path, EmfFormat(settings.emf_namespace, settings.emf_tags))


def ledger_store(settings: LedgerConfig, env: Mapping[str, str]) -> LedgerStore:
    """The configured store, not yet opened.

    Raises:
        ConfigError: The database's address is not set.
    """
    if settings.postgres_env is not None:
        from kimiya.ledger.postgres import PostgresStore

        return PostgresStore(_dsn(settings.postgres_env, env))
    from kimiya.ledger.sqlite import SqliteStore

    return SqliteStore(_file(settings))


def budget_of(name: str, settings: BudgetConfig) -> Budget:
    """A budget as it is configured.

    >>> from decimal import Decimal
    >>> budget_of("team", BudgetConfig(usd=Decimal(5), per=("key=k1", "user"))).path
    (Scope(kind='key', value='k1', name=None), Scope(kind='user', value='*', name=None))

    Raises:
        ConfigError: It cannot be read.
    """
    return Budget(
        name=name,
        limit=Limit(usd=settings.usd, tokens=settings.tokens, requests=settings.requests),
        period=settings.period,
        path=tuple(_scope(name, text) for text in settings.per),
        soft_share=settings.soft_share,
        unpriced=settings.unpriced,
    )


def _scope(budget: str, text: str) -> Scope:
    kind, _, value = text.partition("=")
    if kind.startswith("tag:") and len(kind) > len("tag:"):
        return Scope("tag", value or "*", kind.removeprefix("tag:"))
    if kind not in _KINDS:
        raise ConfigError(
            f"{text!r} binds nobody",
            key=f"budgets.{budget}.per",
            remedy="Write key, user, conversation, run or tag:NAME, each alone or with =VALUE",
        )
    return Scope(_KINDS[kind], value or "*")


def _budget_store(settings: LedgerConfig, env: Mapping[str, str]) -> BudgetStore:
    if settings.postgres_env is not None:
        from kimiya.ledger.budget_postgres import PostgresBudgets

        return PostgresBudgets(_dsn(settings.postgres_env, env))
    from kimiya.ledger.budget_sqlite import SqliteBudgets

    path = _file(settings)
    return SqliteBudgets(path.with_name(f"{path.stem}-budgets.db"))


def _file(settings: LedgerConfig) -> Path:
    path = _path(settings.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _dsn(variable: str, env: Mapping[str, str]) -> str:
    dsn = env.get(variable, "").strip()
    if not dsn:
        raise ConfigError(
            f"the variable {variable} is not set",
            key="ledger.postgres_env",
            remedy=f"export {variable}=postgresql://..., or take the line out for SQLite",
        )
    return dsn
