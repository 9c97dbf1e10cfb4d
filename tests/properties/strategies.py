"""Hypothesis strategies for the values a dialect can express.

``requests_for(name)``, ``responses_for(name)`` and ``streams_for(name)`` draw values in the
dialect's normal form: the ones for which ``decode(encode(x)) == x`` must hold exactly. What a
dialect is known to normalise (two adjacent assistant messages where it has only one turn, an empty
text where the wire says ``null``) is not drawn. A ``Profile`` says what that is; take one from
``PROFILES`` and ``dataclasses.replace`` it to widen or narrow a law.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import strategies as st

from kimiya.core.events import (
    Finish,
    PartEnd,
    ReasoningDelta,
    StreamEvent,
    StreamStart,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from kimiya.core.exchange import (
    AutoChoice,
    FinishReason,
    NamedChoice,
    NoChoice,
    Request,
    RequiredChoice,
    Response,
    ResponseFormat,
    Sampling,
    Thinking,
    ToolSpec,
    Usage,
)
from kimiya.core.fold import unfold
from kimiya.core.messages import (
    Breakpoint,
    HostFile,
    Image,
    Inline,
    Message,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Url,
    Video,
)


@dataclass(frozen=True, eq=False)
class Profile:
    """What one dialect can express, as far as the laws need to know."""

    dialect: str
    image_sources: tuple[type, ...] = (Url, Inline)
    image_detail: bool = True
    image_types: tuple[str, ...] = ("image/png", "image/jpeg", "image/webp", "image/gif")
    video_sources: tuple[type, ...] = ()
    result_images: bool = True
    """Pictures may stand in a tool result."""
    system_anywhere: bool = True
    """System and developer messages may stand anywhere, each as its own message; otherwise one
    system message may open the request."""
    merges_assistant: bool = False
    """Adjacent assistant messages are one on the wire."""
    alternates: bool = False
    """No two adjacent messages may have the same side (user and tool are one side)."""
    names: bool = True
    cache: bool = True
    cache_ttls: tuple[Any, ...] = (None, "5m", "1h")
    cache_on_calls: bool = True
    cache_in_results: bool = True
    """Content of a tool result may be marked, not only the result."""
    reasoning: Callable[[], st.SearchStrategy[Reasoning]] | None = None
    reply_reasoning: Callable[[], st.SearchStrategy[Reasoning]] | None = None
    ordered_channels: bool = True
    """A turn is reasoning, then texts, then calls; otherwise any order."""
    one_reply_text: bool = True
    result_error: bool = False
    result_names: bool = True
    sampling: tuple[str, ...] = ("temperature", "top_p", "max_output_tokens", "stop")
    max_output_required: bool = False
    thinking: Callable[[], st.SearchStrategy[Thinking]] = lambda: st.just(Thinking())
    response_format: bool = True
    parallel_tool_calls: bool = True
    parallel_needs_choice: bool = False
    choices: tuple[str, ...] = ("auto", "none", "required", "named")
    choice_needs_tools: bool = False
    strict_tools: bool = True
    user: bool = True
    metadata: bool = True
    optional_usage: bool = False
    """A streaming caller may leave usage out (``stream_usage``)."""
    model_in_body: bool = True
    object_arguments: bool = False
    """Arguments are JSON values on the wire, so only their compact normal form comes back."""
    finishes: Mapping[FinishReason, str | None] = field(default_factory=dict)
    """Finish reasons that come back as they are, with the wire's word for each."""
    calls_iff_finish: bool = True
    """A reply ends with ``tool_calls`` exactly if it holds calls."""
    stop_sequence_named: bool = False
    usage_writes: bool = True
    usage_reasoning: bool = True
    usage_optional: bool = True
    created: bool = True
    reply_ids: bool = True
    """Replies carry an id and a model."""


words = st.text(min_size=1, max_size=10)
"""Any text, so long as there is some: also markup, newlines, line separators, emoji."""

tricky = st.sampled_from(
    ["data: [DONE]", "\n\n", "\r\nevent: x", "\u2028", "\x00", '{"a":1}', "<think>", "é", "🜍", " "]
)
texts = st.one_of(words, tricky, st.builds("{}{}".format, words, tricky))
identifiers = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,11}", fullmatch=True)
call_ids = st.one_of(
    identifiers, st.builds("functions.{}:{}".format, identifiers, st.integers(0, 40))
)
base64s = st.binary(min_size=1, max_size=12).map(lambda raw: b64encode(raw).decode())
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
schemas: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    identifiers,
    st.sampled_from([{"type": "string"}, {"type": "integer"}, {"type": "boolean"}]),
    max_size=3,
).map(lambda properties: {"type": "object", "properties": properties})
raw_arguments = st.one_of(
    st.just(""), st.just("{}"), st.just('{"path": "a b"}'), st.just('{"cut": "of'), texts
)
object_arguments = st.dictionaries(identifiers, json_values, max_size=3).map(
    lambda value: msgspec.json.encode(value).decode()
)


@cache
def plain_reasoning() -> st.SearchStrategy[Reasoning]:
    """Readable reasoning alone."""
    return st.builds(Reasoning, texts)


@cache
def signed_reasoning() -> st.SearchStrategy[Reasoning]:
    """Reasoning that is readable and signed, or encrypted."""
    return st.one_of(
        st.builds(Reasoning, texts, signature=base64s),
        st.builds(Reasoning, st.just(""), redacted=base64s),
    )


@cache
def any_reasoning() -> st.SearchStrategy[Reasoning]:
    """Readable, signed or encrypted."""
    return st.one_of(plain_reasoning(), signed_reasoning())


@cache
def openai_thinking() -> st.SearchStrategy[Thinking]:
    """A switch, a budget and an effort, each optional."""
    return st.builds(
        lambda enabled, effort, budget, adaptive: Thinking(
            enabled=True if adaptive else enabled,
            effort=effort,
            budget_tokens=budget if enabled and not adaptive else None,
            adaptive=adaptive,
        ),
        st.sampled_from([None, True, False]),
        st.sampled_from([None, "none", "minimal", "low", "medium", "high", "xhigh", "max"]),
        st.none() | st.integers(1, 100_000),
        st.booleans(),
    )


@cache
def anthropic_thinking() -> st.SearchStrategy[Thinking]:
    """Off, on with a budget, or adaptive."""
    return st.one_of(
        st.just(Thinking()),
        st.just(Thinking(enabled=False)),
        st.builds(Thinking, st.just(True), budget_tokens=st.integers(1024, 100_000)),
    )


_OPENAI_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "max_output_tokens",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
)

PROFILES: Mapping[str, Profile] = {
    "openai_chat": Profile(
        dialect="openai_chat",
        video_sources=(Url, Inline),
        reasoning=plain_reasoning,
        reply_reasoning=any_reasoning,
        sampling=(*_OPENAI_SAMPLING, "n"),
        thinking=openai_thinking,
        optional_usage=True,
        finishes={
            "stop": "stop",
            "length": "length",
            "tool_calls": "tool_calls",
            "content_filter": "content_filter",
        },
        stop_sequence_named=True,
    ),
    "openai_responses": Profile(
        dialect="openai_responses",
        image_sources=(Url, Inline, HostFile),
        merges_assistant=True,
        names=False,
        result_names=False,
        reasoning=any_reasoning,
        reply_reasoning=any_reasoning,
        ordered_channels=False,
        one_reply_text=False,
        sampling=_OPENAI_SAMPLING,
        thinking=openai_thinking,
        finishes={
            "stop": "completed",
            "length": "max_output_tokens",
            "tool_calls": "completed",
            "content_filter": "content_filter",
        },
    ),
    "anthropic_messages": Profile(
        dialect="anthropic_messages",
        image_detail=False,
        system_anywhere=False,
        alternates=True,
        names=False,
        reasoning=signed_reasoning,
        reply_reasoning=signed_reasoning,
        ordered_channels=False,
        one_reply_text=False,
        result_error=True,
        result_names=False,
        sampling=("temperature", "top_p", "top_k", "max_output_tokens", "stop"),
        max_output_required=True,
        thinking=anthropic_thinking,
        response_format=False,
        parallel_needs_choice=True,
        choice_needs_tools=True,
        strict_tools=False,
        metadata=False,
        object_arguments=True,
        finishes={
            "stop": "end_turn",
            "length": "max_tokens",
            "tool_calls": "tool_use",
            "refusal": "refusal",
        },
        usage_reasoning=False,
        usage_optional=False,
        created=False,
    ),
    "bedrock_converse": Profile(
        dialect="bedrock_converse",
        image_sources=(Inline,),
        image_detail=False,
        system_anywhere=False,
        alternates=True,
        names=False,
        cache_in_results=False,
        reasoning=signed_reasoning,
        reply_reasoning=any_reasoning,
        ordered_channels=False,
        one_reply_text=False,
        result_error=True,
        result_names=False,
        response_format=False,
        parallel_tool_calls=False,
        choices=("auto", "required", "named"),
        choice_needs_tools=True,
        strict_tools=False,
        user=False,
        metadata=False,
        model_in_body=False,
        object_arguments=True,
        finishes={
            "stop": "end_turn",
            "length": "max_tokens",
            "tool_calls": "tool_use",
            "content_filter": "content_filtered",
        },
        usage_reasoning=False,
        usage_optional=False,
        created=False,
        reply_ids=False,
    ),
}
"""What each dialect can express."""


def requests_for(dialect: str) -> st.SearchStrategy[Request]:
    """Requests in the dialect's normal form."""
    return requests(PROFILES[dialect])


def responses_for(dialect: str) -> st.SearchStrategy[Response]:
    """Whole replies in the dialect's normal form."""
    return responses(PROFILES[dialect])


def streams_for(dialect: str) -> st.SearchStrategy[list[StreamEvent]]:
    """Serial streams that fold to a reply in the dialect's normal form."""
    return responses_for(dialect).flatmap(streams_of)


# --- requests ---------------------------------------------------------------------------------


@cache
def breakpoints(profile: Profile) -> st.SearchStrategy[Breakpoint | None]:
    """Mostly none."""
    if not profile.cache:
        return st.none()
    marks = st.builds(Breakpoint, st.sampled_from(profile.cache_ttls))
    return st.one_of(st.none(), st.none(), st.none(), marks)


@cache
def sources(
    kinds: tuple[type, ...], media_types: tuple[str, ...]
) -> st.SearchStrategy[Url | Inline | HostFile]:
    """Media, in the forms given."""
    forms: dict[type, st.SearchStrategy[Any]] = {
        Url: st.builds("https://example.test/{}".format, identifiers).map(Url),
        Inline: st.builds(Inline, st.sampled_from(media_types), base64s),
        HostFile: st.builds("file-{}".format, identifiers).map(HostFile),
    }
    return st.one_of(*(forms[kind] for kind in kinds))


@cache
def images(profile: Profile) -> st.SearchStrategy[Image]:
    """Pictures."""
    details = [None, "low", "high", "auto"] if profile.image_detail else [None]
    return st.builds(
        Image,
        sources(profile.image_sources, profile.image_types),
        st.sampled_from(details),
        breakpoints(profile),
    )


@cache
def videos(profile: Profile) -> st.SearchStrategy[Video]:
    """Moving pictures."""
    return st.builds(Video, sources(profile.video_sources, ("video/mp4",)), breakpoints(profile))


@cache
def visible(profile: Profile) -> st.SearchStrategy[Part]:
    """A part of a user's message."""
    kinds: list[st.SearchStrategy[Any]] = [
        st.builds(Text, texts, breakpoints(profile)),
        images(profile),
    ]
    if profile.video_sources:
        kinds.append(videos(profile))
    return st.one_of(*kinds)


@cache
def plain_messages(profile: Profile, role: str) -> st.SearchStrategy[Message]:
    """A message of a user, or of text only for a system or developer."""
    part = visible(profile) if role == "user" else st.builds(Text, texts, breakpoints(profile))
    names = st.none() | identifiers if profile.names else st.none()
    parts = st.lists(part, min_size=1, max_size=2).map(tuple)
    return st.builds(Message, st.just(role), parts, names)


@cache
def calls(profile: Profile) -> st.SearchStrategy[ToolCall]:
    """A call of a tool."""
    arguments = object_arguments if profile.object_arguments else raw_arguments
    cache = breakpoints(profile) if profile.cache_on_calls else st.none()
    return st.builds(ToolCall, call_ids, identifiers, arguments, cache)


@cache
def results(profile: Profile) -> st.SearchStrategy[ToolResult]:
    """What a tool gave."""
    text: st.SearchStrategy[Any] = st.builds(Text, texts)
    inner = profile if profile.cache_in_results else replace(profile, cache=False)
    part = text | images(inner) if profile.result_images else text
    return st.builds(
        ToolResult,
        call_ids,
        st.lists(part, max_size=2).map(tuple),
        st.booleans() if profile.result_error else st.just(False),
        st.none() | identifiers if profile.result_names else st.none(),
        breakpoints(profile),
    )


@cache
def spoken(profile: Profile) -> st.SearchStrategy[Text]:
    """A text that may carry a mark."""
    return st.builds(Text, texts, breakpoints(profile))


@st.composite
def assistant_messages(draw: st.DrawFn, profile: Profile) -> Message:
    """An assistant's turn in a history."""
    reasoning = profile.reasoning
    thoughts = draw(st.lists(reasoning(), max_size=1)) if reasoning else []
    said = draw(st.lists(spoken(profile), max_size=2))
    asked = draw(st.lists(calls(profile), max_size=2))
    parts: list[Part] = [*thoughts, *said, *asked]
    if not profile.ordered_channels and not thoughts:
        parts = draw(st.permutations(parts))
    if not parts:
        parts = [draw(st.builds(Text, texts))]
    return Message("assistant", tuple(parts))


@st.composite
def histories(draw: st.DrawFn, profile: Profile) -> tuple[Message, ...]:
    """Messages whose order the dialect can express."""
    messages: list[Message] = []
    if draw(st.booleans()):
        messages.append(draw(plain_messages(profile, "system")))
    roles = ["user", "assistant", "tool"]
    if profile.system_anywhere:
        roles += ["system", "developer"]
    for _ in range(draw(st.integers(1, 3))):
        role = draw(st.sampled_from(roles))
        last = messages[-1].role if messages else "user" if profile.alternates else ""
        if _may_follow(profile, last, role):
            messages.append(draw(_message(profile, role)))
    if not any(message.role == "user" for message in messages):
        side = messages[-1].role if messages else ""
        if profile.alternates and side == "tool":
            messages.append(draw(assistant_messages(profile)))
        messages.append(draw(plain_messages(profile, "user")))
    return tuple(messages)


def _may_follow(profile: Profile, last: str, role: str) -> bool:
    if role == "tool" and last == "tool":
        return False
    if role == "assistant" and last == "assistant":
        return not (profile.merges_assistant or profile.alternates)
    if profile.alternates:
        side = {"user": "user", "tool": "user", "assistant": "assistant", "system": "assistant"}
        return side[role] != side[last]
    return True


@cache
def _message(profile: Profile, role: str) -> st.SearchStrategy[Message]:
    if role == "assistant":
        return assistant_messages(profile)
    if role == "tool":
        contents = st.lists(results(profile), min_size=1, max_size=2).map(tuple)
        return st.builds(Message, st.just("tool"), contents)
    return plain_messages(profile, role)


@cache
def tool_specs(profile: Profile) -> st.SearchStrategy[ToolSpec]:
    """A declared function."""
    strict = [None, True, False] if profile.strict_tools else [None]
    return st.builds(
        ToolSpec,
        identifiers,
        st.none() | texts,
        schemas,
        st.sampled_from(strict),
        breakpoints(profile),
    )


@cache
def samplings(profile: Profile) -> st.SearchStrategy[Sampling]:
    """Settings of the dialect, each optional."""
    unit = st.none() | st.floats(0, 1, allow_nan=False)
    whole = st.none() | st.integers(1, 100_000)
    values: dict[str, st.SearchStrategy[Any]] = {
        "temperature": unit,
        "top_p": unit,
        "top_k": whole,
        "max_output_tokens": st.integers(1, 9999) if profile.max_output_required else whole,
        "stop": st.lists(words, max_size=2).map(tuple),
        "seed": whole,
        "presence_penalty": unit,
        "frequency_penalty": unit,
        "n": st.sampled_from([None, 1]),
    }
    return st.builds(Sampling, **{field: values[field] for field in profile.sampling})


@cache
def response_formats() -> st.SearchStrategy[ResponseFormat | None]:
    """None, any JSON, or a schema."""
    return st.one_of(
        st.none(),
        st.just(ResponseFormat("json_object")),
        st.builds(
            ResponseFormat,
            st.just("json_schema"),
            schemas,
            identifiers,
            st.none() | texts,
            st.sampled_from([None, True, False]),
        ),
    )


@st.composite
def requests(draw: st.DrawFn, profile: Profile) -> Request:
    """A request in the profile's normal form."""
    tools = tuple(draw(st.lists(tool_specs(profile), max_size=2, unique_by=lambda tool: tool.name)))
    choice = None
    if tools or not profile.choice_needs_tools:
        named = NamedChoice(tools[0].name if tools else draw(identifiers))
        every = {
            "auto": AutoChoice(),
            "none": NoChoice(),
            "required": RequiredChoice(),
            "named": named,
        }
        choice = draw(st.none() | st.sampled_from([every[name] for name in profile.choices]))
    parallel = None
    if profile.parallel_tool_calls and (
        not profile.parallel_needs_choice or (choice is not None and choice != NoChoice())
    ):
        parallel = draw(st.sampled_from([None, True, False]))
    stream = draw(st.booleans())
    optional = st.dictionaries(identifiers, texts, max_size=2) if profile.metadata else st.just({})
    return Request(
        model=draw(identifiers),
        messages=draw(histories(profile)),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        sampling=draw(samplings(profile)),
        thinking=draw(profile.thinking()),
        response_format=draw(response_formats()) if profile.response_format else None,
        stream=stream,
        stream_usage=draw(st.booleans()) if stream and profile.optional_usage else True,
        user=draw(st.none() | identifiers) if profile.user else None,
        metadata=draw(optional),
        dialect=profile.dialect,
    )


# --- replies ----------------------------------------------------------------------------------


@st.composite
def usages(draw: st.DrawFn, profile: Profile) -> Usage:
    """Counts that add up."""
    fresh, reads = draw(st.integers(0, 9999)), draw(st.integers(0, 9999))
    writes = draw(st.integers(0, 999)) if profile.usage_writes else 0
    output = draw(st.integers(0, 9999))
    return Usage(
        input_tokens=fresh + reads + writes,
        output_tokens=output,
        cache_read_tokens=reads,
        cache_write_tokens=writes,
        reasoning_tokens=draw(st.integers(0, output)) if profile.usage_reasoning else 0,
    )


@st.composite
def responses(draw: st.DrawFn, profile: Profile) -> Response:
    """A whole reply in the profile's normal form."""
    kind = profile.reply_reasoning
    thoughts = draw(st.lists(kind(), max_size=1)) if kind else []
    said = draw(st.lists(st.builds(Text, texts), max_size=1 if profile.one_reply_text else 2))
    plain = st.builds(
        ToolCall,
        call_ids,
        identifiers,
        object_arguments if profile.object_arguments else raw_arguments,
    )
    asked = draw(st.lists(plain, max_size=3))
    parts: list[Part] = [*thoughts, *said, *asked]
    if not profile.ordered_channels:
        parts = draw(st.permutations(parts))
    words_of = profile.finishes
    allowed = [
        reason
        for reason in words_of
        if not profile.calls_iff_finish
        or (reason == "tool_calls") == bool(asked)
        or reason in ("length", "content_filter", "refusal")
    ]
    reason = draw(st.sampled_from(allowed))
    raw, stop_sequence = words_of[reason], None
    if reason == "stop" and profile.stop_sequence_named and draw(st.booleans()):
        reason, stop_sequence = "stop_sequence", draw(words)
    usage = usages(profile)
    return Response(
        response_id=draw(identifiers) if profile.reply_ids else "",
        model=draw(identifiers) if profile.reply_ids else "",
        parts=tuple(parts),
        finish_reason=reason,
        raw_finish_reason=raw,
        stop_sequence=stop_sequence,
        usage=draw(st.none() | usage if profile.usage_optional else usage),
        created=draw(st.none() | st.integers(1, 2**31)) if profile.created else None,
    )


@st.composite
def streams_of(draw: st.DrawFn, response: Response) -> list[StreamEvent]:
    """A serial stream that folds to ``response``: deltas cut, ends perhaps left out."""
    out: list[StreamEvent] = []
    ends = draw(st.booleans())
    for event in unfold(response):
        match event:
            case TextDelta():
                out += [TextDelta(event.part, piece) for piece in draw(pieces_of(event.text))]
            case ReasoningDelta():
                out += _reasoning_pieces(event, draw(pieces_of(event.text)))
            case ToolCallDelta():
                out.append(ToolCallDelta(event.part, event.call_id, event.name))
                out += [
                    ToolCallDelta(event.part, arguments=piece)
                    for piece in draw(pieces_of(event.arguments))
                ]
            case PartEnd():
                out += [event] if ends else []
            case StreamStart() | UsageReport() | Finish():
                out.append(event)
    return out


def _reasoning_pieces(event: ReasoningDelta, pieces: list[str]) -> list[StreamEvent]:
    out: list[StreamEvent] = [ReasoningDelta(event.part, piece) for piece in pieces if piece]
    if event.signature is not None or event.redacted is not None:
        out.append(ReasoningDelta(event.part, "", event.signature, event.redacted))
    return out or [event]


@st.composite
def pieces_of(draw: st.DrawFn, text: str) -> list[str]:
    """``text`` in at most four pieces, at least one."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    edges = [0, *cuts, len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@st.composite
def chunks_of(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """``data`` cut anywhere, also inside a character; some chunks may be empty."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    edges = [0, *cuts, len(data)]
    return [data[start:end] for start, end in pairwise(edges)]
