"""Where the ledger is: a directory on this machine, or a PostgreSQL database for replicas.

A place is written as one string: ``postgresql://...`` is a database, anything else a directory that
holds ``ledger.sqlite``, ``budgets.sqlite`` and ``spool/``. The spool is always on this machine's
disk.
"""

from pathlib import Path

from kimiya.ledger.budget_store import BudgetStore
from kimiya.ledger.store import LedgerStore

DEFAULT_DIRECTORY = "~/.local/share/kimiya/ledger"
LEDGER_FILE = "ledger.sqlite"
BUDGETS_FILE = "budgets.sqlite"
SPOOL_DIRECTORY = "spool"


def is_postgres(place: str) -> bool:
    """Whether a place is a database.

    >>> is_postgres("postgresql://kimiya@db/costs"), is_postgres("~/costs")
    (True, False)
    """
    return place.startswith(("postgresql://", "postgres://"))


def ledger_store(place: str) -> LedgerStore:
    """The store at a place; nothing is opened yet.

    Raises:
        ModuleNotFoundError: It is PostgreSQL, and ``kimiya[postgres]`` is not installed.
    """
    if is_postgres(place):
        from kimiya.ledger.postgres import PostgresStore

        return PostgresStore(place)
    from kimiya.ledger.sqlite import SqliteStore

    return SqliteStore(Path(place).expanduser() / LEDGER_FILE)


def budget_store(place: str) -> BudgetStore:
    """The counters at a place; nothing is opened yet.

    Raises:
        ModuleNotFoundError: It is PostgreSQL, and ``kimiya[postgres]`` is not installed.
    """
    if is_postgres(place):
        from kimiya.ledger.budget_postgres import PostgresBudgets

        return PostgresBudgets(place)
    from kimiya.ledger.budget_sqlite import SqliteBudgets

    return SqliteBudgets(Path(place).expanduser() / BUDGETS_FILE)
