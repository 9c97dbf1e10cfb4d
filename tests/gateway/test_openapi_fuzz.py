"""The published OpenAPI, fuzzed: whatever is sent, the gateway never answers 500.

Schemathesis makes bodies that fit the description and bodies that do not; both go through the whole
path to a simulated host inside the process.
"""

import tempfile
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.schemas import OpenApiSchema

from kimiya.assembly import assemble
from kimiya.config.settings import Config, ProviderConfig, RouteConfig
from tests.gateway.driver import gateway_over


def described() -> OpenApiSchema:
    """The schema of a gateway whose every model name leads to a simulated host."""
    app = assemble(
        Config(
            providers={"sim": ProviderConfig(kind="simulated", host="sim")},
            routes={"*": RouteConfig(targets=("sim:echo",), retries=0)},
        ),
        env={},
    )
    gateway = gateway_over(app, Path(tempfile.mkdtemp()))
    return schemathesis.openapi.from_asgi("/openapi.json", gateway)


SCHEMA = described()
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]
CASES = [
    (operation, mode)
    for operation in OPERATIONS
    for mode in GenerationMode
    # A page takes no body, so there is nothing that could be wrong with its request.
    if operation.method == "post" or mode is GenerationMode.POSITIVE
]


@pytest.mark.parametrize(
    ("operation", "mode"), CASES, ids=[f"{op.label} {mode.value}" for op, mode in CASES]
)
def test_nothing_that_is_sent_makes_a_500(operation: APIOperation, mode: GenerationMode) -> None:
    @given(operation.as_strategy(generation_mode=mode))
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    def send(case: schemathesis.Case) -> None:
        answer = case.call()
        assert answer.status_code != 500, f"{case.as_curl_command()}\n{answer.text}"

    send()


def test_the_published_paths_are_the_served_ones() -> None:
    from kimiya.gateway.openapi import openapi_document
    from kimiya.wire.dialects import DIALECTS

    published = set(openapi_document()["paths"])
    served = {route.path for dialect in DIALECTS.values() for route in dialect.routes}
    assert served <= published, served - published
    assert Path("/healthz").as_posix() in published
