"""What is asked of a model and what comes back, free of any wire format.

``Request`` and ``Response`` are what the pipeline, taming, caching, the agent and the swarm speak.
Token counts have one meaning everywhere: ``input_tokens`` includes cache reads and writes, and
``output_tokens`` includes reasoning, whatever the host's own arithmetic is.
"""

from typing import Literal, TypeAlias

from msgspec import Struct

from kimiya.core.messages import NO_EXTRAS, Breakpoint, Extras, JsonValue, Message, Part

FinishReason: TypeAlias = Literal[
    "stop",
    "stop_sequence",
    "length",
    "tool_calls",
    "content_filter",
    "refusal",
    "pause",
    "context_window",
    "unknown",
]
"""Why the model stopped. ``unknown`` is a word we have not seen before, kept in
``raw_finish_reason``; ``pause`` asks the client to send the turn back as it is (Anthropic)."""

Mode: TypeAlias = Literal["instant", "thinking"]
Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ToolSpec(Struct, frozen=True):
    """A tool the model may call."""

    name: str
    description: str | None = None
    parameters: JsonValue = None
    """JSON Schema of the arguments; ``None`` where the client gave none."""
    strict: bool | None = None
    cache: Breakpoint | None = None
    kind: str = "function"
    """``function``, or a host's own kind (``builtin_function``, ``web_search_20250305``), whose
    definition then stands verbatim in ``extras``; only the dialect it came from writes it."""
    extras: Extras = NO_EXTRAS


class AutoChoice(Struct, frozen=True, tag="auto"):
    """The model decides."""


class NoChoice(Struct, frozen=True, tag="none"):
    """No tool may be called."""


class RequiredChoice(Struct, frozen=True, tag="required"):
    """Some tool must be called."""


class NamedChoice(Struct, frozen=True, tag="named"):
    """This tool must be called."""

    name: str


ToolChoice: TypeAlias = AutoChoice | NoChoice | RequiredChoice | NamedChoice


class Sampling(Struct, frozen=True):
    """How tokens are drawn; ``None`` leaves a setting to the host."""

    temperature: float | None = None
    """In the model's own scale, whatever a host multiplies it by."""
    top_p: float | None = None
    top_k: int | None = None
    max_output_tokens: int | None = None
    """Reasoning included."""
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    n: int | None = None


class Thinking(Struct, frozen=True):
    """What the caller wants of the model's reasoning; all ``None`` leaves it to the host."""

    enabled: bool | None = None
    effort: Effort | None = None
    budget_tokens: int | None = None
    """Anthropic's explicit budget."""
    adaptive: bool = False
    """Anthropic's ``{"type": "adaptive"}``: the model decides how much."""


class ResponseFormat(Struct, frozen=True):
    """The shape the visible reply must have."""

    kind: Literal["json_object", "json_schema"]
    schema: JsonValue = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class Request(Struct, frozen=True):
    """One call of a model."""

    model: str
    """As the caller wrote it; the catalogue resolves it."""
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    sampling: Sampling = Sampling()
    thinking: Thinking = Thinking()
    response_format: ResponseFormat | None = None
    stream: bool = False
    stream_usage: bool = True
    """Whether a streaming caller wants usage reported; only OpenAI Chat makes it optional."""
    user: str | None = None
    """The caller's own end-user id."""
    metadata: Extras = NO_EXTRAS
    dialect: str = ""
    """Name of the dialect it was decoded from; ``""`` when built in Python. ``extras`` are written
    back only by that dialect."""
    extras: Extras = NO_EXTRAS


class Usage(Struct, frozen=True):
    """Tokens of one call."""

    input_tokens: int = 0
    """Everything read, cache reads and writes included."""
    output_tokens: int = 0
    """Everything written, reasoning included."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    """All writes, whatever their lifetime."""
    cache_write_1h_tokens: int = 0
    """The part of ``cache_write_tokens`` that was written for one hour."""
    reasoning_tokens: int = 0

    @property
    def fresh_input_tokens(self) -> int:
        """Input billed at the plain price.

        >>> Usage(input_tokens=10, cache_read_tokens=6, cache_write_tokens=1).fresh_input_tokens
        3
        """
        return self.input_tokens - self.cache_read_tokens - self.cache_write_tokens


class Response(Struct, frozen=True):
    """One finished reply."""

    response_id: str
    model: str
    """As the host names it."""
    parts: tuple[Part, ...]
    finish_reason: FinishReason
    raw_finish_reason: str | None = None
    stop_sequence: str | None = None
    """Which stop sequence was met, where the host says."""
    usage: Usage | None = None
    """``None`` where the host reported none; never zeros made up."""
    created: int | None = None
    """Unix seconds, as the host gave it."""
    extras: Extras = NO_EXTRAS

    @property
    def message(self) -> Message:
        """The reply as a message that can stand in a history."""
        return Message("assistant", self.parts)


class Adjustment(Struct, frozen=True):
    """Something Kimiya changed in a request so that this model at this host accepts it."""

    code: str
    """Short and stable, such as ``temperature_fixed``: for headers, metrics and tests."""
    detail: str
    """A sentence: what was changed, from what to what, and why."""
    path: str | None = None
    """Where in the request, such as ``messages[3]``."""


class Repair(Struct, frozen=True):
    """Something taming mended in a reply, with its provenance."""

    code: str
    """Short and stable, such as ``call_from_reasoning``."""
    detail: str
    """What was seen and what was made of it."""
    channel: Literal["content", "reasoning", "name", "arguments", "framing", "finish_reason", "id"]
    """Where the damage stood."""


class Defect(Struct, frozen=True):
    """Something wrong in a reply, whether or not it could be mended."""

    code: str
    detail: str
    excerpt: str = ""
    """The bytes in question, at most 200 characters."""


class Verdict(Struct, frozen=True):
    """How a turn came out."""

    outcome: Literal["ok", "repaired", "retried", "failed", "retry"] = "ok"
    """``retry`` stands only where nobody is there to ask again (offline replay)."""
    repairs: tuple[Repair, ...] = ()
    defects: tuple[Defect, ...] = ()
    reason: str | None = None
    """Why it was retried or failed."""
