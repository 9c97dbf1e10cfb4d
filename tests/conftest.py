"""What holds for every test: chance is printed, no law is timed, nobody's own ledger is written."""

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "kimiya", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("ci", parent=settings.get_profile("kimiya"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "kimiya")


@pytest.fixture(autouse=True)
def _own_books(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reads a configuration keeps its books in a folder of the test run."""
    folder = tmp_path_factory.getbasetemp() / "books"
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("KIMIYA_LEDGER__PATH", str(folder / "ledger.db"))
    monkeypatch.setenv("KIMIYA_LEDGER__SPOOL", str(folder / "spool"))
