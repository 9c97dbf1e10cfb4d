"""Events and whole replies say the same; interleaved parts leave serial."""

import pytest
from hypothesis import given
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
from kimiya.core.exchange import Response, Usage
from kimiya.core.fold import Fold, Serialiser, fold, grown, unfold
from kimiya.core.messages import Image, Reasoning, Text, ToolCall, Url
from kimiya.errors import LocalProtocolError, RemoteProtocolError

_PARTS = st.one_of(
    st.builds(Text, st.text(max_size=20)),
    st.builds(Reasoning, st.text(max_size=20), st.none() | st.text(max_size=5)),
    st.builds(
        ToolCall,
        st.text(min_size=1, max_size=5),
        st.text(min_size=1, max_size=5),
        st.text(max_size=20),
    ),
)
_RESPONSES = st.builds(
    Response,
    st.text(max_size=5),
    st.text(max_size=5),
    st.lists(_PARTS, max_size=5).map(tuple),
    st.sampled_from(("stop", "length", "tool_calls")),
    usage=st.none() | st.builds(Usage, st.integers(0, 99), st.integers(0, 99)),
)


@given(_RESPONSES)
def test_unfolding_and_folding_gives_the_same_reply(response: Response) -> None:
    assert fold(unfold(response)) == response


@given(_RESPONSES, st.randoms(use_true_random=False))
def test_cutting_deltas_into_characters_changes_nothing(response: Response, rng: object) -> None:
    cut: list[StreamEvent] = []
    for event in unfold(response):
        match event:
            case TextDelta(part, text) if text:
                cut += [TextDelta(part, c) for c in text]
            case ReasoningDelta(part, text, signature) if text:
                cut += [ReasoningDelta(part, c) for c in text]
                cut.append(ReasoningDelta(part, "", signature))
            case ToolCallDelta(part, call_id, name, arguments):
                cut.append(ToolCallDelta(part, call_id, name))
                cut += [ToolCallDelta(part, arguments=c) for c in arguments]
            case _:
                cut.append(event)
    assert fold(cut) == response


def test_a_cut_stream_is_never_presented_as_whole() -> None:
    gathering = Fold()
    gathering.feed(TextDelta(0, "half an ans"))
    with pytest.raises(RemoteProtocolError, match="ended before"):
        gathering.result()
    assert gathering.parts() == (Text("half an ans"),)


def test_a_part_cannot_change_its_kind() -> None:
    gathering = Fold()
    gathering.feed(TextDelta(0, "a"))
    with pytest.raises(RemoteProtocolError, match="changes its kind"):
        gathering.feed(ToolCallDelta(0, "id", "name"))


def test_a_reply_cannot_hold_an_image() -> None:
    reply = Response("id", "model", (Image(Url("https://example.com/a.png")),), "stop")
    with pytest.raises(LocalProtocolError, match="Image"):
        unfold(reply)


def test_the_last_usage_counts() -> None:
    reply = fold([UsageReport(Usage(1, 1)), Finish("stop"), UsageReport(Usage(3, 4))])
    assert reply.usage == Usage(3, 4)


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        (["get_", "weather"], "get_weather"),
        (["get_weather", "get_weather"], "get_weather"),
        (["get_weather", "", ""], "get_weather"),
        (["", "get_weather"], "get_weather"),
    ],
)
def test_names_grow_as_hosts_really_send_them(pieces: list[str], whole: str) -> None:
    seen = ""
    for piece in pieces:
        seen = grown(seen, piece)
    assert seen == whole


def _serial(events: list[StreamEvent]) -> list[StreamEvent]:
    serialiser = Serialiser()
    return [out for event in events for out in serialiser.feed(event)]


def test_interleaved_calls_come_out_one_after_the_other() -> None:
    first, second = ToolCallDelta(2, "a", "f", "{"), ToolCallDelta(3, "b", "g", "[")
    more = [ToolCallDelta(2, arguments="}"), ToolCallDelta(3, arguments="]")]
    out = _serial([first, second, *more, Finish("tool_calls")])
    assert out == [first, more[0], second, more[1], Finish("tool_calls")]


def test_a_call_that_ends_lets_the_waiting_ones_through_at_once() -> None:
    first, second = ToolCallDelta(2, "a", "f", "{}"), ToolCallDelta(3, "b", "g", "{")
    assert _serial([first, second, PartEnd(2)]) == [first, PartEnd(2), second]


def test_text_never_waits_behind_reasoning() -> None:
    events: list[StreamEvent] = [StreamStart("id"), ReasoningDelta(0, "hm"), TextDelta(1, "so")]
    assert _serial(events) == events


@given(st.lists(st.tuples(st.integers(0, 3), st.text(min_size=1, max_size=3)), max_size=20))
def test_serialising_loses_and_reorders_nothing_within_a_part(
    pieces: list[tuple[int, str]],
) -> None:
    events: list[StreamEvent] = [ToolCallDelta(part, arguments=text) for part, text in pieces]
    out = _serial([*events, Finish("tool_calls")])
    assert fold(out).parts == fold([*events, Finish("tool_calls")]).parts
    opened = [event.part for event in out if isinstance(event, ToolCallDelta)]
    runs = [part for i, part in enumerate(opened) if i == 0 or opened[i - 1] != part]
    assert len(runs) == len(set(runs)), f"parts come back after they ended: {opened}"
