"""The short way of reading a plain chunk gives what the long way gives, whatever stands in it."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kimiya.core.events import StreamEvent
from kimiya.errors import KimiyaError
from kimiya.wire import openai_chat_stream
from kimiya.wire.openai_chat_stream import ChatReader
from kimiya.wire.sse import SseFrame

_OPTIONAL = st.sampled_from((None, "", "x", 0, 1, 1.5, True, [], {}, {"a": 1}))
_DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "content": st.one_of(st.text(max_size=8), st.none(), st.integers()),
        "role": st.sampled_from(("assistant", None, 3)),
        "reasoning_content": st.text(max_size=4),
        "tool_calls": st.just([{"index": 0, "id": "a", "function": {"name": "f"}}]),
        "odd": _OPTIONAL,
    },
)
_CHOICES = st.fixed_dictionaries(
    {"delta": _DELTAS},
    optional={
        "index": st.sampled_from((0, 1, "0", None)),
        "finish_reason": st.sampled_from((None, "stop", "")),
        "logprobs": st.none(),
    },
)
_CHUNKS = st.fixed_dictionaries(
    {"choices": st.lists(_CHOICES, max_size=2)},
    optional={
        "id": st.sampled_from(("c1", None, 4)),
        "object": st.sampled_from(("chat.completion.chunk", "error", None)),
        "created": st.sampled_from((1, 1.5, None, "x")),
        "model": st.sampled_from(("m", None, 7)),
        "usage": st.sampled_from((None, {"prompt_tokens": 1, "completion_tokens": 2})),
        "error": st.sampled_from((None, {"message": "no"})),
        "odd": _OPTIONAL,
    },
)
START = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [{"delta": {}}]}


def read(chunks: list[dict[str, Any]], *, is_short: bool) -> tuple[list[StreamEvent], str]:
    reader = ChatReader()
    events: list[StreamEvent] = []
    try:
        for chunk in chunks:
            if not is_short:
                reader._misses = openai_chat_stream._MOST_MISSES
            events += reader.read(SseFrame(json.dumps(chunk).encode(), ""))
        events += reader.read(SseFrame(b"[DONE]", ""))
    except KimiyaError as error:
        return events, f"{type(error).__name__}: {error}"
    return events, ""


@given(st.lists(_CHUNKS, max_size=6))
def test_both_ways_agree(chunks: list[dict[str, Any]]) -> None:
    assert read([START, *chunks], is_short=True) == read([START, *chunks], is_short=False)


def test_the_short_way_is_taken() -> None:
    reader = ChatReader()
    reader.read(SseFrame(json.dumps(START).encode(), ""))
    chunk = {**START, "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
    for _ in range(9):
        assert len(reader.read(SseFrame(json.dumps(chunk).encode(), ""))) == 1
    assert reader._misses == 0
