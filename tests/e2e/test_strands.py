"""Strands agents through the gateway, over its Bedrock and its OpenAI model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from strands import Agent, tool
from strands.models import BedrockModel
from strands.models.openai import OpenAIModel

from tests.e2e.files import WRITTEN, run_tool

Maker = Callable[[str], Any]


def _bedrock(gateway: str, model: str) -> BedrockModel:
    session = boto3.Session(
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="made-up",
        region_name="us-east-1",
    )
    return BedrockModel(
        boto_session=session,
        boto_client_config=Config(proxies={}),
        endpoint_url=gateway,
        model_id=model,
        temperature=0,
        max_tokens=60,
    )


def _openai(gateway: str, model: str) -> OpenAIModel:
    return OpenAIModel(
        client_args={"base_url": f"{gateway}/v1", "api_key": "none"},
        model_id=model,
        params={"temperature": 0, "max_tokens": 60},
    )


@pytest.fixture(params=[_bedrock, _openai], ids=["BedrockModel", "OpenAIModel"])
def model(request: pytest.FixtureRequest, gateway: str) -> Maker:
    return lambda name: request.param(gateway, name)


def test_an_agent_writes_a_file(model: Maker, tmp_path: Path) -> None:
    @tool
    def write_file(path: str, text: str) -> str:
        """Write a text file.

        Args:
            path: Where.
            text: What.
        """
        return run_tool(tmp_path, "write_file", {"path": path, "text": text})

    @tool
    def read_file(path: str) -> str:
        """Read a text file.

        Args:
            path: Which.
        """
        return run_tool(tmp_path, "read_file", {"path": path})

    agent = Agent(model=model("sim"), tools=[write_file, read_file], callback_handler=None)
    result = agent("loop: note.txt")
    assert str(result).strip() == f"It holds: {WRITTEN}"
    assert (tmp_path / "note.txt").read_text() == WRITTEN
    assert [message["role"] for message in agent.messages] == ["user", "assistant"] * 3


def test_an_agent_talks_with_the_embedded_model(model: Maker, embedded: str) -> None:
    agent = Agent(
        model=model(embedded),
        system_prompt="You are a helpful assistant.",
        callback_handler=None,
    )
    assert "Paris" in str(agent("What is the capital of France?"))
