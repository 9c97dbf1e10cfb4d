"""The laws of a dialect, for both of OpenAI's."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kimiya.core.events import StreamEvent
from kimiya.core.exchange import Request, Response
from kimiya.core.fold import fold
from kimiya.core.messages import user
from kimiya.errors import KimiyaError
from kimiya.wire.dialect import Dialect, WireOptions
from kimiya.wire.openai_chat import OPENAI_CHAT
from kimiya.wire.openai_responses import OPENAI_RESPONSES
from tests.properties.strategies import (
    chunks_of,
    requests_for,
    responses_for,
    streams_for,
)

DIALECTS: tuple[Dialect, ...] = (OPENAI_CHAT, OPENAI_RESPONSES)
LAW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Nothing here is timed: a busy machine draws slowly."""

dialects = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


def encoded(dialect: Dialect, events: list[StreamEvent], request: Request) -> bytes:
    """A whole stream as a client would get it."""
    encoder = dialect.event_encoder(request)
    return b"".join([*map(encoder.encode, events), encoder.close()])


def decoded(dialect: Dialect, chunks: list[bytes]) -> list[StreamEvent]:
    """A whole stream as a host would send it."""
    decoder = dialect.event_decoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)] + decoder.close()


def asked(dialect: Dialect) -> Request:
    return Request("m", (user("hi"),), stream=True, dialect=dialect.name)


@dialects
@given(data=st.data())
@LAW
def test_a_request_comes_back_as_it_went(dialect: Dialect, data: st.DataObject) -> None:
    request = data.draw(requests_for(dialect.name))
    sent = dialect.encode_request(request, WireOptions())
    assert dialect.decode_request(sent.body) == request


@dialects
@given(data=st.data())
@LAW
def test_a_reply_comes_back_as_it_went(dialect: Dialect, data: st.DataObject) -> None:
    response: Response = data.draw(responses_for(dialect.name))
    assert dialect.decode_response(dialect.encode_response(response, asked(dialect))) == response


@dialects
@given(data=st.data())
@LAW
def test_a_stream_folds_to_the_whole_reply(dialect: Dialect, data: st.DataObject) -> None:
    events = data.draw(streams_for(dialect.name))
    whole = fold(events)
    streamed = fold(decoded(dialect, [encoded(dialect, events, asked(dialect))]))
    assert streamed == whole
    assert streamed == dialect.decode_response(dialect.encode_response(whole, asked(dialect)))


@dialects
@given(data=st.data())
@LAW
def test_cutting_a_stream_anywhere_changes_nothing(dialect: Dialect, data: st.DataObject) -> None:
    events = data.draw(streams_for(dialect.name))
    body = encoded(dialect, events, asked(dialect))
    assert decoded(dialect, data.draw(chunks_of(body))) == decoded(dialect, [body])


@dialects
@given(data=st.data())
@LAW
def test_no_bytes_of_a_stream_escape_as_another_error(
    dialect: Dialect, data: st.DataObject
) -> None:
    """A hostile host is answered with our own errors, and with the same ones however it is cut."""
    events = data.draw(streams_for(dialect.name))
    body = bytearray(encoded(dialect, events, asked(dialect)))
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=4)):
        body[place] = data.draw(st.integers(0, 255))
    damaged = bytes(body[: data.draw(st.integers(0, len(body)))])
    assert outcome(dialect, data.draw(chunks_of(damaged))) == outcome(dialect, [damaged])


def outcome(dialect: Dialect, chunks: list[bytes]) -> tuple[list[StreamEvent], str]:
    """Every event that came, and the error that ended it."""
    decoder = dialect.event_decoder()
    events: list[StreamEvent] = []
    try:
        for chunk in chunks:
            events += decoder.feed(chunk)
        events += decoder.close()
    except KimiyaError as error:
        return events, f"{type(error).__name__}: {error}"
    return events, ""
