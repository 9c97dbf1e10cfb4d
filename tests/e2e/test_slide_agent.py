"""A slide agent on Strands and Bedrock, moved to Kimiya by its endpoint alone.

Kimi at Bedrock breaks such an agent in five ways: control tokens in a tool's name, a call left in
the reasoning, a deck typed into the chat, reasoning shown as text, and cache options refused. The
host here is a simulated AWS account that does all five; the agent's code is the same before it and
before the gateway.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from strands import Agent, tool
from strands.models import BedrockModel, CacheConfig
from strands.types.exceptions import EventLoopException

from tests.bedrock.aws import NO_KEYS, Account, account
from tests.e2e.gateways import serving
from tests.e2e.tripwire import Tripwire

KIMI = "moonshotai.kimi-k2.5"
TOPICS = {
    "Tea": "Leaves",
    "Coffee": "Beans",
    "Water": "Springs",
    "Milk": "Cows",
    "Juice": "Apples",
    "Soda": "Bubbles",
}
CONFIG = """\
[gateway]
keys_file = "{folder}/keys.json"
log = "warning"

[providers.aws]
kind = "bedrock"
region = "us-east-1"
endpoint_url = "{url}"

[routes."{model}"]
targets = ["aws:{model}"]

[taming.prose.make_deck]
kind = "marp"
argument = "markdown"
"""
SCRIPT = (Path(__file__).parent / "slides.txt").read_text(encoding="utf-8")


class SlideAgent:
    """The user's program: two tools, one of which really writes the decks."""

    def __init__(self, endpoint: str, folder: Path, *, streams: bool, caches: bool = True) -> None:
        self.shown = ""
        """What the user saw in the chat."""
        self.decks = folder
        cache: dict[str, Any] = {}
        if caches:
            points = CacheConfig(strategy="anthropic", tools_ttl=True, system_prompt_ttl=True)
            cache = {"cache_config": points}
        model = BedrockModel(
            boto_session=boto3.Session(
                aws_access_key_id=NO_KEYS["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key="simulated",
                region_name="us-east-1",
            ),
            boto_client_config=Config(proxies={}, retries={"total_max_attempts": 1}),
            endpoint_url=endpoint,
            model_id=KIMI,
            streaming=streams,
            **cache,
        )

        @tool
        def web_search(query: str) -> str:
            """Search the web.

            Args:
                query: For what.
            """
            return f"found: {query}"

        @tool
        def make_deck(markdown: str) -> str:
            """Make slides.

            Args:
                markdown: The deck, in Marp's Markdown.
            """
            title = markdown.split("# ", 1)[1].split("\n", 1)[0]
            (folder / f"{title}.md").write_text(markdown, encoding="utf-8")
            return "made"

        self.agent = Agent(
            model=model,
            tools=[web_search, make_deck],
            system_prompt="You make slides.",
            callback_handler=self._show,
        )

    def _show(self, **said: Any) -> None:
        self.shown += said.get("data", "")

    def delivered(self) -> dict[str, str]:
        """The decks that were really written, by title."""
        return {p.stem: p.read_text(encoding="utf-8") for p in sorted(self.decks.glob("*.md"))}


@pytest.fixture
def aws() -> Iterator[Account]:
    with account(script=SCRIPT) as simulated:
        yield simulated


@pytest.fixture
def endpoint(aws: Account, tmp_path: Path, tripwire: Tripwire) -> Iterator[str]:
    """A gateway before the account."""
    env = {name: text for name, text in os.environ.items() if not name.startswith("KIMIYA_")}
    env |= tripwire.environment | NO_KEYS
    config = CONFIG.format(folder=tmp_path, url=aws.url, model=KIMI)
    with serving(config, tmp_path, env) as url:
        yield url


def expected(title: str) -> str:
    theme = "theme: gaia\n" if title == "Water" else ""
    return f"---\nmarp: true\n{theme}---\n# {title}\n\n---\n\n## {TOPICS[title]}"


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_every_deck_is_delivered(endpoint: str, tmp_path: Path, streams: bool) -> None:
    folder = tmp_path / "decks"
    folder.mkdir()
    slides = SlideAgent(endpoint, folder, streams=streams)
    for title in TOPICS:
        result = slides.agent(f"Slides about {title.lower()}, please")
        assert str(result).strip() == "Your slides are ready."
    assert slides.delivered() == {title: expected(title) for title in sorted(TOPICS)}
    for wrong in ("<|", "marp", "think>", "cream", "The user wants"):
        assert wrong not in slides.shown
    assert "I look it up." in slides.shown
    assert "Here are your slides:" in slides.shown
    assert "I make them." in slides.shown
    names = {
        c["toolUse"]["name"] for m in slides.agent.messages for c in m["content"] if "toolUse" in c
    }
    assert names == {"web_search", "make_deck"}


def test_the_same_agent_straight_at_the_host_is_refused(aws: Account, tmp_path: Path) -> None:
    slides = SlideAgent(aws.url, tmp_path, streams=True)
    with pytest.raises((ClientError, EventLoopException), match="prompt caching"):
        slides.agent("Slides about juice, please")


def test_and_without_caching_it_delivers_less_and_shows_more(aws: Account, tmp_path: Path) -> None:
    for title in TOPICS:
        slides = SlideAgent(aws.url, tmp_path, streams=True, caches=False)
        slides.agent(f"Slides about {title.lower()}, please")
        if title == "Water":
            assert "marp: true" in slides.shown
        if title == "Milk":
            assert "my secret plan" in slides.shown
    assert sorted(slides.delivered()) == ["Juice", "Milk"]
