"""Amazon Bedrock over Converse: own signatures, own framing, credentials of the AWS chain.

See ``providers.provider`` for the contract it keeps. A reply carries no id or model of its own, so
the request id of the answer and the model asked for stand in their places.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from msgspec.structs import replace

from kimiya.catalog.card import ModelCard
from kimiya.core.clock import Clock, SystemClock
from kimiya.core.events import StreamEvent, StreamStart
from kimiya.core.exchange import Request, Response
from kimiya.errors import (
    ConfigError,
    InvalidRequest,
    LocalProtocolError,
    ProviderError,
    RemoteProtocolError,
    Unauthorized,
)
from kimiya.providers.aws_credentials import BearerToken, CredentialSource
from kimiya.providers.aws_credentials import BotocoreCredentials as BotocoreCredentials
from kimiya.providers.provider import Provider
from kimiya.providers.sigv4 import Outgoing, Scope, sign
from kimiya.providers.transport import HttpReply, Transport
from kimiya.wire.bedrock_converse import BEDROCK_CONVERSE
from kimiya.wire.bedrock_converse_errors import asks_for_profile, names_no_model
from kimiya.wire.dialect import Dialect, WireOptions, WireRequest

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_OPTIONS = WireOptions()
_MAX_UNCOUNTED = 1024
_REQUEST_ID = "x-amzn-requestid"


class ModelIds(Protocol):
    """What the region accepts for the model ids of cards. Never fails for want of knowledge."""

    def current(self, written: str) -> str:
        """The id to call with, as far as is known.

        Raises:
            InvalidRequest: The user's settings forbid the model here.
        """
        ...

    async def alternatives(self, written: str) -> Sequence[str]:
        """What to call with after ``current`` was refused, best first."""
        ...

    def accept(self, written: str, model_id: str) -> None:
        """``model_id`` was taken for ``written``."""
        ...

    def counted(self, written: str) -> str:
        """The id CountTokens takes: a model's own, never a profile's."""
        ...

    def remedy(self, written: str) -> str:
        """What the user can do where every alternative was refused."""
        ...


class AsWritten:
    """Ids are what they are."""

    def current(self, written: str) -> str:
        """The same."""
        return written

    async def alternatives(self, written: str) -> Sequence[str]:
        """None."""
        return ()

    def accept(self, written: str, model_id: str) -> None:
        """Nothing is remembered."""

    def counted(self, written: str) -> str:
        """The same."""
        return written

    def remedy(self, written: str) -> str:
        """The refusal has its own."""
        return ""


class BedrockProvider:
    """Bedrock in one region.

    Args:
        name: Name in the configuration.
        region: Such as ``us-east-1``.
        transport: Carries the bytes; closed with the provider.
        credentials: Asked before every call.
        endpoint_url: Another address than the region's own, for private endpoints and tests.
        clock: Dates the signatures.
        ids: Knows what the region accepts; by default ids are sent as written.

    Raises:
        ConfigError: Region or address cannot be used.
    """

    def __init__(
        self,
        name: str,
        region: str,
        transport: Transport,
        credentials: CredentialSource,
        endpoint_url: str | None = None,
        *,
        clock: Clock | None = None,
        ids: ModelIds | None = None,
    ) -> None:
        self._name = name
        self._ids: ModelIds = ids or AsWritten()
        self._scope = Scope(_checked_region(name, region))
        self._transport = transport
        self._credentials = credentials
        self._clock = clock or SystemClock()
        address = endpoint_url or f"https://bedrock-runtime.{region}.{_suffix(region)}"
        self._address = _checked_address(name, address)
        self._uncounted: set[str] = set()
        """Models whose tokens the service refused to count."""

    @property
    def name(self) -> str:
        """Name in the configuration."""
        return self._name

    def dialect_for(self, card: ModelCard) -> Dialect | None:
        """Converse, for every card."""
        return BEDROCK_CONVERSE

    async def stream(self, request: Request, card: ModelCard) -> AsyncGenerator[StreamEvent, None]:
        """Answer as a stream."""
        reply, model_id = await self._ask(replace(request, stream=True))
        try:
            decoder = BEDROCK_CONVERSE.event_decoder()
            async with aclosing(reply.chunks()) as chunks:
                async for chunk in chunks:
                    for event in decoder.feed(chunk):
                        yield self._named(event, reply, model_id)
            for event in decoder.close():
                yield self._named(event, reply, model_id)
        except ProviderError as error:
            self._mine(error)
            raise
        finally:
            await reply.aclose()

    async def complete(self, request: Request, card: ModelCard) -> Response:
        """Answer whole."""
        reply, model_id = await self._ask(replace(request, stream=False))
        try:
            response = BEDROCK_CONVERSE.decode_response(await reply.read())
        except ProviderError as error:
            self._mine(error)
            raise
        finally:
            await reply.aclose()
        response_id = reply.headers.get(_REQUEST_ID, "")
        return replace(response, response_id=response_id, model=model_id)

    async def count_tokens(self, request: Request, card: ModelCard) -> int | None:
        """Input tokens as the service counts them; ``None`` for the many models it does not count.

        A refusal is remembered, so that it costs one call and not one a count.
        """
        if request.model in self._uncounted:
            return None
        try:
            counted = replace(request, model=self._ids.counted(request.model))
            wire = BEDROCK_CONVERSE.encode_count_request(counted)
        except LocalProtocolError as error:
            raise self._inexpressible(error) from error
        try:
            reply = await self._send(wire)
        except (InvalidRequest, Unauthorized):
            if len(self._uncounted) >= _MAX_UNCOUNTED:
                self._uncounted.clear()  # names come from clients
            self._uncounted.add(request.model)
            return None
        try:
            return BEDROCK_CONVERSE.decode_token_count(await reply.read())
        finally:
            await reply.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def _ask(self, request: Request) -> tuple[HttpReply, str]:
        """The answer, and the model id that was accepted."""
        asked = self._ids.current(request.model)
        try:
            return await self._ask_as(asked, request), asked
        except InvalidRequest as refusal:
            if not (asks_for_profile(refusal) or names_no_model(refusal)):
                raise
            return await self._ask_otherwise(request, asked, refusal)

    async def _ask_otherwise(
        self, request: Request, asked: str, refusal: InvalidRequest
    ) -> tuple[HttpReply, str]:
        """Ask through the profiles that could serve a model whose own id was refused."""
        written = request.model
        tried, closed = [asked], None
        for model_id in await self._ids.alternatives(written):
            tried.append(model_id)
            try:
                reply = await self._ask_as(model_id, request)
            except Unauthorized as error:
                closed = error  # some profiles may be closed to the account, and others not
                continue
            except InvalidRequest as error:
                if asks_for_profile(error) or names_no_model(error):
                    continue
                self._ids.accept(written, model_id)
                raise
            self._ids.accept(written, model_id)
            return reply, model_id
        remedy = self._ids.remedy(written)
        if closed is not None:
            raise closed from refusal
        if not remedy:
            raise refusal
        raise InvalidRequest(
            f"{self._name} refuses {' and '.join(tried)} ({refusal.message.partition('. ')[0]})."
            f" {remedy}",
            provider=self._name,
            status=refusal.status,
            code=refusal.code,
            request_id=refusal.request_id,
        ) from refusal

    async def _ask_as(self, model_id: str, request: Request) -> HttpReply:
        try:
            wire = BEDROCK_CONVERSE.encode_request(replace(request, model=model_id), _OPTIONS)
        except LocalProtocolError as error:
            raise self._inexpressible(error) from error
        return await self._send(wire)

    async def _send(self, wire: WireRequest) -> HttpReply:
        url = self._address + wire.path
        try:
            headers = await self._proven(url, wire)
            reply = await self._transport.post(url, wire.body, headers)
            is_page = reply.headers.get("content-type", "").startswith("text/html")
            if reply.status == 200 and not is_page:
                return reply
            try:
                body = await reply.read()
            finally:
                await reply.aclose()
        except ProviderError as error:
            self._mine(error)
            raise
        raise self._refusal(reply, body, is_page)

    def _refusal(
        self, reply: HttpReply, body: bytes, is_page: bool
    ) -> ProviderError | RemoteProtocolError:
        """What an answer other than the service's own 200 means."""
        what = "a web page" if is_page else "no answer"
        says = f"{self._name} answered {reply.status} with {what}; is its address right?"
        if reply.status < 400:
            return RemoteProtocolError(says, frame=body)
        told = says.encode() if is_page else body
        return self._mine(BEDROCK_CONVERSE.decode_error(reply.status, reply.headers, told))

    async def _proven(self, url: str, wire: WireRequest) -> Mapping[str, str]:
        """The headers that say who calls."""
        credentials = await self._credentials.current()
        if not isinstance(credentials, BearerToken):
            call = Outgoing("POST", url, wire.body, wire.headers)
            return sign(call, credentials, self._scope, self._clock.now())
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise Unauthorized(
                f"a bearer key is not sent in the clear to {parts.hostname}; use https, or AWS keys"
            )
        return {**wire.headers, "authorization": f"Bearer {credentials.token}"}

    def _inexpressible(self, error: LocalProtocolError) -> InvalidRequest:
        return InvalidRequest(
            f"{self._name} cannot be asked this in Converse: {error.message}", provider=self._name
        )

    def _mine(self, error: ProviderError) -> ProviderError:
        error.provider = error.provider or self._name
        return error

    @staticmethod
    def _named(event: StreamEvent, reply: HttpReply, model_id: str) -> StreamEvent:
        if not isinstance(event, StreamStart):
            return event
        response_id = reply.headers.get(_REQUEST_ID, "")
        return replace(event, response_id=response_id, model=model_id)


def _checked_region(name: str, region: str) -> str:
    if region and region.isascii() and region.replace("-", "").isalnum():
        return region
    raise ConfigError(
        f"{region!r} is not an AWS region",
        key=f"providers.{name}.region",
        remedy="Give one such as us-east-1, or set AWS_REGION",
    )


def _suffix(region: str) -> str:
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"


def _checked_address(name: str, address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment):
        return address.rstrip("/")
    raise ConfigError(
        f"{address!r} is not an address",
        key=f"providers.{name}.endpoint_url",
        remedy="Give one such as https://bedrock-runtime.us-east-1.amazonaws.com",
    )


if TYPE_CHECKING:

    def _conforms(provider: BedrockProvider) -> Provider:
        return provider

    _checked = _conforms
    _ids: ModelIds = AsWritten()
