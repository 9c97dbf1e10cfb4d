"""The embedded model's text, read as text or as a call, however it is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiya.core.events import ReasoningDelta, StreamEvent, ToolCallDelta
from kimiya.core.exchange import Response
from kimiya.core.fold import fold
from kimiya.core.messages import Message, Reasoning, Text, ToolCall, user
from kimiya.errors import RemoteProtocolError
from kimiya.providers.llama_cpp_prompt import call_head, call_text
from kimiya.providers.llama_cpp_reply import ReplyReader

CALL = call_text("add", '{"a": "}", "b": {"c": 1}}')
TEXTS = ["", "hello", "<", "<tool", "<tool_calls>", " <tool_call>", "a<tool_call>{", "</tool_call>"]


def read(
    pieces: list[str],
    raw_finish: str = "stop",
    *,
    stop_sequence: str | None = None,
    may_call: bool = True,
    must_call: bool = False,
    history: tuple[Message, ...] = (user("x"),),
) -> Response:
    reader = ReplyReader(history, may_call, must_call)
    events: list[StreamEvent] = [event for piece in pieces for event in reader.feed(piece)]
    return fold([*events, *reader.close(raw_finish, stop_sequence)])


@given(st.sampled_from([*TEXTS, CALL, CALL[:-1], CALL[:14]]), st.data())
def test_cuts_change_nothing(text: str, data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    assert read(pieces, "length") == read([text], "length")


@pytest.mark.parametrize("text", TEXTS)
def test_what_does_not_begin_with_the_marker_is_text(text: str) -> None:
    reply = read(list(text))
    assert reply.message.text == text
    assert reply.finish_reason == "stop"
    assert not reply.message.tool_calls


def test_a_call_is_a_call_and_its_frame_is_gone() -> None:
    earlier = Message("assistant", tuple(ToolCall(f"c{n}", "add", "{}") for n in range(3)))
    reply = read(list(CALL), history=(user("x"), earlier))
    assert reply.parts == (ToolCall("functions.add:3", "add", '{"a": "}", "b": {"c": 1}}'),)
    assert (reply.finish_reason, reply.raw_finish_reason) == ("tool_calls", "stop")


@pytest.mark.parametrize("name", ['quo"te', 'a, "arguments": b', "日本", "back\\slash"])
def test_names_come_back_as_they_were(name: str) -> None:
    (call,) = read(list(call_text(name, '{"x": 1}'))).message.tool_calls
    assert (call.name, call.arguments) == (name, '{"x": 1}')


def test_a_call_that_ends_at_the_limit_is_whole() -> None:
    assert read([CALL], "length").finish_reason == "tool_calls"


@pytest.mark.parametrize("kept", range(1, len(CALL)))
def test_a_call_cut_by_the_limit_keeps_all_that_came(kept: int) -> None:
    reply = read([CALL[:kept]], "length")
    assert reply.finish_reason == "length"
    heads = "".join(call_head(call.name) + call.arguments for call in reply.message.tool_calls)
    assert heads + reply.message.text == CALL[:kept]


def test_a_call_met_by_a_stop_sequence_says_so() -> None:
    reply = read([CALL[:-4]], "stop", stop_sequence="c")
    assert (reply.finish_reason, reply.stop_sequence) == ("stop_sequence", "c")
    assert reply.message.tool_calls


def test_without_tools_the_marker_is_text() -> None:
    assert read([CALL], may_call=False).message.text == CALL


@pytest.mark.parametrize("text", ["", "I would rather talk.", CALL[:-1], CALL[:-5]])
def test_a_forced_call_that_is_none_is_never_passed_on_as_whole(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        read([text], must_call=True)


def test_reasoning_comes_before_as_its_own_part() -> None:
    reader = ReplyReader((user("x"),), may_call=True, must_call=False)
    events = [*reader.reason(""), *reader.reason("hm"), *reader.feed(CALL)]
    assert isinstance(events[0], ReasoningDelta)
    assert isinstance(events[1], ToolCallDelta)
    reply = fold([*events, *reader.close("stop", None)])
    assert [type(part) for part in reply.parts] == [Reasoning, ToolCall]
    assert reply.parts[0] == Reasoning("hm")
    assert Text("hm") not in reply.parts
