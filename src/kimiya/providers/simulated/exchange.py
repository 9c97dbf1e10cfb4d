"""One HTTP request to a simulated host and its answer, over ASGI."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

from kimiya.errors import KimiyaError, ProviderError
from kimiya.providers.simulated.host import Performance
from kimiya.wire.dialect import Dialect

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY_BYTES = 64 << 20


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        self.method: str = scope["method"]
        self.path = raw_path.decode("ascii", "replace").partition("?")[0]
        """Percent-encoded."""
        self.query: str = scope.get("query_string", b"").decode("ascii", "replace")
        self.has_begun = False
        self.has_ended = False
        """Whether all of an answer was written."""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._begins: Callable[[], object] | None = None
        self._remarks: dict[str, str] = {}

    @property
    def headers(self) -> Mapping[str, str]:
        """Of the request, names in lower case."""
        return {k.decode("latin-1"): v.decode("latin-1") for k, v in self._scope["headers"]}

    def when_begun(self, action: Callable[[], object]) -> None:
        """Call ``action`` when a good answer begins."""
        self._begins = action

    def remark(self, performance: Performance) -> None:
        """Say in the headers what was performed, for people who read along."""
        performed = performance.performed
        self._remarks = {
            "x-kimiya-simulated": f"request={performed.number} line={performed.line}"
            f" fault={performed.fault or 'none'}",
            # Converse has no id in its bodies; the service puts it here.
            "x-amzn-requestid": f"simulated-{performed.number}",
        }

    async def body(self) -> bytes:
        """The whole body, as far as it is sane."""
        pieces: list[bytes] = []
        size = 0
        while size <= MAX_BODY_BYTES:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                break
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if not message.get("more_body"):
                break
        return b"".join(pieces)

    async def left(self) -> None:
        """Returns when the client has closed its connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """A whole answer."""
        told = {"content-type": "application/json", **(headers or {})}
        await self._open(status, {**told, "content-length": str(len(body))})
        await self.end(body)

    async def refuse(self, dialect: Dialect, error: KimiyaError) -> None:
        """An error answer, with the status the script wants."""
        wire = dialect.encode_error(error)
        status = error.status if isinstance(error, ProviderError) and error.status else wire.status
        headers = dict(wire.headers)
        if isinstance(error, ProviderError) and error.retry_after_s is not None:
            # As written: dialects round up, and a test of seconds should not take one.
            headers["retry-after"] = f"{error.retry_after_s:g}"
        await self.answer(status, wire.body, headers)

    async def begin(self, content_type: str) -> None:
        """The head of a streamed answer, once."""
        if not self.has_begun:
            await self._open(200, {"content-type": content_type, "cache-control": "no-cache"})

    async def write(self, data: bytes) -> None:
        """Some of the body."""
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        """The last of the body."""
        await self._send({"type": "http.response.body", "body": data})
        self.has_ended = True

    async def break_off(self, content_type: str) -> None:
        """Begin an answer that never ends; the server then closes the connection."""
        await self.begin(content_type)
        await self.write(b":" if content_type.startswith("text/") else b"\x00")

    async def _open(self, status: int, headers: Mapping[str, str]) -> None:
        self.has_begun = True
        if status == 200 and self._begins is not None:
            self._begins()
        fields = {**self._remarks, **headers}
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
            }
        )
