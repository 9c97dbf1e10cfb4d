"""Any host that speaks OpenAI's or Anthropic's protocol over HTTP.

The provider knows addresses, credentials and what an HTTP answer may be; everything about bodies is
its dialect's. See ``providers.provider`` for the contract it keeps.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import msgspec
from msgspec.structs import replace

from kimiya.catalog.card import ModelCard
from kimiya.core.events import StreamEvent
from kimiya.core.exchange import Request, Response
from kimiya.core.fold import unfold
from kimiya.errors import (
    ConfigError,
    InvalidRequest,
    LocalProtocolError,
    Overloaded,
    ProviderError,
    RemoteProtocolError,
)
from kimiya.providers.endpoints import BaseAddress
from kimiya.providers.provider import Provider
from kimiya.providers.transport import HttpReply, Transport
from kimiya.wire.dialect import Dialect, WireOptions, WireRequest


@runtime_checkable
class TokenCounting(Protocol):
    """A dialect whose hosts count tokens on request."""

    def encode_count_request(self, request: Request) -> WireRequest:
        """Write a token count of the request for a host."""
        ...


class HttpProvider:
    """A host at an address, spoken to in one dialect.

    Args:
        name: Name in the configuration.
        base_url: Its address, with or without ``/v1``.
        api_key: Sent as the dialect's clients send it; ``None`` where the host wants none.
        dialect: What it speaks.
        transport: Carries the bytes; closed with the provider.
        options: Facts of the endpoint; ``None`` takes them from each call's card.
        extra_headers: Sent with every call; they win over all others.

    Raises:
        ConfigError: Address, key or a header cannot be used.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        api_key: str | None,
        dialect: Dialect,
        transport: Transport,
        options: WireOptions | None = None,
        *,
        extra_headers: Mapping[str, str] | None = None,
    ) -> None:
        self._name = name
        self._address = BaseAddress(base_url)
        self._dialect = dialect
        self._transport = transport
        self._options = options
        self._headers = {
            **_credentials(dialect, _clean(name, "api_key", api_key)),
            **{
                field.lower(): _clean(name, f"headers.{field}", value) or ""
                for field, value in (extra_headers or {}).items()
            },
        }

    @property
    def name(self) -> str:
        """Name in the configuration."""
        return self._name

    def dialect_for(self, card: ModelCard) -> Dialect | None:
        """The dialect of the address, whatever the card."""
        return self._dialect

    async def stream(self, request: Request, card: ModelCard) -> AsyncGenerator[StreamEvent, None]:
        """Answer as a stream."""
        reply = await self._ask(replace(request, stream=True), card)
        try:
            if _media_type(reply) == "application/json":
                # Some hosts answer whole although a stream was asked for.
                for event in unfold(self._dialect.decode_response(await reply.read())):
                    yield event
                return
            decoder = self._dialect.event_decoder()
            async with aclosing(reply.chunks()) as chunks:
                async for chunk in chunks:
                    for event in decoder.feed(chunk):
                        yield event
            for event in decoder.close():
                yield event
        except ProviderError as error:
            error.provider = error.provider or self._name
            raise
        finally:
            await reply.aclose()

    async def complete(self, request: Request, card: ModelCard) -> Response:
        """Answer whole."""
        reply = await self._ask(replace(request, stream=False), card)
        try:
            return self._dialect.decode_response(await reply.read())
        except ProviderError as error:
            error.provider = error.provider or self._name
            raise

    async def count_tokens(self, request: Request, card: ModelCard) -> int | None:
        """Input tokens as the host counts them; ``None`` where it or its dialect does not."""
        if not isinstance(self._dialect, TokenCounting):
            return None
        try:
            wire = self._dialect.encode_count_request(request)
        except LocalProtocolError as error:
            raise self._inexpressible(error) from error
        try:
            reply = await self._send(wire)
        except InvalidRequest as error:
            if error.status in (404, 405, 501):
                return None
            raise
        return self._dialect.decode_token_count(await reply.read())

    async def model_ids(self) -> tuple[str, ...]:
        """What the host lists under ``/v1/models``; also the cheapest proof that a key works.

        Raises:
            ProviderError: As ``complete``.
            RemoteProtocolError: The list cannot be read.
        """
        try:
            reply = await self._transport.get(self._address.join("/v1/models"), self._headers)
            await self._check(reply)
            body = await reply.read()
        except ProviderError as error:
            error.provider = error.provider or self._name
            raise
        try:
            listed = msgspec.json.decode(body)["data"]
            return tuple(str(cast(Mapping[str, Any], row)["id"]) for row in listed)
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise RemoteProtocolError(
                f"{self._name} lists its models in a form that cannot be read", frame=body
            ) from error

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def _ask(self, request: Request, card: ModelCard) -> HttpReply:
        options = self._options or WireOptions(
            reasoning_field=card.reasoning_field, max_tokens_field=card.max_tokens_field
        )
        try:
            wire = self._dialect.encode_request(request, options)
        except LocalProtocolError as error:
            raise self._inexpressible(error) from error
        return await self._send(wire)

    async def _send(self, wire: WireRequest) -> HttpReply:
        """Post a request; only an answer worth decoding comes back."""
        url = self._address.join(wire.path)
        try:
            reply = await self._transport.post(url, wire.body, {**wire.headers, **self._headers})
            await self._check(reply)
        except ProviderError as error:
            error.provider = error.provider or self._name
            raise
        return reply

    async def _check(self, reply: HttpReply) -> None:
        """Raise what an answer other than 2xx means, and let go of it."""
        media_type = _media_type(reply)
        if 200 <= reply.status < 300 and media_type != "text/html":
            return
        if 300 <= reply.status < 400:
            await reply.aclose()
            where = reply.headers.get("location", "another address").partition("?")[0]
            raise InvalidRequest(
                f"{self._name} answers {reply.status} and points to {where}; set base_url to the"
                " address it really has",
                status=reply.status,
            )
        body = await reply.read()
        if media_type == "text/html":
            raise self._page(reply, body)
        raise self._dialect.decode_error(reply.status, reply.headers, body)

    def _page(self, reply: HttpReply, body: bytes) -> ProviderError | RemoteProtocolError:
        """A web page: a proxy, a firewall or a wrong address answered, not the host."""
        says = f"{self._name} answered {reply.status} with a web page"
        if reply.status < 300:
            return RemoteProtocolError(f"{says}; is its base_url that of an API?", frame=body)
        meant = self._dialect.decode_error(reply.status, reply.headers, b"")
        hint = (
            "something in front of it failed"
            if isinstance(meant, Overloaded)
            else "is its base_url right?"
        )
        return type(meant)(
            f"{says}: {hint}",
            status=reply.status,
            request_id=meant.request_id,
            retry_after_s=meant.retry_after_s,
        )

    def _inexpressible(self, error: LocalProtocolError) -> InvalidRequest:
        return InvalidRequest(
            f"{self._name} cannot be asked this in {self._dialect.name}: {error.message}",
            provider=self._name,
        )


def _credentials(dialect: Dialect, api_key: str | None) -> dict[str, str]:
    if not api_key:
        return {}
    if dialect.name == "anthropic_messages":
        return {"x-api-key": api_key}
    return {"authorization": f"Bearer {api_key}"}


def _clean(provider: str, key: str, value: str | None) -> str | None:
    """A header's value without the line break that files end in.

    Raises:
        ConfigError: It holds what no header may; the value itself is not shown.
    """
    if value is None:
        return None
    stripped = value.strip()
    if not stripped.isascii() or not stripped.isprintable():
        raise ConfigError(
            "it holds characters that cannot be sent",
            key=f"providers.{provider}.{key}",
            remedy="Copy it again; a line break or a typographic quote may have slipped in",
        )
    return stripped


def _media_type(reply: HttpReply) -> str:
    return reply.headers.get("content-type", "").partition(";")[0].strip().lower()


if TYPE_CHECKING:

    def _conforms(dialect: Dialect, transport: Transport) -> Provider:
        return HttpProvider("", "", None, dialect, transport)

    _checked = _conforms
