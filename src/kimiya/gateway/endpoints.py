"""What the gateway does at each path.

``Endpoints.call`` is the request edge: the one place here where every exception ends, as an answer
in the front's own dialect.
"""

import logging
from collections.abc import Sequence
from typing import Protocol

import msgspec

from kimiya.core.context import CallContext
from kimiya.core.exchange import Request
from kimiya.errors import KimiyaError, LocalProtocolError, Overloaded, Unauthorized, redact
from kimiya.gateway.account import context_of
from kimiya.gateway.exchange import (
    BodyTooLarge,
    ClientGone,
    Departure,
    Exchange,
    HeadersTooLarge,
)
from kimiya.gateway.fronts import Match
from kimiya.gateway.keys import Key, KeyStore
from kimiya.gateway.metrics import Metrics
from kimiya.gateway.openapi import openapi_document
from kimiya.gateway.remarks import closing_remarks
from kimiya.gateway.streaming import new_response_id, send_stream
from kimiya.gateway.telemetry import Telemetry
from kimiya.pipeline import Call, Pipeline

_log = logging.getLogger("kimiya.gateway")
_JSON = b"application/json"


class Limits(msgspec.Struct, frozen=True):
    """What one gateway process takes on."""

    max_body_bytes: int = 32 * 1024 * 1024
    max_header_bytes: int = 64 * 1024
    max_streams: int = 512
    """Requests answered at once; more are refused with 503 and Retry-After."""


class ModelList(Protocol):
    """Names a client may ask for."""

    def model_names(self) -> Sequence[str]:
        """Routes and aliases first, then every configured target."""
        ...


class Endpoints:
    """The handlers, over one pipeline."""

    def __init__(
        self,
        pipeline: Pipeline,
        models: ModelList,
        *,
        keys: KeyStore,
        limits: Limits,
        metrics: Metrics,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._models = models
        self._keys = keys
        self._limits = limits
        self._metrics = metrics
        self._telemetry = telemetry
        self._in_flight = 0
        self._openapi = msgspec.json.encode(openapi_document())

    @property
    def in_flight(self) -> int:
        """Requests being answered now."""
        return self._in_flight

    async def call(self, exchange: Exchange, match: Match) -> None:
        """Answer a model call, whole or streamed, or a token count."""
        self._in_flight += 1
        self._metrics.in_flight.inc()
        call: Call | None = None
        try:
            request, context = await self._admit(exchange, match)
            if match.route.counts_tokens:
                await self._count(exchange, match, request)
                return
            stream = request.stream
            start = self._pipeline.stream if stream else self._pipeline.whole
            call = start(request, context)
            async with Departure(exchange):
                if stream:
                    await send_stream(exchange, match.dialect, request, call)
                else:
                    await self._send_whole(exchange, match, request, call)
        except ClientGone:
            exchange.status = exchange.status or 499
        except KimiyaError as error:
            await self._send_error(exchange, match, error)
        except Exception as error:  # noqa: BLE001 (the gateway's request edge, design §5)
            _log.exception("request to %s failed inside Kimiya", exchange.path)
            await self._send_error(exchange, match, _internal(error))
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.dec()
            report = call.report if call is not None else None
            self._metrics.observe(match.dialect.name, exchange.status, report)
            if self._telemetry is not None and report is not None:
                self._telemetry.record(match.dialect.name, exchange.status, report)

    async def models(self, exchange: Exchange) -> None:
        """List the names a client may ask for, as OpenAI's or Anthropic's clients expect it."""
        try:
            self._key(exchange)
        except Unauthorized as refusal:
            await self._plain_error(exchange, refusal)
            return
        names = self._models.model_names()
        body: dict[str, object]
        if b"anthropic-version" in exchange.headers:
            listed = [
                {
                    "type": "model",
                    "id": name,
                    "display_name": name,
                    "created_at": "1970-01-01T00:00:00Z",
                }
                for name in names
            ]
            edges = {"first_id": names[0], "last_id": names[-1]} if names else {}
            body = {"data": listed, "has_more": False, **edges}
        else:
            listed = [
                {"id": name, "object": "model", "created": 0, "owned_by": "kimiya"}
                for name in names
            ]
            body = {"object": "list", "data": listed}
        await exchange.answer(200, msgspec.json.encode(body), _JSON)

    async def healthz(self, exchange: Exchange) -> None:
        """Say that the process answers, and how busy it is."""
        body = {"status": "ok", "in_flight": self._in_flight}
        await exchange.answer(200, msgspec.json.encode(body), _JSON)

    async def metrics(self, exchange: Exchange) -> None:
        """The Prometheus page."""
        try:
            self._key(exchange)
        except Unauthorized as refusal:
            await self._plain_error(exchange, refusal)
            return
        page = self._metrics.page()
        await exchange.answer(200, page, self._metrics.content_type.encode())

    async def openapi(self, exchange: Exchange) -> None:
        """The published description of this gateway."""
        await exchange.answer(200, self._openapi, _JSON)

    async def not_found(self, exchange: Exchange) -> None:
        """A path nobody serves."""
        await self._plain_error(exchange, _Status(404, f"nothing is served at {exchange.path!r}"))

    async def wrong_method(self, exchange: Exchange, allowed: str) -> None:
        """A path that is served, but not by this method."""
        message = f"{exchange.path} takes {allowed}, not {exchange.method}"
        await self._plain_error(exchange, _Status(405, message), {"allow": allowed})

    async def _admit(self, exchange: Exchange, match: Match) -> tuple[Request, CallContext]:
        """Everything that can refuse a request before it reaches the pipeline."""
        exchange.check_headers(self._limits.max_header_bytes)
        key = self._key(exchange)
        if self._in_flight > self._limits.max_streams:
            raise Overloaded(
                f"this gateway already answers {self._limits.max_streams} requests"
                " (gateway.max_streams)",
                retry_after_s=1,
            )
        body = await exchange.body(self._limits.max_body_bytes)
        request = match.dialect.decode_request(body, model=match.model, stream=match.route.streams)
        key_id = key.key_id if key is not None else None
        return request, context_of(exchange, key_id, request, match.dialect.name)

    async def _send_whole(
        self, exchange: Exchange, match: Match, request: Request, call: Call
    ) -> None:
        outcome = await call.outcome()
        response = msgspec.structs.replace(
            outcome.response,
            model=request.model,
            response_id=outcome.response.response_id or new_response_id(),
        )
        remarks = closing_remarks(outcome.report)
        await exchange.answer(
            200,
            match.dialect.encode_response(response, request),
            _JSON,
            {f"x-kimiya-{key}": value for key, value in remarks.items()},
        )

    async def _count(self, exchange: Exchange, match: Match, request: Request) -> None:
        async with Departure(exchange):
            counted = await self._pipeline.count_tokens(request)
        remark = {"x-kimiya-count": "estimated" if counted.is_estimate else "host"}
        body = match.dialect.encode_token_count(counted.input_tokens)
        await exchange.answer(200, body, _JSON, remark)

    async def _send_error(self, exchange: Exchange, match: Match, error: KimiyaError) -> None:
        if exchange.has_started:
            # Too late for an answer; closing without a proper end tells the client it was cut.
            _log.warning("reply cut after it began: %s", error)
            return
        answer = match.dialect.encode_error(error)
        status = _STATUS_OF.get(type(error), answer.status)
        await exchange.answer(status, answer.body, _JSON, answer.headers)

    def _key(self, exchange: Exchange) -> Key | None:
        """The key this caller shows; ``None`` where the gateway has none and asks for none.

        Raises:
            Unauthorized: No key, or an unknown one.
        """
        if not self._keys.has_active:
            return None
        secret = presented_secret(exchange)
        if secret is None:
            raise Unauthorized(
                "this gateway wants one of its keys, as `Authorization: Bearer KEY` or `x-api-key`"
            )
        key = self._keys.check(secret)
        if key is None:
            raise Unauthorized("this gateway does not know that key")
        return key

    async def _plain_error(
        self, exchange: Exchange, error: KimiyaError, headers: dict[str, str] | None = None
    ) -> None:
        status = error.code if isinstance(error, _Status) else error.status_hint
        body = {"error": {"message": error.message, "type": type(error).__name__.lstrip("_")}}
        await exchange.answer(status, msgspec.json.encode(body), _JSON, headers)


_STATUS_OF: dict[type[KimiyaError], int] = {BodyTooLarge: 413, HeadersTooLarge: 431}


class _Status(LocalProtocolError):
    """An answer that needs nothing but a status and a sentence."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def presented_secret(exchange: Exchange) -> str | None:
    """The key a caller shows, wherever its client puts it.

    AWS clients sign instead of sending a secret; for them the gateway's key stands in the place of
    the access key id, which is the one part of a signature that travels in the clear.
    """
    if (header := exchange.headers.get(b"authorization")) is not None:
        text = header.decode("latin-1")
        scheme, _, rest = text.partition(" ")
        if scheme.lower() == "bearer":
            return rest.strip()
        if scheme == "AWS4-HMAC-SHA256":
            credential = rest.partition("Credential=")[2]
            return credential.partition("/")[0] or None
    if (header := exchange.headers.get(b"x-api-key")) is not None:
        return header.decode("latin-1")
    return None


def _internal(error: Exception) -> KimiyaError:
    return KimiyaError(
        f"Kimiya failed inside ({type(error).__name__}): {redact(str(error))[:200]};"
        " the gateway's log has the whole story"
    )
