"""Laws of ``adapt`` over every card: no word is lost, twice is once, the dialect can write it."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kimiya.catalog.adapt import adapt
from kimiya.catalog.catalog import Catalog
from kimiya.core.exchange import (
    AutoChoice,
    NamedChoice,
    NoChoice,
    Request,
    RequiredChoice,
    ResponseFormat,
    Sampling,
    Thinking,
    ToolSpec,
)
from kimiya.core.messages import (
    Breakpoint,
    Image,
    Inline,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)
from kimiya.errors import InvalidRequest
from kimiya.wire.dialect import WireOptions
from kimiya.wire.dialects import DIALECTS as DIALECTS_BY_NAME

DIALECTS = ("openai_chat", "openai_responses", "anthropic_messages", "bedrock_converse")

words = st.text(max_size=8) | st.sampled_from(["alpha", "beta gamma", " "])
marks = st.none() | st.builds(Breakpoint, st.sampled_from([None, "5m", "1h"]))
extras = st.just({}) | st.dictionaries(words, st.none() | st.integers(), max_size=2)
texts = st.builds(Text, words, marks, extras)
pictures = st.just(Image(Inline("image/png", "aGk="), "high"))
ids = st.sampled_from(["functions.read:0", "toolu_1", "a b", "", "ü"])
calls = st.builds(ToolCall, ids, words, st.just("{}"), marks)
results = st.builds(
    ToolResult,
    ids,
    st.lists(texts | texts | pictures, max_size=2).map(tuple),
    st.booleans(),
    st.none(),
    marks,
)
thoughts = st.builds(Reasoning, words, st.none() | words) | st.just(Reasoning(redacted="x"))


def _message(role: str, parts: st.SearchStrategy) -> st.SearchStrategy[Message]:
    return st.builds(
        Message, st.just(role), st.lists(parts, max_size=3).map(tuple), st.none() | words, extras
    )


messages = (
    _message("user", texts | texts | texts | pictures)
    | _message("system", texts)
    | _message("developer", texts)
    | _message("assistant", texts | calls | thoughts)
    | _message("tool", results)
)
requests = st.builds(
    Request,
    model=st.just("m"),
    messages=st.lists(messages, max_size=5).map(tuple),
    tools=st.lists(
        st.builds(ToolSpec, words, cache=marks, kind=st.sampled_from(["function", "builtin"])),
        max_size=2,
    ).map(tuple),
    tool_choice=st.sampled_from(
        [None, AutoChoice(), NoChoice(), RequiredChoice(), NamedChoice("x")]
    ),
    parallel_tool_calls=st.sampled_from([None, True, False]),
    sampling=st.builds(
        Sampling,
        st.none() | st.floats(0, 2),
        st.none() | st.floats(0, 1),
        st.none() | st.integers(1, 9),
        st.none() | st.integers(1, 300_000),
        st.just(()) | st.just(("END",)),
        st.none() | st.integers(),
    ),
    thinking=st.builds(
        Thinking,
        st.sampled_from([None, True, False]),
        st.sampled_from([None, "none", "low", "max"]),
        st.none() | st.integers(1, 9000),
        st.booleans(),
    ),
    response_format=st.sampled_from([None, ResponseFormat("json_object")]),
    user=st.none() | words,
    metadata=extras,
    dialect=st.sampled_from(["", *DIALECTS]),
    extras=extras
    | st.sampled_from(
        [{"thinking": {"type": "enabled"}}, {"chat_template_kwargs": {"thinking": 1}}]
    ),
)
# What is refused proves nothing here, so every card sees; refusals have a table of their own.
cards = st.sampled_from([replace(card, has_vision=True) for card in Catalog.load().cards])


def _words(request: Request) -> str:
    """Every visible word, in order; blanks count for nothing."""
    said: list[str] = []
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, Text):
                said += part.text.split()
            elif isinstance(part, ToolResult):
                said += [
                    w
                    for inner in part.content
                    if isinstance(inner, Text)
                    for w in inner.text.split()
                ]
            elif isinstance(part, ToolCall):
                said += [part.name, part.arguments]
    return "".join("".join(said).split())


@given(requests, cards, st.sampled_from([None, *DIALECTS]))
def test_no_word_is_lost_and_every_change_is_noted(request, card, dialect) -> None:
    try:
        adapted = adapt(request, card, dialect)
    except InvalidRequest:
        return
    remaining = iter(_words(adapted.request))
    assert all(letter in remaining for letter in _words(request)), "a word is gone"
    if adapted.request is request:
        # A wish about thinking that this model cannot meet is told, though nothing is changed.
        assert all(note.path == "thinking" for note in adapted.adjustments)
    for note in adapted.adjustments:
        assert note.code.isidentifier()
        assert note.detail
        assert len(note.detail) < 1000


@given(requests, cards, st.integers(0, 2))
def test_adapting_twice_is_adapting_once(request, card, choice) -> None:
    card = replace(card, temperature_factor={})
    spoken = (None, *card.dialects)
    dialect = spoken[choice % len(spoken)]
    try:
        once = adapt(request, card, dialect).request
    except InvalidRequest:
        return
    # By now it is a request of the dialect it will be written in.
    once = replace(once, dialect=dialect or once.dialect)
    assert adapt(once, card, dialect).request == once


@settings(max_examples=300)
@given(requests, cards, st.integers(0, 1))
def test_what_adapt_lets_through_its_dialect_can_write(request, card, choice) -> None:
    dialect = card.dialects[choice % len(card.dialects)]
    try:
        adapted = adapt(request, card, dialect)
    except InvalidRequest:
        return
    options = WireOptions(
        reasoning_field=card.reasoning_field, max_tokens_field=card.max_tokens_field
    )
    DIALECTS_BY_NAME[dialect].encode_request(adapted.request, options)
