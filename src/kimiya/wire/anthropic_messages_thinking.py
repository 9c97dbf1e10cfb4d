"""The ``thinking`` object of Claude's request bodies, which Converse carries too.

What it says beyond our value stays in the extras under its name, and joins it again when written.
"""

from kimiya.core.exchange import Thinking
from kimiya.wire.json_fields import JsonObject, Misfit, keep_rest, optional, optional_object


def read_thinking(fields: JsonObject, extras: JsonObject) -> Thinking:
    """The ``thinking`` object; what it says beyond our value goes to ``extras["thinking"]``.

    Raises:
        Misfit: A member has the wrong kind.
    """
    config = optional_object(fields, "thinking")
    if config is None:
        return Thinking()
    kind = config.get("type")
    if kind not in ("enabled", "disabled", "adaptive"):
        extras["thinking"] = config
        return Thinking()
    try:
        budget = optional(config, "budget_tokens", int)
    except Misfit as misfit:
        misfit.under("thinking")
        raise
    known = {"type", "budget_tokens"} if kind == "enabled" else {"type"}
    keep_rest(extras, "thinking", config, known)
    return Thinking(
        enabled=kind != "disabled",
        budget_tokens=budget if kind == "enabled" else None,
        adaptive=kind == "adaptive",
    )


def write_thinking(thinking: Thinking) -> JsonObject | None:
    """The ``thinking`` object; ``None`` where nothing was asked.

    Raises:
        Misfit: It contradicts itself.
    """
    if thinking.adaptive:
        if thinking.enabled is False or thinking.budget_tokens is not None:
            raise Misfit("adaptive thinking has no budget and cannot be off", "thinking")
        return {"type": "adaptive"}
    if thinking.enabled is False:
        if thinking.budget_tokens is not None:
            raise Misfit("thinking is off but has a budget", "thinking")
        return {"type": "disabled"}
    if thinking.budget_tokens is not None:
        return {"type": "enabled", "budget_tokens": thinking.budget_tokens}
    return {"type": "enabled"} if thinking.enabled else None
