"""The simulated provider, and the HTTP provider in each of its dialects, keep the contract."""

import contextlib
from collections.abc import AsyncGenerator

from kimiya.catalog.catalog import unknown_card
from kimiya.providers.http import HttpProvider
from kimiya.providers.provider import Provider
from kimiya.providers.simulated import SimulatedProvider, parse_script
from kimiya.providers.transport import AiohttpTransport, Timeouts
from kimiya.wire.anthropic_messages import ANTHROPIC_MESSAGES
from kimiya.wire.openai_chat import OPENAI_CHAT
from kimiya.wire.openai_responses import OPENAI_RESPONSES
from tests.contracts.provider import PATIENT, ScriptedContract, ServedContract, Subject


class TestSimulated(ScriptedContract):
    @contextlib.asynccontextmanager
    async def playing(
        self, script: str, timeouts: Timeouts = PATIENT
    ) -> AsyncGenerator[Subject, None]:
        provider = SimulatedProvider("simulated", parse_script(script), timeouts=timeouts)
        yield Subject(provider, unknown_card("simulated", "kimi-simulated", "openai_chat"))


class _Http(ServedContract):
    def connect(self, base_url: str, timeouts: Timeouts) -> Provider:
        transport = AiohttpTransport(timeouts)
        return HttpProvider("host", base_url, "sk-simulated", self.dialect, transport)


class TestOpenAiChat(_Http):
    dialect = OPENAI_CHAT


class TestOpenAiResponses(_Http):
    dialect = OPENAI_RESPONSES


class TestAnthropicMessages(_Http):
    dialect = ANTHROPIC_MESSAGES
