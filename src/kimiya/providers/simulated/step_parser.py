"""Reads one step of a reply, and the settings that may stand among steps."""

import math
import re
from collections.abc import Callable
from typing import cast, get_args

import msgspec
from msgspec.structs import replace

from kimiya.core.exchange import FinishReason, Usage
from kimiya.providers.simulated.conditions import filled
from kimiya.providers.simulated.faults import check_fault
from kimiya.providers.simulated.lines import (
    Mistake,
    block_of,
    number_of,
    pairs,
    seconds_of,
    split,
)
from kimiya.providers.simulated.script import (
    Befall,
    CallTool,
    Cut,
    End,
    Fail,
    IdStyle,
    Page,
    Pause,
    ReportUsage,
    Say,
    Settings,
    Step,
)


def parse_step(text: str, settings: Settings) -> tuple[Settings, Step | None]:
    """One step of a reply; where it sets something, the settings from there on."""
    bare = text.strip()
    if bare == "cut":
        return settings, Cut()
    if bare == "stall":
        return settings, Pause(None)
    if match := re.match(r"call\s+(\S+?)(?:\s+id=(\S+))?\s*:(?=[\s{]|$)", text):
        arguments = block_of(text[match.end() :]).strip() or "{}"
        try:
            msgspec.json.decode(filled(arguments, {}, default="0"))
        except msgspec.DecodeError as error:
            raise Mistake(
                f"the arguments of {match[1]} are not JSON ({error})",
                "Mend them; `fault: F` damages arguments on purpose",
            ) from error
        return settings, CallTool(match[1], arguments, match[2])
    key, value = split(text)
    if key in _STEPS:
        return settings, _STEPS[key](value)
    return parse_setting(settings, key, value), None


def parse_setting(settings: Settings, key: str, value: str) -> Settings:
    """The settings with one of them changed."""
    match key:
        case "ids":
            if value not in get_args(IdStyle):
                raise Mistake(f"{value!r} is no style", f"One of {', '.join(get_args(IdStyle))}")
            return replace(settings, ids=cast(IdStyle, value))
        case "pieces":
            chars = None if value == "whole" else int(number_of(value, whole=True))
            if chars is not None and chars < 1:
                raise Mistake("a piece needs a character", "Write `pieces: 8` or `pieces: whole`")
            return replace(settings, piece_chars=chars)
        case "delay":
            return replace(settings, delay_s=seconds_of(value))
        case _:
            raise Mistake(
                f"{key!r} is nothing a script knows",
                "Steps: text, reasoning, raw, raw reasoning, call NAME, usage, finish, error,"
                " html, stall, cut, fault. Settings: models, seed, ids, pieces, delay, faults,"
                " retry_after",
            )


def _usage(value: str) -> ReportUsage:
    if value == "none":
        return ReportUsage(None)
    known = {name.removesuffix("_tokens"): name for name in Usage.__struct_fields__}
    counts: dict[str, int] = {}
    for name, number in pairs(value):
        if name not in known:
            raise Mistake(f"{name!r} is no token count", f"Known: {', '.join(known)}")
        counts[known[name]] = int(number_of(number, whole=True))
    return ReportUsage(Usage(**counts))


def _finish(value: str) -> End:
    if value in get_args(FinishReason):
        return End(cast(FinishReason, value))
    return End("unknown", value or None)


def _error(value: str) -> Fail:
    match = re.fullmatch(
        r"(\d{3})(?:\s+([A-Za-z_][\w.-]*(?!\S)))?(?:\s+retry_after=(\S+))?(?:\s+\"([^\"]*)\")?",
        value,
    )
    if match is None or not 400 <= int(match[1]) <= 599:
        raise Mistake(f"{value!r} is no error", 'Write `error: 429 CODE retry_after=2s "message"`')
    wait_s = seconds_of(match[3]) if match[3] else None
    return Fail(int(match[1]), match[2], match[4] or "scripted error", wait_s)


def _page(value: str) -> Page:
    status = int(number_of(value or "200", whole=True))
    if not 200 <= status <= 599:
        raise Mistake(f"{status} is no status", "Write `html: 502`")
    return Page(status)


def _stall(value: str) -> Pause:
    return Pause(None if value in ("", "forever") else seconds_of(value))


def _fault(value: str) -> Befall:
    return Befall(parse_fault(value))


_STEPS: dict[str, Callable[[str], Step]] = {
    "text": lambda value: Say("text", value),
    "reasoning": lambda value: Say("reasoning", value),
    "raw": lambda value: Say("text", value, is_template=False),
    "raw reasoning": lambda value: Say("reasoning", value, is_template=False),
    "usage": _usage,
    "finish": _finish,
    "error": _error,
    "html": _page,
    "stall": _stall,
    "fault": _fault,
}


def parse_rates(value: str) -> dict[str, float]:
    """Shares by fault: ``B=0.1 429=0.05``."""
    rates = {parse_fault(name): number_of(number) for name, number in pairs(value)}
    if any(not 0 <= rate <= 1 for rate in rates.values()) or math.fsum(rates.values()) > 1:
        raise Mistake("the shares are more than all", "Give shares that sum to 1 at most")
    return rates


def parse_fault(name: str) -> str:
    """The name of a fault, if it is one."""
    try:
        return check_fault(name)
    except ValueError as error:
        raise Mistake(str(error), "docs/simulate.md lists the faults") from error
