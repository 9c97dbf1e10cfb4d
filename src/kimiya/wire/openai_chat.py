"""OpenAI Chat Completions: the dialect of most clients and of most hosts of open weights.

Source: OpenAI's API reference and the ``openai`` SDK 3.54.0; Moonshot's, vLLM's, SGLang's and
OpenRouter's additions are named where they are read. What this wire cannot say is said in
``openai_chat_messages``.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kimiya.core.exchange import Request, Response
from kimiya.errors import KimiyaError, LocalProtocolError, ProviderError
from kimiya.wire.dialect import (
    Dialect,
    EventDecoder,
    EventEncoder,
    Route,
    WireError,
    WireOptions,
    WireRequest,
)
from kimiya.wire.json_fields import Misfit, parse_object, write_json
from kimiya.wire.openai_chat_errors import error_in_reply, read_error, write_error
from kimiya.wire.openai_chat_events import ChatEventEncoder
from kimiya.wire.openai_chat_parts import CHAT
from kimiya.wire.openai_chat_reply import read_reply, write_reply
from kimiya.wire.openai_chat_request import read_request, write_request
from kimiya.wire.openai_chat_stream import ChatReader
from kimiya.wire.sse import MAX_LINE_BYTES, MEDIA_TYPE, SseEventDecoder

_ROUTE = "/v1/chat/completions"
_PATH = "/chat/completions"
"""Behind a host's base address, which ends in ``/v1`` or whatever stands in its place."""


class OpenAiChat:
    """The dialect, for clients and for hosts."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes

    @property
    def name(self) -> str:
        """``openai_chat``."""
        return CHAT

    @property
    def routes(self) -> tuple[Route, ...]:
        """One path; the body says whether to stream."""
        return (Route(_ROUTE),)

    @property
    def stream_content_type(self) -> str:
        """Server-sent events."""
        return MEDIA_TYPE

    def decode_request(
        self, body: bytes, *, model: str | None = None, stream: bool | None = None
    ) -> Request:
        """Read a client's body."""
        try:
            return read_request(parse_object(body), model, stream)
        except Misfit as misfit:
            raise misfit.as_local() from misfit

    def encode_request(self, request: Request, options: WireOptions) -> WireRequest:
        """Write a request for a host."""
        try:
            body = write_json(write_request(request, options))
        except Misfit as misfit:
            raise misfit.as_local() from misfit
        return WireRequest(_PATH, body, {"content-type": "application/json"})

    def decode_response(self, body: bytes) -> Response:
        """Read a host's whole reply."""
        try:
            fields = parse_object(body)
            if fields.get("error") or fields.get("object") == "error":
                raise error_in_reply(fields)
            return read_reply(fields)
        except Misfit as misfit:
            raise misfit.as_remote(body) from misfit

    def encode_response(self, response: Response, request: Request) -> bytes:
        """Write a whole reply to a client."""
        try:
            return write_json(write_reply(response, request))
        except Misfit as misfit:
            raise misfit.as_local() from misfit

    def event_decoder(self) -> EventDecoder:
        """A decoder for one streamed reply."""
        return SseEventDecoder(ChatReader(), self._max_line_bytes)

    def event_encoder(self, request: Request) -> EventEncoder:
        """An encoder for one streamed reply to this request."""
        return ChatEventEncoder(request)

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """What a host's error answer means."""
        return read_error(status, headers, body)

    def encode_error(self, error: KimiyaError) -> WireError:
        """The error as clients of OpenAI expect it."""
        return write_error(error)

    def decode_token_count(self, body: bytes) -> int:
        """This dialect has no token counting."""
        raise LocalProtocolError(f"{CHAT} has no token counting")

    def encode_token_count(self, input_tokens: int) -> bytes:
        """This dialect has no token counting."""
        raise LocalProtocolError(f"{CHAT} has no token counting")


OPENAI_CHAT = OpenAiChat()

if TYPE_CHECKING:
    _dialect: Dialect = OPENAI_CHAT
