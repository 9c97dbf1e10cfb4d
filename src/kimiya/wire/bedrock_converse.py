"""Bedrock Converse: ``POST /model/{model}/converse`` and ``/model/{model}/converse-stream``.

Spoken by boto3, Strands and every AWS SDK, and by Bedrock itself. The model and whether the reply
streams stand in the path; streams are binary (``wire.aws_eventstream``). Requests, bodies, blocks,
replies, streams and errors have a module each; this one is the door.

What it cannot say is refused, except that a reply's id, model and count of reasoning tokens have no
place on this wire and stay behind. What it normalises: see ``wire.anthropic_messages``.
Source: service model ``bedrock-runtime`` 2023-09-30 as of botocore 1.44.5.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kimiya.core.exchange import Request, Response
from kimiya.errors import KimiyaError, LocalProtocolError, ProviderError
from kimiya.wire.bedrock_converse_blocks import NAME
from kimiya.wire.bedrock_converse_bodies import write_path, write_prompt, write_request
from kimiya.wire.bedrock_converse_decoder import ConverseEventDecoder
from kimiya.wire.bedrock_converse_encoder import ConverseEventEncoder
from kimiya.wire.bedrock_converse_errors import read_error, write_error
from kimiya.wire.bedrock_converse_replies import read_response, write_response
from kimiya.wire.bedrock_converse_requests import read_request
from kimiya.wire.dialect import Dialect, Route, WireError, WireOptions, WireRequest
from kimiya.wire.json_fields import Misfit, count, parse_object, required, write_json

_HEADERS = {"content-type": "application/json"}


class BedrockConverse:
    """The dialect. See ``wire.dialect.Dialect``."""

    @property
    def name(self) -> str:
        """``bedrock_converse``."""
        return NAME

    @property
    def routes(self) -> tuple[Route, ...]:
        """Where it is spoken."""
        return (
            Route("/model/{model}/converse", streams=False),
            Route("/model/{model}/converse-stream", streams=True),
        )

    @property
    def stream_content_type(self) -> str:
        """Media type of a streamed reply."""
        return "application/vnd.amazon.eventstream"

    def decode_request(
        self, body: bytes, *, model: str | None = None, stream: bool | None = None
    ) -> Request:
        """Read a client's body."""
        try:
            return read_request(body, model, stream)
        except Misfit as misfit:
            raise misfit.as_local() from misfit

    def encode_request(self, request: Request, options: WireOptions) -> WireRequest:
        """Write a request for a host."""
        operation = "converse-stream" if request.stream else "converse"
        try:
            path = write_path(request.model, operation)
            return WireRequest(path, write_request(request), _HEADERS)
        except Misfit as misfit:
            raise misfit.as_local() from misfit

    def encode_count_request(self, request: Request) -> WireRequest:
        """Write a call of the service's CountTokens, which is no route of the gateway's.

        Raises:
            LocalProtocolError: The dialect cannot express it.
        """
        try:
            body = write_json({"input": {"converse": write_prompt(request)}})
            return WireRequest(write_path(request.model, "count-tokens"), body, _HEADERS)
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
            return write_response(response)
        except Misfit as misfit:
            raise misfit.as_local() from misfit

    def event_decoder(self) -> ConverseEventDecoder:
        """A decoder for one streamed reply."""
        return ConverseEventDecoder()

    def event_encoder(self, request: Request) -> ConverseEventEncoder:
        """An encoder for one streamed reply."""
        return ConverseEventEncoder()

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """What a host's error answer means."""
        return read_error(status, headers, body)

    def encode_error(self, error: KimiyaError) -> WireError:
        """The error as clients expect it."""
        return write_error(error)

    def decode_token_count(self, body: bytes) -> int:
        """Read the service's answer to CountTokens."""
        try:
            fields = parse_object(body)
            required(fields, "inputTokens", int)
            return count(fields, "inputTokens")
        except Misfit as misfit:
            raise misfit.as_remote(body) from misfit

    def encode_token_count(self, input_tokens: int) -> bytes:
        """There is no route to ask it on."""
        raise LocalProtocolError("Converse clients cannot ask for a token count here")


BEDROCK_CONVERSE = BedrockConverse()
"""The one instance; it holds no state."""

if TYPE_CHECKING:
    _conforms: Dialect = BEDROCK_CONVERSE
