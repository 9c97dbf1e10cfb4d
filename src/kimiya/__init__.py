"""Kimiya: one address in front of any host of Kimi or Claude.

In Python, without the gateway::

    import asyncio
    from kimiya import Request, assemble, effective_config, load_config, user

    async def main() -> None:
        app = assemble(effective_config(load_config()))
        outcome = await app.pipeline.complete(Request("kimi", (user("hello"),)))
        print(outcome.response.message.text, outcome.report.cost_usd)
        await app.aclose()

    asyncio.run(main())

Importing this loads nothing heavy: each name is fetched from its room when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kimiya.assembly import App, assemble
    from kimiya.catalog.card import ModelCard
    from kimiya.catalog.catalog import Catalog
    from kimiya.config.discovery import effective_config
    from kimiya.config.load import load_config
    from kimiya.config.settings import Config
    from kimiya.core.context import CallContext
    from kimiya.core.exchange import Request, Response, Sampling, Thinking, ToolSpec, Usage
    from kimiya.core.messages import Message, Text, ToolCall, ToolResult, system, user
    from kimiya.errors import KimiyaError
    from kimiya.pipeline import Call, Outcome, Pipeline, Report
    from kimiya.taming import OpenAITamer, tame_openai_stream

__version__ = "0.1.0"

_HOMES = {
    "App": "assembly",
    "Call": "pipeline",
    "CallContext": "core.context",
    "Catalog": "catalog.catalog",
    "Config": "config.settings",
    "KimiyaError": "errors",
    "Message": "core.messages",
    "ModelCard": "catalog.card",
    "OpenAITamer": "taming",
    "Outcome": "pipeline",
    "Pipeline": "pipeline",
    "Report": "pipeline",
    "Request": "core.exchange",
    "Response": "core.exchange",
    "Sampling": "core.exchange",
    "Text": "core.messages",
    "Thinking": "core.exchange",
    "ToolCall": "core.messages",
    "ToolResult": "core.messages",
    "ToolSpec": "core.exchange",
    "Usage": "core.exchange",
    "assemble": "assembly",
    "effective_config": "config.discovery",
    "load_config": "config.load",
    "system": "core.messages",
    "tame_openai_stream": "taming",
    "user": "core.messages",
}

__all__ = [
    "App",
    "Call",
    "CallContext",
    "Catalog",
    "Config",
    "KimiyaError",
    "Message",
    "ModelCard",
    "OpenAITamer",
    "Outcome",
    "Pipeline",
    "Report",
    "Request",
    "Response",
    "Sampling",
    "Text",
    "Thinking",
    "ToolCall",
    "ToolResult",
    "ToolSpec",
    "Usage",
    "assemble",
    "effective_config",
    "load_config",
    "system",
    "tame_openai_stream",
    "user",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kimiya' has no attribute {name!r}")
    return getattr(import_module(f"kimiya.{_HOMES[name]}"), name)
