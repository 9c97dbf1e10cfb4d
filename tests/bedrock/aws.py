"""A simulated AWS account on a port, and the real boto3 before it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config

from kimiya.core.clock import VirtualClock
from kimiya.providers.simulated import parse_script
from kimiya.providers.simulated.bedrock import Policy, SimulatedBedrock
from kimiya.providers.simulated.server import running

REPLY = "reply\n  text: You said {user}.\n  usage: input=1 output=7"
SONNET = "anthropic.claude-sonnet-4-5-20250929-v1:0"
HAIKU = "anthropic.claude-haiku-4-5-20251001-v1:0"
K25 = "moonshotai.kimi-k2.5"
K3 = "moonshotai.kimi-k3"
NOVA = "amazon.nova-pro-v1:0"
NO_KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIA" + "S" * 16,
    "AWS_SECRET_ACCESS_KEY": "simulated",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""An environment that holds no person's credentials."""


class Account:
    """The account, its address, and the clock its caches end by."""

    def __init__(self, bedrock: SimulatedBedrock, clock: VirtualClock, url: str) -> None:
        self.bedrock = bedrock
        self.clock = clock
        self.url = url

    def client(self, service: str = "bedrock", region: str = "us-east-1") -> Any:
        """boto3, told of nothing but the address."""
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id=NO_KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key="simulated",
            config=Config(retries={"total_max_attempts": 1}),
        )

    def converse(self, model: str, text: str = "hi", region: str = "us-east-1", **more: Any) -> Any:
        """One call of Converse through boto3."""
        messages = [{"role": "user", "content": [{"text": text}]}]
        client = self.client("bedrock-runtime", region)
        return client.converse(**{"modelId": model, "messages": messages, **more})

    def pass_time(self, seconds: float) -> None:
        """Let the clock run."""
        self.clock._elapsed_s += seconds  # nothing sleeps on it; pyright: ignore


@contextmanager
def account(policy: Policy | None = None, script: str = REPLY) -> Iterator[Account]:
    """An account served from a thread of its own, for clients that block."""
    import asyncio

    clock = VirtualClock()
    bedrock = SimulatedBedrock(clock, policy)
    started, over, said = threading.Event(), threading.Event(), list[str]()

    async def serve() -> None:
        async with running(parse_script(script), clock=clock, aws=bedrock) as host:
            said.append(host.base_url)
            started.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(30)
        yield Account(bedrock, clock, said[0])
    finally:
        over.set()
        thread.join(30)
