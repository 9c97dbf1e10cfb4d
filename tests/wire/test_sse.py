"""Server-sent events against the standard's own rules, and against hosts that bend them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimiya.errors import RemoteProtocolError
from kimiya.wire.sse import SseDecoder, SseFrame, encode_frame, encode_note
from tests.properties.strategies import chunks_of


def frames_of(*chunks: bytes, cap: int = 1 << 20) -> list[SseFrame]:
    decoder = SseDecoder(cap)
    return [frame for chunk in chunks for frame in decoder.feed(chunk)] + decoder.close()


CASES = [
    pytest.param(b"data: a\n\n", [SseFrame(b"a")], id="plain"),
    pytest.param(b"data:a\r\rdata: b\r\n\r\n", [SseFrame(b"a"), SseFrame(b"b")], id="cr and crlf"),
    pytest.param(b"data:  a\n\n", [SseFrame(b" a")], id="one space goes"),
    pytest.param(b"data: a\ndata: b\n\n", [SseFrame(b"a\nb")], id="several lines"),
    pytest.param(b"\xef\xbb\xbfdata: a\n\n", [SseFrame(b"a")], id="byte-order mark"),
    pytest.param(b": hi\n\n:\ndata: a\n\n", [SseFrame(b"a")], id="comments"),
    pytest.param(
        b"event: x\ndata: a\n\ndata: b\n\n", [SseFrame(b"a", "x"), SseFrame(b"b")], id="event"
    ),
    pytest.param(b"event: x\n\ndata: b\n\n", [SseFrame(b"b")], id="event without data"),
    pytest.param(b"id: 1\nretry: 2\nwhat: 3\ndata: a\n\n", [SseFrame(b"a")], id="other fields"),
    pytest.param(b"data\n\n", [SseFrame(b"")], id="no colon"),
    pytest.param(b"data: a", [SseFrame(b"a")], id="no last newline"),
    pytest.param(b"data: a\n", [SseFrame(b"a")], id="no blank line"),
    pytest.param("data: é\u2028x\n\n".encode(), [SseFrame("é\u2028x".encode())], id="utf-8"),
    pytest.param(b"", [], id="nothing"),
]


@pytest.mark.parametrize(("body", "frames"), CASES)
def test_frames(body: bytes, frames: list[SseFrame]) -> None:
    assert frames_of(body) == frames
    assert frames_of(*(body[i : i + 1] for i in range(len(body)))) == frames


@given(
    body=st.lists(st.sampled_from([b"data: a", b"\n", b"\r", b"\r\n", b":", b"event: e"])),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_cut_anywhere(body: list[bytes], data: st.DataObject) -> None:
    joined = b"".join(body)
    assert frames_of(*data.draw(chunks_of(joined))) == frames_of(joined)


def test_a_line_of_a_megabyte_in_small_pieces() -> None:
    line = b"data: " + b"x" * (1 << 20)
    pieces = [line[i : i + 1000] for i in range(0, len(line), 1000)]
    assert frames_of(*pieces, b"\n\n", cap=8 << 20) == [SseFrame(line[6:])]


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([b"data: " + b"x" * 100 + b"\n\n"], id="whole line"),
        pytest.param([b"data: ", *[b"x" * 10] * 10], id="line that never ends"),
        pytest.param([b"data: 123456789\n" * 20], id="event that never ends"),
    ],
)
def test_too_long(chunks: list[bytes]) -> None:
    with pytest.raises(RemoteProtocolError, match="longer than 64 bytes") as caught:
        frames_of(*chunks, cap=64)
    assert caught.value.frame


def test_what_came_before_an_error_is_not_lost() -> None:
    decoder = SseDecoder(64)
    assert decoder.feed(b"data: a\n\n" + b"x" * 100 + b"\n") == [SseFrame(b"a")]
    with pytest.raises(RemoteProtocolError):
        decoder.feed(b"data: b\n\n")


def test_what_we_write_is_what_we_read() -> None:
    note = encode_note({"route": "a\nb", "cost-usd": "0.1"})
    assert note == b": kimiya route=a b\n: kimiya cost-usd=0.1\n\n"
    assert frames_of(note, encode_frame(b"{}", "done"), encode_frame(b"1")) == [
        SseFrame(b"{}", "done"),
        SseFrame(b"1"),
    ]
