"""Estimates: more text is never fewer tokens, every kind of part counts, nothing makes it raise."""

from hypothesis import given
from hypothesis import strategies as st

from kimiya.core.exchange import Request, ToolSpec
from kimiya.core.messages import (
    Image,
    Message,
    Opaque,
    Text,
    ToolCall,
    ToolResult,
    Url,
    Video,
    user,
)
from kimiya.core.token_estimate import estimate_input_tokens, estimate_text_tokens

_ANY_TEXT = st.text(st.characters(), max_size=50)


@given(_ANY_TEXT, _ANY_TEXT)
def test_more_text_is_never_fewer_tokens(first: str, second: str) -> None:
    assert estimate_text_tokens(first + second) >= estimate_text_tokens(first)


@given(_ANY_TEXT)
def test_a_schema_with_any_text_in_it_has_a_size(text: str) -> None:
    tool = ToolSpec("f", text, {"description": text, "enum": [text + "\ud800"]})
    assert estimate_input_tokens(Request("m", (user(text),), tools=(tool,))) > 0


def test_every_kind_of_part_counts() -> None:
    media = Url("https://example.com/x")
    empty = estimate_input_tokens(Request("m", (Message("user", ()),)))
    for part in (
        Text("hello"),
        Image(media),
        Video(media),
        Opaque("x", {"a": 1}),
        ToolCall("i", "f", "{}"),
        ToolResult("i", (Text("done"),)),
    ):
        assert estimate_input_tokens(Request("m", (Message("user", (part,)),))) > empty, part
