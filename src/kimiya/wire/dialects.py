"""Every dialect there is, by name."""

from collections.abc import Mapping

from kimiya.wire.anthropic_messages import ANTHROPIC_MESSAGES
from kimiya.wire.bedrock_converse import BEDROCK_CONVERSE
from kimiya.wire.dialect import Dialect
from kimiya.wire.openai_chat import OPENAI_CHAT
from kimiya.wire.openai_responses import OPENAI_RESPONSES

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (OPENAI_CHAT, OPENAI_RESPONSES, ANTHROPIC_MESSAGES, BEDROCK_CONVERSE)
}
"""In the order fronts are listed."""
