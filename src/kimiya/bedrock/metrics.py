"""What a settled call says to CloudWatch: one line of the embedded metric format (EMF).

A line on stdout in Lambda or ECS, or in a file that the CloudWatch agent follows, becomes metrics
and a searchable record at once, with no call of AWS on anybody's path. Our namespace is our own:
``AWS/`` is reserved. Every dimension multiplies what CloudWatch charges, so dimensions are few and
chosen; what identifies one call (conversation, run, key) is a plain property. CloudWatch knows
doubles only: exact dollars stay in the ledger, and a call without a price has no dollars here.

Source: "Specification: Embedded metric format", CloudWatch user guide (2026-11-22).
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

from msgspec import Struct

from kimiya.core.exchange import Usage
from kimiya.errors import ConfigError, LedgerError

NAMESPACE = "Kimiya"
_NAME = re.compile(r"[A-Za-z0-9.\-_/#:]{1,255}")
_MAX_TAG_DIMENSIONS = 8
_MAX_VALUE = 1024
_UNITS: Mapping[str, str] = {
    "Calls": "Count",
    "Failures": "Count",
    "Retries": "Count",
    "Repairs": "Count",
    "UnpricedCalls": "Count",
    "InputTokens": "Count",
    "FreshInputTokens": "Count",
    "CacheReadTokens": "Count",
    "CacheWriteTokens": "Count",
    "OutputTokens": "Count",
    "ReasoningTokens": "Count",
    "CostUSD": "None",
    "SavedByCachingUSD": "None",
    "SavedByRoutingUSD": "None",
    "Duration": "Milliseconds",
    "TimeToFirstToken": "Milliseconds",
}
METRICS = tuple(_UNITS)
"""Every metric there is."""


class Attempted(Protocol):
    """One try at one host. The ledger's ``LedgerAttempt`` is one."""

    @property
    def provider(self) -> str: ...
    @property
    def model_id(self) -> str: ...
    @property
    def profile(self) -> str | None: ...
    @property
    def usd(self) -> Decimal | None: ...
    @property
    def saved_by_caching_usd(self) -> Decimal | None: ...


class Settled(Protocol):
    """A settled call. The ledger's ``LedgerRecord`` is one."""

    @property
    def call_id(self) -> str: ...
    @property
    def at(self) -> datetime: ...
    @property
    def model(self) -> str: ...
    @property
    def key_id(self) -> str | None: ...
    @property
    def tags(self) -> Mapping[str, str]: ...
    @property
    def conversation(self) -> str | None: ...
    @property
    def run(self) -> str | None: ...
    @property
    def route(self) -> str | None: ...
    @property
    def attempts(self) -> Sequence[Attempted]: ...
    @property
    def usage(self) -> Usage: ...
    @property
    def usd(self) -> Decimal | None: ...
    @property
    def saved_by_routing_usd(self) -> Decimal | None: ...
    @property
    def first_event_s(self) -> float | None: ...
    @property
    def duration_s(self) -> float: ...
    @property
    def outcome(self) -> str: ...
    @property
    def repairs(self) -> Sequence[object]: ...
    @property
    def error(self) -> str | None: ...


class EmfFormat(Struct, frozen=True):
    """How lines are written.

    Raises:
        ConfigError: A namespace CloudWatch does not take, or too many tags.
    """

    namespace: str = NAMESPACE
    tags: tuple[str, ...] = ()
    """Tags that are dimensions, each in a set of its own: what costs are looked at by."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.namespace) or self.namespace.upper().startswith("AWS/"):
            raise ConfigError(
                f"{self.namespace[:80]!r} is no namespace for metrics of one's own",
                key="namespace",
                remedy="Use letters, digits and . - _ / # : , and not AWS/ in front",
            )
        if len(self.tags) > _MAX_TAG_DIMENSIONS:
            raise ConfigError(
                f"{len(self.tags)} tags are too many dimensions",
                key="tags",
                remedy=f"Name {_MAX_TAG_DIMENSIONS} at most: each multiplies what CloudWatch costs",
            )

    def line(self, call: Settled) -> str:
        """One call as one line, without its end."""
        figures = _figures(call)
        where = _dimensions(call)
        tags = {name: _value(call.tags[name]) for name in self.tags if call.tags.get(name)}
        sets = [[], ["Provider"], ["Provider", "Model"], *([name] for name in tags)]
        directive = {
            "Namespace": self.namespace,
            "Dimensions": sets,
            "Metrics": [{"Name": name, "Unit": _UNITS[name]} for name in figures],
        }
        stamp = int(call.at.timestamp() * 1000)
        head = {"_aws": {"Timestamp": stamp, "CloudWatchMetrics": [directive]}}
        return json.dumps({**head, **_properties(call), **tags, **where, **figures})


class EmfLog:
    """Appends lines to a file, or to stdout. One writer a process; a line goes out in one write.

    Args:
        path: ``-`` for stdout.
        form: How lines are written.

    Raises:
        LedgerError: The file cannot be opened.
    """

    def __init__(self, path: str | Path, form: EmfFormat | None = None) -> None:
        self._form = form or EmfFormat()
        self._path = str(path)
        self._file: IO[bytes] | None = None
        if self._path != "-":
            try:
                self._file = Path(path).open("ab", buffering=0)  # noqa: SIM115 (closed by close)
            except OSError as error:
                raise LedgerError(
                    f"metrics cannot be written to {path}: {error.strerror}. Choose another file,"
                    " or - for stdout"
                ) from error

    def add(self, call: Settled) -> bool:
        """Write one call; whether it could be. Metrics never stand in a call's way."""
        line = self._form.line(call).encode() + b"\n"
        try:
            if self._file is not None:
                return self._file.write(line) == len(line)
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except (OSError, ValueError):
            return False
        return True

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> "EmfLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _figures(call: Settled) -> dict[str, float]:
    usage, usd = call.usage, call.usd
    saved = [a.saved_by_caching_usd for a in call.attempts if a.saved_by_caching_usd is not None]
    maybe: dict[str, float | Decimal | None] = {
        "Calls": 1,
        "Failures": int(call.error is not None),
        "Retries": max(0, len(call.attempts) - 1),
        "Repairs": len(call.repairs),
        "UnpricedCalls": int(usd is None),
        "InputTokens": usage.input_tokens,
        "FreshInputTokens": usage.fresh_input_tokens,
        "CacheReadTokens": usage.cache_read_tokens,
        "CacheWriteTokens": usage.cache_write_tokens,
        "OutputTokens": usage.output_tokens,
        "ReasoningTokens": usage.reasoning_tokens,
        "CostUSD": usd,
        "SavedByCachingUSD": sum(saved, Decimal(0)) if saved else None,
        "SavedByRoutingUSD": call.saved_by_routing_usd,
        "Duration": call.duration_s * 1000,
        "TimeToFirstToken": None if call.first_event_s is None else call.first_event_s * 1000,
    }
    return {
        name: float(value) if isinstance(value, Decimal) else value
        for name, value in maybe.items()
        if value is not None
    }


def _dimensions(call: Settled) -> dict[str, str]:
    last = call.attempts[-1] if call.attempts else None
    return {
        "Provider": _value(last.provider if last is not None else "none"),
        "Model": _value(last.model_id if last is not None else call.model),
    }


def _properties(call: Settled) -> dict[str, Any]:
    last = call.attempts[-1] if call.attempts else None
    said = {
        "CallId": call.call_id,
        "AskedModel": call.model,
        "Route": call.route,
        "Profile": last.profile if last is not None else None,
        "Key": call.key_id,
        "Conversation": call.conversation,
        "Run": call.run,
        "Outcome": call.outcome,
        "Error": call.error,
        "Tags": dict(call.tags) or None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _value(text: str) -> str:
    """A dimension's value: CloudWatch takes ASCII, no control characters, and no blank alone.

    >>> _value(" a\\nb "), _value(""), _value("\\u8cc7")
    ('a b', '-', '?')
    """
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain.encode("ascii", "replace").decode()[:_MAX_VALUE].strip() or "-"
