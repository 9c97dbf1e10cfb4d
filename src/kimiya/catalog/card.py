"""The model card: what is true of one model at one host, with where and when it was learnt.

A card is a row of data, never code: the catalogue loads it from TOML, users override any field of
it, and ``adapt`` reads it. A field that nobody has checked is ``None``: "unknown", not "no".
"""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any, Literal

from msgspec import Struct

from kimiya.core.exchange import Effort, Sampling

DialectName = Literal["openai_chat", "openai_responses", "anthropic_messages", "bedrock_converse"]


class Source(Struct, frozen=True, kw_only=True):
    """Where a fact comes from."""

    url: str
    """A page, a repository path, or ``measured``."""
    checked: date
    """The day it was last looked at."""


class Price(Struct, frozen=True, kw_only=True):
    """US dollars per million tokens from a day on; ``None`` is unpriced, never zero."""

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cache_read_usd_per_mtok: Decimal | None = None
    cache_write_5m_usd_per_mtok: Decimal | None = None
    cache_write_1h_usd_per_mtok: Decimal | None = None
    since: date
    """First day the price holds (UTC)."""
    above_input_tokens: int = 0
    """The tier: the price holds for calls with this much input or more."""
    source: Source


class CacheRule(Struct, frozen=True, kw_only=True):
    """How prompt caching works for this model at this host."""

    kind: Literal["explicit", "implicit", "none"]
    min_tokens: int | None = None
    """Fewest tokens a cached prefix may have."""
    max_breakpoints: int = 0
    ttls: tuple[Literal["5m", "30m", "1h"], ...] = ()
    places: tuple[Literal["tools", "system", "messages"], ...] = ()
    """Where a breakpoint may stand."""
    source: Source


class SamplingRule(Struct, frozen=True, kw_only=True):
    """What the host does with one sampling setting."""

    setting: Literal[
        "temperature",
        "top_p",
        "top_k",
        "presence_penalty",
        "frequency_penalty",
        "n",
        "seed",
        "stop",
    ]
    rule: Literal["fixed", "refused", "range"]
    """``fixed``: only the recommended value is accepted, so it is left out. ``refused``: any value
    is an error. ``range``: values outside are clamped."""
    minimum: float | None = None
    maximum: float | None = None


class ThinkingSwitch(Struct, frozen=True, kw_only=True):
    """How thinking is turned on and off at this host."""

    form: Literal["body", "chat_template_kwargs", "anthropic", "effort", "native", "none"]
    """``body``: ``{"thinking": {"type": ...}}``; ``chat_template_kwargs``:
    ``{"chat_template_kwargs": {"thinking": bool}}``; ``anthropic``: the dialect's own field;
    ``effort``: ``reasoning_effort``; ``native``: unknown, so what the caller said is written as the
    dialect writes it; ``none``: there is no switch."""
    modes: tuple[Literal["instant", "thinking"], ...]
    """Modes the model has here."""
    default: Literal["instant", "thinking"]
    """What the model does when nobody says."""
    efforts: tuple[Effort, ...] = ()
    """Efforts the host knows, least first; empty where it knows none."""
    styles: tuple[Literal["budget", "adaptive"], ...] = ("budget", "adaptive")
    """For ``anthropic``: ``budget`` is ``{"type": "enabled", "budget_tokens": N}``, ``adaptive`` is
    ``{"type": "adaptive"}``."""


class ModelCard(Struct, frozen=True, kw_only=True):
    """One model at one host."""

    name: str
    """Our name of the model, the same at every host: ``kimi-k2.5``."""
    host: str
    """``moonshot``, ``bedrock``, ``anthropic``, ``selfhosted``, ``local``, or the user's own."""
    model_id: str
    """What the host calls it."""
    aliases: tuple[str, ...] = ()
    family: str = ""
    """``kimi``, ``claude``, ``smollm``: for choosing data, never for branching on names."""
    status: Literal["current", "retired"] = "current"
    retires: date | None = None
    """The day the host has said it stops serving it."""
    dialects: tuple[DialectName, ...]
    """Dialects the host speaks for it, best first."""
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    has_vision: bool = False
    has_video: bool = False
    has_tools: bool = True
    max_tools: int | None = None
    schema_subset: Literal["mfjs"] | None = None
    """The part of JSON Schema the host reads in tools; ``None`` reads all of it."""
    tool_kinds: tuple[str, ...] | None = None
    """Kinds of tool beside ``function`` the host runs itself; ``None`` is unknown."""
    forced_tool_choice: Literal["yes", "no", "not_while_thinking", "required_only"] = "yes"
    """Whether ``required`` and a named tool are accepted; ``required_only``: a name is ignored."""
    structured_outputs: Literal["json_schema", "json_object", "none"] = "none"
    grammar: Literal["none", "structural_tag", "guided_json", "gbnf"] = "none"
    """Constrained decoding the host offers for retries."""
    thinking: ThinkingSwitch
    recommended: Mapping[str, Sampling] = {}
    """Sampling by mode (``instant``, ``thinking``)."""
    fills_sampling: bool = False
    """Whether settings the caller left open get the recommended value of the mode, because the
    host's own defaults are not the model's."""
    sampling: tuple[SamplingRule, ...] = ()
    temperature_factor: Mapping[str, float] = {}
    """By dialect: what the host multiplies a temperature by before it uses it."""
    reasoning_field: str | None = None
    """Field OpenAI-speaking hosts carry reasoning in."""
    reasoning_replay: Literal["required", "accepted", "signed", "refused"] = "accepted"
    """What happens when history carries (or lacks) the reasoning of a tool loop. ``signed``: only
    what the host itself signed is accepted."""
    reasoning_placeholder: str | None = None
    """What the host accepts where reasoning was lost, such as one space."""
    canonical_call_ids: Literal["host", "client"] | None = None
    """For models that copy ids from history: who makes them canonical. ``host``: the host renames
    them itself; ``client``: it does not, so taming must. ``None``: ids do not matter."""
    call_id_pattern: str | None = None
    """Regular expression the host holds call ids to."""
    call_format: Literal["kimi_k2", "kimi_k3", "none"] = "none"
    """The raw tool-call grammar the model falls back to, which taming then knows."""
    max_tokens_field: str = "max_tokens"
    cache: CacheRule
    prices: tuple[Price, ...] = ()
    profile_price_factors: Mapping[str, Decimal] = {}
    """For hosts whose ids take a routing prefix (``global.``, ``us.``): what each multiplies the
    prices by; ``*`` is any other prefix, or none. Empty where ids take no prefix."""
    quirks: tuple[str, ...] = ()
    """Codes of deviations ``adapt`` knows by table, such as ``alternating_roles``."""
    notes: str = ""
    source: Source

    def price_on(self, day: date, input_tokens: int = 0) -> Price | None:
        """The row that prices a call of ``input_tokens`` on ``day``; ``None`` is unpriced."""
        fitting = [
            price
            for price in self.prices
            if price.since <= day and input_tokens >= price.above_input_tokens
        ]
        return max(fitting, key=lambda p: (p.since, p.above_input_tokens), default=None)


RawRow = Mapping[str, Any]
"""A row as TOML gives it, before it is a card."""
