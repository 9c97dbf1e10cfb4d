"""Every exception Kimiya raises, named for the boundary that failed.

::

    KimiyaError
      ConfigError                 what the user wrote: file, key, remedy
      UnknownModel                with the nearest known names
      ProtocolError
        LocalProtocolError        our side asked for what cannot be said (our bug, or the caller's)
        RemoteProtocolError       their side sent what cannot be read; carries the frame
      ProviderError
        ProviderUnreachable       retryable
        ProviderTimeout           retryable
        RateLimited               retryable
        Overloaded                retryable
        Unauthorized              final
        InvalidRequest            final
        ContextOverflow           final
      TamingExhausted             carries the verdict
      BudgetExceeded              which budget, by how much
      LedgerError                 what calls cost cannot be kept or read
      JournalError
        ReplayMismatch
      DeliverableError

Each class declares two facts: ``retryable`` (may the same call be sent again) and ``status_hint``
(the HTTP status a server answers with). Retry policy and gateway read those and branch on nothing
else. A message says what happened, to which thing, and what to do; details are attributes.

A model that misbehaves is data (a Defect), a tool that fails is data (a ToolResult): neither is
here.
"""

import re
from collections.abc import Sequence
from typing import ClassVar

_SECRET_PATTERNS = (
    # Ordered from the most to the least specific: the first match wins the whole run of characters.
    re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"\bsk-[A-Za-z0-9_-]{8,}"),
    re.compile(r"\bkmy-[A-Za-z0-9_-]{8,}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}"),
    re.compile(r"\bbedrock-api-key-[A-Za-z0-9+/=_-]{8,}"),
    re.compile(r"(?i)(?<=signature=)[0-9a-f]{32,}"),
    re.compile(
        r"(?i)(?<=api[-_]key[\"'=:\s])[\"'=:\s]*[A-Za-z0-9._~+/=-]{12,}",
    ),
)


def redact(text: str) -> str:
    """Replace every credential-shaped run in ``text`` by ``[redacted]``.

    The one place where secrets are taken out of messages; everything that logs or answers with
    foreign text goes through it.

    >>> redact("401 for Bearer abcdefghij0123456789")
    '401 for [redacted]'
    """
    for pattern in _SECRET_PATTERNS:
        text = pattern.sub("[redacted]", text)
    return text


class KimiyaError(Exception):
    """The root: catch it to catch everything Kimiya raises on purpose."""

    retryable: ClassVar[bool] = False
    """Whether sending the same call again can help."""

    status_hint: ClassVar[int] = 500
    """The HTTP status a server should answer with."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))

    @property
    def message(self) -> str:
        """The message, with secrets already redacted."""
        return str(self.args[0])


class ConfigError(KimiyaError):
    """What the user wrote cannot be used: which file, which key, and the remedy."""

    status_hint = 500

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        key: str | None = None,
        remedy: str | None = None,
    ) -> None:
        place = ":".join(str(part) for part in (file, line) if part is not None)
        parts = [f"{place}: " if place else "", f"{key}: " if key else "", message]
        parts += [f". {remedy}" if remedy else ""]
        super().__init__("".join(parts))
        self.file = file
        self.line = line
        self.key = key
        self.remedy = remedy


class UnknownModel(KimiyaError):
    """No route, alias or card answers to this name; ``nearest`` lists what may have been meant."""

    status_hint = 404

    def __init__(self, model: str, nearest: Sequence[str] = ()) -> None:
        hint = f"; did you mean {', '.join(nearest)}?" if nearest else ""
        super().__init__(f"no model is called {model!r}{hint} (`kimiya models` lists them)")
        self.model = model
        self.nearest = tuple(nearest)


class ProtocolError(KimiyaError):
    """Bytes and values do not fit together at a wire."""


class LocalProtocolError(ProtocolError):
    """A value cannot be said in this dialect, or a caller's bytes cannot be read.

    ``path`` names the place in the body (``messages[3].content[0].type``) where there is one.
    """

    status_hint = 400

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class RemoteProtocolError(ProtocolError):
    """The other side sent what cannot be read; ``frame`` holds the first bytes of it."""

    retryable = True
    status_hint = 502

    def __init__(self, message: str, *, frame: bytes = b"") -> None:
        super().__init__(message)
        self.frame = frame[:2048]


class ProviderError(KimiyaError):
    """A host of models answered with an error, or did not answer."""

    status_hint = 502

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        """Name of the provider in the configuration."""
        self.status = status
        """The upstream HTTP status, where there was one."""
        self.code = code
        """The upstream's own error code or type, verbatim."""
        self.request_id = request_id
        """The upstream's request id, for its support."""
        self.retry_after_s = retry_after_s
        """Seconds the upstream asked to wait, where it did."""


class ProviderUnreachable(ProviderError):
    """No connection: refused, reset, name not found, TLS failed."""

    retryable = True
    status_hint = 502


class ProviderTimeout(ProviderError):
    """The host did not connect, answer, or go on within the phase's limit."""

    retryable = True
    status_hint = 504


class RateLimited(ProviderError):
    """The host refuses for now (429, or a throttling exception)."""

    retryable = True
    status_hint = 429


class Overloaded(ProviderError):
    """The host failed on its own account (5xx, overloaded)."""

    retryable = True
    status_hint = 503


class Unauthorized(ProviderError):
    """The host does not accept the credentials (401, 403)."""

    status_hint = 401


class InvalidRequest(ProviderError):
    """The host, or Kimiya before sending, refuses what was asked (400, 404, 422)."""

    status_hint = 400


class ContextOverflow(ProviderError):
    """The request does not fit the model's window."""

    status_hint = 400


class TamingExhausted(KimiyaError):
    """The reply could not be mended and asking again did not help; ``verdict`` says why."""

    status_hint = 502

    def __init__(self, message: str, verdict: object = None) -> None:
        super().__init__(message)
        self.verdict = verdict


class BudgetExceeded(KimiyaError):
    """A budget has no room for this call: which one, what is left, when it resets."""

    status_hint = 429

    def __init__(
        self,
        message: str,
        *,
        budget: str,
        left: str | None = None,
        resets_at: str | None = None,
    ) -> None:
        super().__init__(message)
        self.budget = budget
        self.left = left
        self.resets_at = resets_at


class LedgerError(KimiyaError):
    """The ledger cannot keep or read what calls cost: which file or database, and the remedy."""

    status_hint = 503


class JournalError(KimiyaError):
    """The durable log of a run cannot be read or written."""


class ReplayMismatch(JournalError):
    """A replayed run asked for something else than its journal holds."""


class DeliverableError(KimiyaError):
    """A document could not be made, or did not open again."""
