"""Laws of the Bedrock Converse dialect (design §7), over values drawn in its normal form."""

from contextlib import suppress
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from kimiya.core.events import StreamEvent
from kimiya.core.exchange import Request, Response
from kimiya.core.fold import fold, unfold
from kimiya.errors import KimiyaError, RemoteProtocolError
from kimiya.wire.aws_eventstream import Frame, encode_frame
from kimiya.wire.bedrock_converse import BEDROCK_CONVERSE as DIALECT
from kimiya.wire.dialect import WireOptions, WireRequest
from tests.properties.strategies import (
    PROFILES,
    any_reasoning,
    chunks_of,
    requests,
    responses,
    streams_of,
)

LAW = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""No limit on time: what a law says does not depend on how busy the machine is."""

PROFILE = replace(
    PROFILES["bedrock_converse"],
    alternates=False,
    reasoning=any_reasoning,
    strict_tools=True,
    user=True,
    usage_optional=True,
)
ASKED = Request("claude-x", ())
OPTIONS = WireOptions()


def encode_stream(events: list[StreamEvent]) -> bytes:
    encoder = DIALECT.event_encoder(ASKED)
    return b"".join([*map(encoder.encode, events), encoder.close()])


def decode_stream(chunks: list[bytes]) -> tuple[list[StreamEvent], str | None]:
    """Every event, and the error that ended them, if one did."""
    decoder = DIALECT.event_decoder()
    events: list[StreamEvent] = []
    try:
        for chunk in chunks:
            events += decoder.feed(chunk)
        events += decoder.close()
    except KimiyaError as error:
        return events, f"{type(error).__name__}: {error}"
    return events, None


def read(written: WireRequest) -> Request:
    """As the gateway would, from path and body."""
    _, _, model, operation = written.path.split("/")
    return DIALECT.decode_request(written.body, model=model, stream=operation == "converse-stream")


def as_written(response: Response) -> Response:
    """The reply as the wire can say it: zero usage is no usage."""
    usage = response.usage
    counted = usage is not None and bool(usage.input_tokens or usage.output_tokens)
    return structs.replace(response, usage=usage if counted else None)


@LAW
@given(requests(PROFILE))
def test_requests_survive_the_wire(request: Request) -> None:
    written = DIALECT.encode_request(request, OPTIONS)
    assert read(written) == request


@LAW
@given(requests(PROFILE))
def test_extras_stay_home(request: Request) -> None:
    """What another dialect knew is not written here."""
    foreign = structs.replace(request, dialect="openai_chat", extras={"logit_bias": {}})
    assert read(DIALECT.encode_request(foreign, OPTIONS)) == request


@LAW
@given(responses(PROFILE))
def test_replies_survive_the_wire(response: Response) -> None:
    body = DIALECT.encode_response(response, ASKED)
    assert DIALECT.decode_response(body) == as_written(response)


@LAW
@given(responses(PROFILE), st.data())
def test_streamed_and_whole_replies_agree(response: Response, data: st.DataObject) -> None:
    events, error = decode_stream([encode_stream(data.draw(streams_of(response)))])
    assert error is None
    whole = DIALECT.decode_response(DIALECT.encode_response(response, ASKED))
    assert fold(events) == whole


@LAW
@given(responses(PROFILE), st.data())
def test_cutting_the_bytes_changes_nothing(response: Response, data: st.DataObject) -> None:
    stream = encode_stream(unfold(response))
    length = data.draw(st.integers(0, len(stream)), label="cut short at")
    chunks = data.draw(chunks_of(stream[:length]))
    assert decode_stream(chunks) == decode_stream([stream[:length]])


@LAW
@given(responses(PROFILE), st.data())
def test_a_cut_stream_is_never_whole(response: Response, data: st.DataObject) -> None:
    stream = encode_stream(unfold(response))
    end = stream.index(b"messageStop")
    _, error = decode_stream([stream[: data.draw(st.integers(0, end))]])
    assert error is not None
    assert error.startswith(RemoteProtocolError.__name__)


@LAW
@given(st.binary(max_size=200))
def test_noise_is_refused_by_name(noise: bytes) -> None:
    for decode in (DIALECT.decode_request, DIALECT.decode_response, DIALECT.decode_token_count):
        with suppress(KimiyaError):
            decode(noise)
    decode_stream([noise])
    for kind in ("contentBlockDelta", "contentBlockStart", "messageStop", "metadata"):
        headers = {":message-type": "event", ":event-type": kind}
        decode_stream([encode_frame(Frame(headers, noise))])
    assert str(DIALECT.decode_error(500, {}, noise))
