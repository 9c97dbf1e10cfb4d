"""OpenAI Responses: the dialect of Codex, and of hosts that offer it beside Chat Completions.

Source: OpenAI's API reference, the ``openai`` SDK 3.54.0 and what Codex CLI 0.169.0 sends. Nothing
is stored between calls; see ``openai_responses_request`` for what that refuses.
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
from kimiya.wire.openai_responses_events import ResponsesEventEncoder
from kimiya.wire.openai_responses_items import RESPONSES
from kimiya.wire.openai_responses_reply import read_reply, write_reply
from kimiya.wire.openai_responses_request import read_request, write_request
from kimiya.wire.openai_responses_stream import ResponsesReader
from kimiya.wire.sse import MAX_LINE_BYTES, MEDIA_TYPE, SseEventDecoder

_ROUTE = "/v1/responses"
_PATH = "/responses"
"""Behind a host's base address, which ends in ``/v1`` or whatever stands in its place."""


class OpenAiResponses:
    """The dialect, for clients and for hosts."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes

    @property
    def name(self) -> str:
        """``openai_responses``."""
        return RESPONSES

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
            body = write_json(write_request(request))
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
        return SseEventDecoder(ResponsesReader(), self._max_line_bytes)

    def event_encoder(self, request: Request) -> EventEncoder:
        """An encoder for one streamed reply to this request."""
        return ResponsesEventEncoder(request)

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """What a host's error answer means."""
        return read_error(status, headers, body)

    def encode_error(self, error: KimiyaError) -> WireError:
        """The error as clients of OpenAI expect it."""
        return write_error(error)

    def decode_token_count(self, body: bytes) -> int:
        """This dialect has no token counting."""
        raise LocalProtocolError(f"{RESPONSES} has no token counting")

    def encode_token_count(self, input_tokens: int) -> bytes:
        """This dialect has no token counting."""
        raise LocalProtocolError(f"{RESPONSES} has no token counting")


OPENAI_RESPONSES = OpenAiResponses()

if TYPE_CHECKING:
    _dialect: Dialect = OPENAI_RESPONSES
