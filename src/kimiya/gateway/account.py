"""On whose account a call is made: from the key that was shown and the headers beside it.

Headers a client or its operator may set: ``x-kimiya-tags: department=sales,project=x``,
``x-kimiya-conversation: ID``, ``x-kimiya-run: ID``. Where no conversation is named, the session ids
that known clients send are taken; otherwise there is none.
"""

from collections.abc import Mapping

from kimiya.core.context import CallContext
from kimiya.core.exchange import Request
from kimiya.errors import LocalProtocolError
from kimiya.gateway.exchange import Exchange

_MAX_CHARS = 200
_MAX_TAGS = 16
_SESSION_HEADERS = (b"x-kimiya-conversation", b"x-session-id", b"session_id", b"session-id")


def context_of(exchange: Exchange, key_id: str | None, request: Request, front: str) -> CallContext:
    """The account of one call.

    Raises:
        LocalProtocolError: A header of ours cannot be read.
    """
    headers = exchange.headers
    conversation = next(
        (_text(headers[name]) for name in _SESSION_HEADERS if name in headers), None
    )
    run = headers.get(b"x-kimiya-run")
    return CallContext(
        key_id=key_id,
        tags=_tags(headers.get(b"x-kimiya-tags")),
        conversation=conversation,
        user=request.user,
        run=_text(run) if run is not None else None,
        front=front,
    )


def _tags(header: bytes | None) -> Mapping[str, str]:
    """Tags of ``a=b,c=d``.

    >>> _tags(b"department=sales, project=x")
    {'department': 'sales', 'project': 'x'}
    """
    if header is None:
        return {}
    tags: dict[str, str] = {}
    for piece in _text(header).split(","):
        name, equals, value = piece.strip().partition("=")
        if not (name and equals):
            raise LocalProtocolError(
                f"x-kimiya-tags: {piece.strip()!r} is not NAME=VALUE; write them as a=b,c=d"
            )
        tags[name.strip()] = value.strip()
    if len(tags) > _MAX_TAGS:
        raise LocalProtocolError(f"x-kimiya-tags: at most {_MAX_TAGS} tags, not {len(tags)}")
    return tags


def _text(header: bytes) -> str:
    return header.decode("latin-1").strip()[:_MAX_CHARS]
