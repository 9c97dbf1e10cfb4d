"""One gateway for all clients: ``kimiya serve`` as a process, before two models on this machine.

No client may leave loopback: a proxy that refuses everything stands in its way.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kimiya.providers import local_model
from tests.e2e.gateways import serving
from tests.e2e.tripwire import Tripwire

HERE = Path(__file__).parent
CONFIG = """\
[gateway]
keys_file = "{folder}/keys.json"
log = "warning"

[ledger]
path = "{folder}/ledger.db"
spool = "{folder}/spool"

[providers.sim]
kind = "simulated"
host = "moonshot"
script = "{script}"

[routes.sim]
targets = ["sim:kimi-k2.5"]
retries = 0
"""
LOCAL = """
[providers.local]
kind = "local"
slots = 1
context_tokens = 2048

# Greedy, so that a client that sets no temperature gets the same reply each time.
[[models]]
host = "local"
model_id = "smollm2-135m-instruct"
recommended = { instant = { temperature = 0 } }

[routes.small]
targets = ["local:smollm2-135m-instruct"]
"""


@pytest.fixture(scope="session")
def tripwire() -> Iterator[Tripwire]:
    """The proxy in the way of everything but loopback."""
    with Tripwire() as tripwire:
        yield tripwire


@pytest.fixture(autouse=True)
def _loopback_only(tripwire: Tripwire) -> Iterator[None]:
    before = len(tripwire.tried)
    yield
    assert tripwire.tried[before:] == [], "a client tried to leave loopback"


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, tripwire: Tripwire) -> Iterator[str]:
    """The address of a running gateway; it must stop cleanly in the end."""
    folder = tmp_path_factory.mktemp("gateway")
    config = CONFIG.format(folder=folder, script=HERE / "script.txt")
    if local_model.is_installed():
        config += LOCAL
    env = {name: text for name, text in os.environ.items() if not name.startswith("KIMIYA_")}
    with serving(config, folder, env | tripwire.environment) as address:
        yield address


@pytest.fixture(scope="session")
def embedded(gateway: str) -> str:
    """The embedded model's name at the gateway."""
    if not local_model.is_installed():
        pytest.skip("the embedded model is missing: kimiya local install")
    return "small"
