"""Strands' own OpenAI model drops reasoning; through the gateway Kimi sees it all the same."""

import os
from pathlib import Path

import pytest
from strands import Agent, tool
from strands.models.openai import OpenAIModel

from tests.e2e.gateways import serving
from tests.e2e.hosts import served
from tests.e2e.tripwire import Tripwire

CONFIG = """\
[gateway]
keys_file = "{folder}/keys.json"
log = "warning"

[providers.up]
kind = "openai"
host = "{host}"
base_url = "{url}"
api_key_env = "UP_KEY"

[routes.kimi]
targets = ["up:{model}"]
"""
SCRIPT = """
reply when turn 1
  reasoning: I count to one.
  call count: {"to": 1}

reply when turn 2
  reasoning: I count to two.
  text: And on.
  call count: {"to": 2}

reply
  text: Done: {result}
"""


@pytest.mark.parametrize(
    ("host", "model"), [("vllm", "kimi-k2.5"), ("moonshot", "kimi-k2.6")], ids=["vllm", "moonshot"]
)
def test_the_host_sees_the_reasoning_of_its_running_tool_loop(
    host: str, model: str, tmp_path: Path, tripwire: Tripwire
) -> None:
    @tool
    def count(to: int) -> str:
        """Count.

        Args:
            to: How far.
        """
        return f"counted to {to}"

    env = {name: text for name, text in os.environ.items() if not name.startswith("KIMIYA_")}
    env |= tripwire.environment | {"UP_KEY": "made-up"}
    with served(SCRIPT) as up:
        config = CONFIG.format(folder=tmp_path, host=host, url=up.base_url, model=model)
        with serving(config, tmp_path, env) as gateway:
            client = {"base_url": f"{gateway}/v1", "api_key": "none"}
            agent = Agent(
                model=OpenAIModel(client_args=client, model_id="kimi"),
                tools=[count],
                callback_handler=None,
            )
            assert str(agent("Count")).strip() == "Done: counted to 2"
        seen = up.host.last_request
    assert seen is not None
    told = [message.reasoning for message in seen.messages if message.role == "assistant"]
    assert told == ["I count to one.", "I count to two."]
