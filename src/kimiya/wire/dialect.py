"""What a dialect is: one wire format, defined once, serving client and host alike.

The gateway *decodes requests* and *encodes replies*; a provider *encodes requests* and *decodes
replies*. Both use the same ``Dialect`` object, so a field learnt on one side is known on the other.

Laws, each a property test:

* ``decode(encode(x)) == x`` for every value the dialect can express; what it cannot express raises
  ``LocalProtocolError`` (nothing vanishes).
* A streamed reply folds to the whole reply.
* Cutting the bytes of a stream anywhere changes nothing.

Errors: bytes of a *caller* that cannot be read raise ``LocalProtocolError`` with the path of the
field; bytes of a *host* raise ``RemoteProtocolError`` with the frame.
"""

from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from kimiya.core.events import StreamEvent
from kimiya.core.exchange import Request, Response
from kimiya.errors import KimiyaError, ProviderError

K = TypeVar("K")
W = TypeVar("W")


class TwoWay(Generic[K, W]):
    """A vocabulary read in both directions.

    ``pairs`` is what we write: our word to the wire's. ``also`` is what we merely understand: more
    of the wire's words to ours. When two of our words write the same wire word, the first reads it.

    >>> stops = TwoWay({"stop": "end_turn", "length": "max_tokens"}, also={"done": "stop"})
    >>> stops.write("stop"), stops.read("done"), stops.read("max_tokens"), stops.read("new")
    ('end_turn', 'stop', 'length', None)
    """

    def __init__(self, pairs: Mapping[K, W], *, also: Mapping[W, K] | None = None) -> None:
        self._write = dict(pairs)
        self._read: dict[W, K] = dict(also or {})
        for ours, theirs in reversed(list(pairs.items())):
            self._read[theirs] = ours

    def write(self, ours: K) -> W:
        """The wire's word for ours.

        Raises:
            KeyError: The wire has none.
        """
        return self._write[ours]

    def read(self, theirs: W) -> K | None:
        """Our word for the wire's, or ``None`` where it is new to us."""
        return self._read.get(theirs)

    @property
    def ours(self) -> tuple[K, ...]:
        """Every word of ours that can be written."""
        return tuple(self._write)


class Route(Struct, frozen=True):
    """Where a dialect is spoken: ``POST path``; ``{model}`` in the path is the model id."""

    path: str
    streams: bool | None = None
    """``True`` or ``False`` where the path decides; ``None`` where the body does."""
    counts_tokens: bool = False
    """The path counts tokens instead of calling the model."""


class WireOptions(Struct, frozen=True):
    """Facts of an endpoint that change how a request or reply is written; from its card.

    A dialect ignores the ones that mean nothing to it.
    """

    reasoning_field: str | None = "reasoning_content"
    """The field OpenAI-speaking hosts read and write reasoning in: ``reasoning_content``,
    ``reasoning`` or ``reasoning_details``; ``None`` where none is accepted."""
    max_tokens_field: str = "max_tokens"
    """``max_tokens`` or ``max_completion_tokens``."""
    includes_stream_usage: bool = True
    """Whether the host accepts ``stream_options.include_usage``."""


class WireRequest(Struct, frozen=True):
    """A request ready to send."""

    path: str
    """Relative to the endpoint's base address, percent-encoded."""
    body: bytes
    headers: Mapping[str, str] = {}
    """Headers the dialect itself needs (content type, version); never credentials."""


class WireError(Struct, frozen=True):
    """An error ready to answer with."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


class EventDecoder(Protocol):
    """Turns a host's stream into events. One per reply; keeps the unfinished tail."""

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Take bytes in; give the events they complete.

        Raises:
            RemoteProtocolError: The bytes cannot be read.
            ProviderError: The host reported an error inside the stream.
        """
        ...

    def close(self) -> list[StreamEvent]:
        """The stream ended; give what is left.

        Raises:
            RemoteProtocolError: It ended in the middle of a frame, or before ``Finish``.
        """
        ...


class EventEncoder(Protocol):
    """Turns events into a client's stream. One per reply. Expects serial events."""

    def encode(self, event: StreamEvent) -> bytes:
        """The bytes for one event; ``b""`` where the dialect says nothing at this point."""
        ...

    def close(self) -> bytes:
        """What ends the stream (``[DONE]``, ``message_stop``, a trailing usage chunk)."""
        ...

    def error(self, error: KimiyaError) -> bytes:
        """An error in mid-stream, in the dialect's own form. Nothing may follow it."""
        ...

    def note(self, fields: Mapping[str, str]) -> bytes:
        """Kimiya's own remarks (route, adjustments, repairs), in a form clients ignore: an SSE
        comment, or an event of an unknown type where comments do not exist. Sent before ``close``.
        """
        ...

    def ping(self) -> bytes:
        """Keep-alive bytes clients ignore; ``b""`` where the dialect has none."""
        ...


class Dialect(Protocol):
    """One wire format. Implementations are stateless and shared."""

    @property
    def name(self) -> str:
        """``openai_chat``, ``openai_responses``, ``anthropic_messages``, ``bedrock_converse``."""
        ...

    @property
    def routes(self) -> tuple[Route, ...]:
        """Where it is spoken."""
        ...

    @property
    def stream_content_type(self) -> str:
        """Media type of a streamed reply."""
        ...

    def decode_request(
        self, body: bytes, *, model: str | None = None, stream: bool | None = None
    ) -> Request:
        """Read a client's body. ``model`` and ``stream`` are given where the path carries them.

        Raises:
            LocalProtocolError: With the path of the field.
        """
        ...

    def encode_request(self, request: Request, options: WireOptions) -> WireRequest:
        """Write a request for a host.

        Raises:
            LocalProtocolError: The dialect cannot express it.
        """
        ...

    def decode_response(self, body: bytes) -> Response:
        """Read a host's whole reply.

        Raises:
            RemoteProtocolError: It cannot be read.
            ProviderError: It is an error in the guise of a reply.
        """
        ...

    def encode_response(self, response: Response, request: Request) -> bytes:
        """Write a whole reply to a client. ``response.model`` is what the client is shown."""
        ...

    def event_decoder(self) -> EventDecoder:
        """A decoder for one streamed reply."""
        ...

    def event_encoder(self, request: Request) -> EventEncoder:
        """An encoder for one streamed reply to this request."""
        ...

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """What a host's error answer means. ``headers`` have lower-case names. Never raises."""
        ...

    def encode_error(self, error: KimiyaError) -> WireError:
        """The error as this dialect's clients expect it, with status and headers (Retry-After)."""
        ...

    def decode_token_count(self, body: bytes) -> int:
        """Read a host's answer to a token count.

        Raises:
            LocalProtocolError: The dialect has no token counting.
        """
        ...

    def encode_token_count(self, input_tokens: int) -> bytes:
        """Answer a client's token count."""
        ...
