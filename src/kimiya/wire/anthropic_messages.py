"""Anthropic Messages: ``POST /v1/messages`` and ``/v1/messages/count_tokens``.

Spoken by Claude Code and the Anthropic SDKs, by Anthropic, and by Moonshot's and others' endpoints
of the same shape. Requests, blocks, replies, streams and errors have a module each; this one is the
door.

What it normalises, so that ``decode(encode(x))`` is equal in meaning though not in form: a tool's
missing schema becomes an empty one, leading system and developer messages become one ``system``,
results stand before text in a user's turn, and a call without arguments has the arguments ``{}``.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kimiya.core.exchange import Request, Response
from kimiya.errors import KimiyaError, ProviderError
from kimiya.wire.anthropic_messages_blocks import NAME
from kimiya.wire.anthropic_messages_bodies import write_count_request, write_request
from kimiya.wire.anthropic_messages_decoder import AnthropicReader
from kimiya.wire.anthropic_messages_encoder import AnthropicEventEncoder
from kimiya.wire.anthropic_messages_errors import read_error, write_error
from kimiya.wire.anthropic_messages_replies import read_response, write_response
from kimiya.wire.anthropic_messages_requests import read_request
from kimiya.wire.dialect import Dialect, Route, WireError, WireOptions, WireRequest
from kimiya.wire.json_fields import Misfit, count, parse_object, required
from kimiya.wire.sse import SseEventDecoder

_MESSAGES = "/v1/messages"
_COUNT = "/v1/messages/count_tokens"
_HEADERS = {"content-type": "application/json", "anthropic-version": "2023-06-01"}


class AnthropicMessages:
    """The dialect. See ``wire.dialect.Dialect``."""

    @property
    def name(self) -> str:
        """``anthropic_messages``."""
        return NAME

    @property
    def routes(self) -> tuple[Route, ...]:
        """Where it is spoken."""
        return (Route(_MESSAGES), Route(_COUNT, streams=False, counts_tokens=True))

    @property
    def stream_content_type(self) -> str:
        """Media type of a streamed reply."""
        return "text/event-stream; charset=utf-8"

    def decode_request(
        self, body: bytes, *, model: str | None = None, stream: bool | None = None
    ) -> Request:
        """Read a client's body, of a message or of a token count."""
        try:
            return read_request(body, model, stream)
        except Misfit as misfit:
            raise misfit.as_local() from misfit

    def encode_request(self, request: Request, options: WireOptions) -> WireRequest:
        """Write a request for a host."""
        try:
            return WireRequest(_MESSAGES, write_request(request), _HEADERS)
        except Misfit as misfit:
            raise misfit.as_local() from misfit

    def encode_count_request(self, request: Request) -> WireRequest:
        """Write a token count of the request for a host.

        Raises:
            LocalProtocolError: The dialect cannot express it.
        """
        try:
            return WireRequest(_COUNT, write_count_request(request), _HEADERS)
        except Misfit as misfit:
            raise misfit.as_local() from misfit

    def decode_response(self, body: bytes) -> Response:
        """Read a host's whole reply."""
        try:
            return read_response(body)
        except Misfit as misfit:
            raise misfit.as_remote(body) from misfit

    def encode_response(self, response: Response, request: Request) -> bytes:
        """Write a whole reply to a client."""
        try:
            return write_response(response, request)
        except Misfit as misfit:
            raise misfit.as_local() from misfit

    def event_decoder(self) -> SseEventDecoder:
        """A decoder for one streamed reply."""
        return SseEventDecoder(AnthropicReader())

    def event_encoder(self, request: Request) -> AnthropicEventEncoder:
        """An encoder for one streamed reply."""
        return AnthropicEventEncoder(request)

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """What a host's error answer means."""
        return read_error(status, headers, body)

    def encode_error(self, error: KimiyaError) -> WireError:
        """The error as clients expect it."""
        return write_error(error)

    def decode_token_count(self, body: bytes) -> int:
        """Read a host's answer to a token count."""
        try:
            fields = parse_object(body)
            required(fields, "input_tokens", int)
            return count(fields, "input_tokens")
        except Misfit as misfit:
            raise misfit.as_remote(body) from misfit

    def encode_token_count(self, input_tokens: int) -> bytes:
        """Answer a client's token count."""
        return b'{"input_tokens":%d}' % input_tokens


ANTHROPIC_MESSAGES = AnthropicMessages()
"""The one instance; it holds no state."""

if TYPE_CHECKING:
    _conforms: Dialect = ANTHROPIC_MESSAGES
