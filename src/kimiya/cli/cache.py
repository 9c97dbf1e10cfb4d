"""``kimiya cache lint``: what in recorded or live requests keeps a host's cache from working."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from kimiya.cli.configured import add_config_option
from kimiya.errors import ConfigError, LocalProtocolError, UnknownModel

if TYPE_CHECKING:
    from kimiya.caching.linter import Finding, Linter
    from kimiya.catalog.card import ModelCard
    from kimiya.catalog.catalog import Catalog
    from kimiya.core.exchange import Request

LIVE_PATH = "/kimiya/cache/findings"
"""Where a gateway answers with the findings of its own traffic, as ``findings_json``."""
_STEP = timedelta(seconds=10)
"""Between requests that say no time."""
_FOUND = 1


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:  # pyright: ignore[reportPrivateUsage]
    """Add ``cache``."""
    parser = subparsers.add_parser(
        "cache",
        help="what keeps prompt caching from working",
        description="Prompt caching: what in a client's requests keeps it from working.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    lint = actions.add_parser(
        "lint",
        help="findings with their place, cost and mend",
        description="Lint requests: bodies as clients send them, one JSON object a line, or records"
        ' {"body": ..., "at": ..., "dialect": ..., "model": ..., "conversation": ..., "key": ...}.',
        epilog="Exit code 1 where something was found.",
    )
    what = lint.add_mutually_exclusive_group(required=True)
    what.add_argument("file", metavar="FILE", nargs="?", help="JSON or JSONL; - reads stdin")
    what.add_argument("--live", action="store_true", help="ask a running gateway instead")
    lint.add_argument("--url", help="the gateway's address (from the configuration)")
    lint.add_argument("--dialect", help="of the bodies (guessed)")
    lint.add_argument("--model", help="the model they are judged for (the one they name)")
    lint.add_argument("--host", help="the host they are judged for (the first that caches)")
    lint.add_argument("--json", action="store_true", help="print a JSON list")
    add_config_option(lint)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 where there are any.

    Raises:
        ConfigError: The file or the gateway cannot be read.
        UnknownModel: Nothing is known of the model.
    """
    from kimiya.caching.linter import findings_json, findings_of

    found = findings_of(_ask(args)) if args.live else lint(_records(args.file), args).findings
    if args.json:
        print(findings_json(found).decode())
    else:
        print("\n".join(_lines(found)))
    return _FOUND if found else 0


def lint(records: Iterable[dict[str, Any]], args: argparse.Namespace) -> "Linter":
    """Feed every record to a linter.

    Raises:
        ConfigError: One of them is no request.
        UnknownModel: Nothing is known of its model.
    """
    from kimiya.caching.linter import Linter
    from kimiya.catalog.catalog import Catalog
    from kimiya.config import load_config
    from kimiya.core.context import CallContext

    catalog = Catalog.load(load_config(args.config).overrides)
    linter = Linter()
    now = datetime.now(UTC)
    for number, record in enumerate(records, 1):
        where = f"{args.file}:{number}"
        is_wrapped = isinstance(record.get("body"), dict)
        body: dict[str, Any] = record["body"] if is_wrapped else record
        said: dict[str, Any] = record if is_wrapped else {}
        now = _time(said.get("at"), where) or now + _STEP
        request = _request(body, said.get("dialect") or args.dialect, said.get("model"), where)
        card = _card(catalog, args.model or said.get("model") or request.model, args.host)
        context = CallContext(
            key_id=_word(said.get("key")), conversation=_word(said.get("conversation"))
        )
        linter.feed(request, card, context, now)
    return linter


def _records(file: str) -> Iterator[dict[str, Any]]:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=file) from error
    decode = msgspec.json.Decoder().decode
    try:
        whole: Any = decode(data)
        found = cast("list[Any]", whole) if isinstance(whole, list) else [whole]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        found = list[Any]()
        for number, line in enumerate(data.splitlines(), 1):
            if not line.strip():
                continue
            try:
                found.append(decode(line))
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise ConfigError(f"is no JSON: {error}", file=file, line=number) from error
    if not found:
        raise ConfigError("holds no requests", file=file)
    for number, record in enumerate(found, 1):
        if not isinstance(record, dict):
            raise ConfigError("is no JSON object", file=file, line=number)
        yield record


def _request(body: dict[str, Any], dialect: Any, model: Any, where: str) -> "Request":
    from kimiya.wire.dialects import DIALECTS

    name = dialect or _guess(body)
    if name not in DIALECTS:
        raise ConfigError(
            f"there is no dialect {str(name)[:40]!r}",
            file=where,
            remedy=f"Use one of {', '.join(DIALECTS)}",
        )
    model = _word(model) or _word(body.get("model")) or _word(body.get("modelId")) or "unnamed"
    in_path = name == "bedrock_converse"
    if not in_path and "model" not in body:
        body = {**body, "model": model}
    try:
        return DIALECTS[name].decode_request(
            msgspec.json.encode(body), model=model if in_path else None
        )
    except LocalProtocolError as error:
        raise ConfigError(
            f"is no {name} request: {error.message}", file=where, remedy="Say which with --dialect"
        ) from error


def _guess(body: dict[str, Any]) -> str:
    """The dialect a body is most likely in, by the fields only one of them has."""
    if "input" in body:
        return "openai_responses"
    if body.keys() & {"inferenceConfig", "toolConfig"}:
        return "bedrock_converse"
    system: Any = body.get("system")
    if isinstance(system, str) or any(
        "input_schema" in tool for tool in _objects(body.get("tools"))
    ):
        return "anthropic_messages"
    blocks = _objects(system)
    for message in _objects(body.get("messages")):
        blocks += _objects(message.get("content"))
    if blocks and all("type" not in block for block in blocks):
        return "bedrock_converse"
    if system is not None or any("cache_control" in block for block in blocks):
        return "anthropic_messages"
    return "openai_chat"


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list; none where it is something else."""
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def _card(catalog: "Catalog", name: str, host: str | None) -> "ModelCard":
    """The card requests are judged by: at the host that was said, else where it is cached."""
    cards = [card for card in catalog.cards if card.model_id == name] or list(catalog.named(name))
    if host is not None:
        cards = [card for card in cards if card.host == host]
        if not cards:
            raise UnknownModel(f"{host}/{name}", catalog.nearest(name))
    explicit = [card for card in cards if card.cache.kind == "explicit"]
    implicit = [card for card in cards if card.cache.kind == "implicit"]
    return (explicit or implicit or cards)[0]


def _time(at: Any, where: str) -> datetime | None:
    try:
        if isinstance(at, int | float) and not isinstance(at, bool):
            return datetime.fromtimestamp(at, UTC)
        if isinstance(at, str):
            time = datetime.fromisoformat(at)
            return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(
            f"{str(at)[:40]!r} is no time",
            file=where,
            key="at",
            remedy="Use ISO 8601 or Unix seconds",
        ) from error
    return None


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _ask(args: argparse.Namespace) -> bytes:
    """A running gateway's findings."""
    import os
    import urllib.error
    import urllib.request

    from kimiya.config import load_config

    gateway = load_config(args.config).gateway
    base = (args.url or f"http://{gateway.host}:{gateway.port}").rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise ConfigError(
            f"{base[:80]!r} is no address", key="--url", remedy="Use http://HOST:PORT"
        )
    headers = {"authorization": f"Bearer {key}"} if (key := os.environ.get("KIMIYA_KEY")) else {}
    request = urllib.request.Request(base + LIVE_PATH, headers=headers)  # noqa: S310 (checked above)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return answer.read()
    except urllib.error.HTTPError as error:
        remedy = {
            401: "Put a key of the gateway into KIMIYA_KEY",
            404: "It is no Kimiya gateway, or has caching off",
        }.get(error.code, "Look at the gateway's log")
        raise ConfigError(f"{base} answered {error.code}", key="--live", remedy=remedy) from error
    except OSError as error:
        raise ConfigError(
            f"{base} does not answer ({error})", key="--live", remedy="Start it: kimiya serve"
        ) from error


def _lines(found: "Iterable[Finding]") -> Iterator[str]:
    count = 0
    for one in found:
        count += 1
        place = one.path if one.offset is None else f"{one.path} at character {one.offset}"
        lost = "unpriced" if one.lost_usd is None else f"${one.lost_usd:.6f} lost"
        times = f", {one.count} calls" if one.count > 1 else ""
        yield f"{one.code} {place}: {one.detail} ({lost}{times})"
        yield f"    {one.mend}."
    if not count:
        yield "nothing found"
