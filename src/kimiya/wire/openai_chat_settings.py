"""Settings of a call that Chat Completions and Responses spell alike: sampling, thinking, schemas.

``thinking`` is Moonshot's body switch; ``chat_template_kwargs.thinking`` is what vLLM, SGLang and
KTransformers read. Both are understood; the first is written, and ``adapt`` puts the second into
``extras`` for hosts that need it. Fields beside the ones named here stay in ``extras``, also inside
the objects of which we know only some keys.
"""

from typing import Any, cast, get_args

from kimiya.core.exchange import Effort, ResponseFormat, Sampling, Thinking
from kimiya.core.messages import JsonValue
from kimiya.wire.json_fields import (
    JsonObject,
    Misfit,
    as_object,
    kind_of,
    optional,
    optional_object,
    required,
    strings,
)

EFFORTS: tuple[str, ...] = get_args(Effort)

SAMPLING = frozenset(
    {"temperature", "top_p", "top_k", "stop", "seed", "presence_penalty", "frequency_penalty", "n"}
)
"""Wire names; the cap on output has its own in each dialect."""

SWITCHES = frozenset({"thinking", "chat_template_kwargs"})


def read_sampling(fields: JsonObject, max_output_tokens: int | None) -> Sampling:
    """How tokens are drawn."""
    if fields.keys().isdisjoint(SAMPLING):
        return Sampling(max_output_tokens=max_output_tokens)
    n = optional(fields, "n", int)
    if n is not None and n != 1:
        raise Misfit(f"is {n}, but only one choice a call is offered: send {n} calls", "n")
    return Sampling(
        temperature=optional(fields, "temperature", float),
        top_p=optional(fields, "top_p", float),
        top_k=optional(fields, "top_k", int),
        max_output_tokens=max_output_tokens,
        stop=_read_stop(fields),
        seed=optional(fields, "seed", int),
        presence_penalty=optional(fields, "presence_penalty", float),
        frequency_penalty=optional(fields, "frequency_penalty", float),
        n=n,
    )


def _read_stop(fields: JsonObject) -> tuple[str, ...]:
    value = fields.get("stop")
    return (value,) if isinstance(value, str) else strings(fields, "stop")


def write_sampling(fields: JsonObject, sampling: Sampling) -> None:
    """Set what is set, but for the cap on output."""
    if sampling.n is not None and sampling.n != 1:
        raise Misfit(f"is {sampling.n}, but a reply holds one choice: make {sampling.n} calls", "n")
    written = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "n": sampling.n,
    }
    fields.update((key, value) for key, value in written.items() if value is not None)


def read_effort(fields: JsonObject, key: str) -> Effort | None:
    """How much the model should reason."""
    value = optional(fields, key, str)
    if value is not None and value not in EFFORTS:
        raise Misfit(f"is {value!r}, but must be one of {', '.join(EFFORTS)}", key)
    return cast("Effort | None", value)


def read_thinking(fields: JsonObject, effort: Effort | None) -> tuple[Thinking, JsonObject]:
    """What is wanted of the model's reasoning, and the rest of the objects that say so."""
    if fields.keys().isdisjoint(SWITCHES):
        return (Thinking(effort=effort) if effort else Thinking()), {}
    rest: JsonObject = {}
    template = dict(optional_object(fields, "chat_template_kwargs") or {})
    enabled = None
    if type(template.get("thinking")) is bool:
        enabled = cast("bool", template.pop("thinking"))
    if template:
        rest["chat_template_kwargs"] = template
    value = fields.get("thinking")
    if value is None or isinstance(value, bool):
        return Thinking(enabled=enabled if value is None else value, effort=effort), rest
    try:
        thinking, unknown = _read_switch(value, enabled, effort)
    except Misfit as misfit:
        misfit.under("thinking")
        raise
    if unknown:
        rest["thinking"] = unknown
    return thinking, rest


def _read_switch(
    value: JsonValue, enabled: bool | None, effort: Effort | None
) -> tuple[Thinking, JsonObject]:
    switch = dict(as_object(value))
    budget = optional(switch, "budget_tokens", int)
    kind = optional(switch, "type", str)
    if kind not in (None, "enabled", "disabled", "adaptive"):
        raise Misfit(f"is {kind!r}, but must be enabled, disabled or adaptive", "type")
    switch.pop("type", None)
    switch.pop("budget_tokens", None)
    if kind is not None:
        enabled = kind != "disabled"
    return Thinking(enabled, effort, budget, adaptive=kind == "adaptive"), switch


def write_thinking(fields: JsonObject, thinking: Thinking) -> None:
    """Set the body switch; effort has a place of its own in each dialect."""
    if thinking.enabled is None and thinking.budget_tokens is None and not thinking.adaptive:
        return
    kind = "disabled" if thinking.enabled is False else "enabled"
    switch: JsonObject = {"type": "adaptive" if thinking.adaptive else kind}
    if thinking.budget_tokens is not None:
        switch["budget_tokens"] = thinking.budget_tokens
    fields["thinking"] = switch


def read_metadata(fields: JsonObject) -> dict[str, Any]:
    """The caller's own labels."""
    return optional_object(fields, "metadata") or {}


def read_format(fields: JsonObject, inner: str | None) -> ResponseFormat | None:
    """The shape wanted: ``None`` for plain text.

    Args:
        fields: ``response_format`` of Chat, ``text.format`` of Responses.
        inner: Where Chat nests name and schema; Responses does not.

    Raises:
        KeyError: A kind that is not OpenAI's; the caller keeps it.
    """
    kind = required(fields, "type", str)
    if kind == "text":
        return None
    if kind == "json_object":
        return ResponseFormat("json_object")
    if kind != "json_schema":
        raise KeyError(kind)
    held = fields
    if inner is not None:
        value = fields.get(inner)
        if not isinstance(value, dict):
            raise Misfit(f"is required and must be an object, not {kind_of(value)}", inner)
        held = cast("JsonObject", value)
    return ResponseFormat(
        "json_schema",
        optional_object(held, "schema"),
        optional(held, "name", str),
        optional(held, "description", str),
        optional(held, "strict", bool),
    )


def format_fields(shape: ResponseFormat) -> JsonObject:
    """Name, description, schema and ``strict``, those that are there."""
    fields = {
        "name": shape.name,
        "description": shape.description,
        "schema": shape.schema,
        "strict": shape.strict,
    }
    return {key: value for key, value in fields.items() if value is not None}
