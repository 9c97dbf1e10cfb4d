"""Who is calling and on whose account: what travels beside a request and never to a host."""

from collections.abc import Mapping

from msgspec import Struct


class CallContext(Struct, frozen=True):
    """The account of one call, for ledger, budgets, caching and routing."""

    key_id: str | None = None
    """The gateway's own key that was shown; ``None`` without keys, or in process."""
    tags: Mapping[str, str] = {}
    """Free labels such as department or project, from the key or the caller's headers."""
    conversation: str | None = None
    """Joins the calls of one conversation; ``None`` where nobody says."""
    user: str | None = None
    """The caller's own end-user id."""
    run: str | None = None
    """Joins the calls of one agent's or swarm's run."""
    front: str = ""
    """Dialect of the client; ``""`` when called from Python."""


NO_CONTEXT = CallContext()
