"""Laws of AWS event-stream framing; botocore's parser is the judge of what we write."""

from uuid import UUID

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kimiya.errors import RemoteProtocolError
from kimiya.wire.aws_eventstream import (
    MAX_PAYLOAD_BYTES,
    Frame,
    FrameDecoder,
    Timestamp,
    encode_frame,
)
from tests.properties.strategies import chunks_of

LAW = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""No limit on time: what a law says does not depend on how busy the machine is."""

values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=30),
    st.text(max_size=30),
    st.builds(Timestamp, st.integers(0, 2**53)),
    st.builds(lambda raw: UUID(bytes=raw), st.binary(min_size=16, max_size=16)),
)
frames = st.builds(
    Frame, st.dictionaries(st.text(min_size=1, max_size=20), values, max_size=4), st.binary()
)


def decode(chunks: list[bytes]) -> tuple[list[Frame], str | None]:
    """Every frame, and the error that ended them, if one did."""
    decoder = FrameDecoder()
    out: list[Frame] = []
    try:
        for chunk in chunks:
            out += decoder.feed(chunk)
        decoder.close()
    except RemoteProtocolError as error:
        return out, str(error)
    return out, None


@LAW
@given(st.lists(frames, max_size=3))
def test_frames_survive_the_wire(sent: list[Frame]) -> None:
    assert decode([b"".join(map(encode_frame, sent))]) == (sent, None)


@LAW
@given(frames)
def test_botocore_reads_the_same(frame: Frame) -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(encode_frame(frame))
    (message,) = list(buffer)
    plain = {
        name: value.milliseconds
        if isinstance(value, Timestamp)
        else value.bytes
        if isinstance(value, UUID)
        else value
        for name, value in frame.headers.items()
    }
    assert (dict(message.headers), message.payload) == (plain, frame.payload)


@LAW
@given(st.lists(frames, min_size=1, max_size=3), st.data())
def test_cutting_the_bytes_changes_nothing(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(map(encode_frame, sent))
    if data.draw(st.booleans(), label="damaged"):
        place = data.draw(st.integers(0, len(stream) - 1))
        stream = stream[:place] + bytes([stream[place] ^ 0x40]) + stream[place + 1 :]
    assert decode(data.draw(chunks_of(stream))) == decode([stream])


@LAW
@given(frames, st.data())
def test_every_flipped_bit_is_found(frame: Frame, data: st.DataObject) -> None:
    stream = bytearray(encode_frame(frame))
    bit = data.draw(st.integers(0, len(stream) * 8 - 1))
    stream[bit // 8] ^= 1 << bit % 8
    got, error = decode([bytes(stream)])
    assert (got, error is None) == ([], False)


@LAW
@given(frames, st.data())
def test_a_cut_frame_is_never_whole(frame: Frame, data: st.DataObject) -> None:
    stream = encode_frame(frame)
    cut = data.draw(st.integers(1, len(stream) - 1))
    got, error = decode([stream[:cut]])
    assert got == []
    assert error is not None


@LAW
@given(st.binary(max_size=200))
def test_noise_is_refused_by_name(noise: bytes) -> None:
    got, error = decode([noise])
    assert got == []
    assert (error is None) == (noise == b"")


def test_a_claimed_length_is_refused_before_it_is_gathered() -> None:
    import struct
    import zlib

    lengths = struct.pack(">II", 16 + MAX_PAYLOAD_BYTES + 1, 0)
    prelude = lengths + struct.pack(">I", zlib.crc32(lengths))
    with pytest.raises(RemoteProtocolError, match="over the limits"):
        FrameDecoder().feed(prelude)


@pytest.mark.parametrize("place", range(8))
def test_a_damaged_length_is_found_before_anything_is_awaited(place: int) -> None:
    stream = bytearray(encode_frame(Frame({"a": "b"}, b"c")))
    stream[place] ^= 1
    with pytest.raises(RemoteProtocolError, match="begins with a wrong checksum"):
        FrameDecoder().feed(bytes(stream[:12]))
