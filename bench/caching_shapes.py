"""Four shapes of work, drawn by seed, as the requests an agent would send and when.

Texts are words drawn at random, so no two blocks agree unless they are meant to.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kimiya.core.context import CallContext
from kimiya.core.exchange import Request, ToolSpec
from kimiya.core.messages import Message, Text, ToolCall, ToolResult, system, user

WORDS = (
    "river", "stone", "account", "window", "margin", "letter", "engine", "garden", "signal",
    "mirror", "copper", "winter", "ledger", "summer", "harbor", "ticket", "camera", "vessel",
    "branch", "silver", "number", "planet", "border", "method", "report", "market",
)  # fmt: skip
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Arrival:
    """One call and when it arrives."""

    at_s: float
    request: Request
    context: CallContext


@dataclass(frozen=True)
class Shape:
    """A named piece of work."""

    name: str
    arrivals: tuple[Arrival, ...]
    """In order of time."""


def prose(rng: random.Random, tokens: int) -> str:
    """About that many tokens of words, in lines."""
    words: list[str] = []
    size = 0
    while size < tokens * CHARACTERS_PER_TOKEN:
        word = rng.choice(WORDS)
        words.append(f"{word}\n" if rng.random() < 0.08 else word)
        size += len(word) + 1
    return " ".join(words)


def tools(rng: random.Random, count: int, tokens: int) -> tuple[ToolSpec, ...]:
    """Declarations of that many tokens together."""
    return tuple(
        ToolSpec(
            f"tool_{number}",
            prose(rng, tokens // count - 20),
            {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
        )
        for number in range(count)
    )


def tool_loop(
    seed: int, turns: int = 12, system_tokens: int = 20_000, tool_count: int = 8
) -> Shape:
    """An agent that calls a tool in each of ``turns`` calls, under a long system prompt."""
    rng = random.Random(seed)
    declared = tools(rng, tool_count, 200 * tool_count)
    messages = [system(prose(rng, system_tokens)), user(prose(rng, 60))]
    arrivals: list[Arrival] = []
    at_s = 0.0
    for turn in range(turns):
        request = Request("model", tuple(messages), declared)
        arrivals.append(Arrival(at_s, request, CallContext(key_id="loop")))
        call = ToolCall(
            f"call_{turn}", "tool_0", f'{{"query": "{prose(rng, 12)}"}}'.replace("\n", "")
        )
        messages.append(Message("assistant", (Text(prose(rng, 40)), call)))
        result = ToolResult(call.call_id, (Text(prose(rng, rng.randint(200, 1_400))),))
        messages.append(Message("tool", (result,)))
        at_s += rng.uniform(4, 25)
    return Shape("tool_loop", tuple(arrivals))


def document(
    seed: int, questions: int = 40, tokens: int = 60_000, gaps_s: tuple[float, float] = (4, 30)
) -> Shape:
    """Questions on one document, one after another."""
    rng = random.Random(seed)
    text = prose(rng, tokens)
    arrivals: list[Arrival] = []
    at_s = 0.0
    for _ in range(questions):
        asked = Message("user", (Text(text), Text(prose(rng, rng.randint(20, 120)))))
        request = Request("model", (system("Answer from the document."), asked))
        arrivals.append(Arrival(at_s, request, CallContext(key_id="document")))
        at_s += rng.uniform(*gaps_s)
    return Shape("document", tuple(arrivals))


def document_at_once(seed: int, questions: int = 40, tokens: int = 60_000) -> Shape:
    """The same, all asked within a second."""
    spread = 1 / questions
    asked = document(seed, questions, tokens, (0, spread))
    return Shape("document_at_once", asked.arrivals)


def parallel_chats(
    seed: int,
    chats: int = 30,
    turns: int = 6,
    tool_count: int = 15,
    tool_tokens: int = 6_000,
) -> Shape:
    """Chats of different people at the same time; only the tools are the same."""
    rng = random.Random(seed)
    declared = tools(rng, tool_count, tool_tokens)
    arrivals: list[Arrival] = []
    for chat in range(chats):
        context = CallContext(key_id="chats", conversation=f"chat-{chat}")
        messages = [system(f"You serve person {chat}. {prose(rng, rng.randint(100, 600))}")]
        at_s = rng.uniform(0, 20)
        for _ in range(turns):
            messages.append(user(prose(rng, rng.randint(20, 400))))
            arrivals.append(Arrival(at_s, Request("model", tuple(messages), declared), context))
            messages.append(Message("assistant", (Text(prose(rng, rng.randint(50, 600))),)))
            at_s += rng.uniform(15, 100)
    return Shape("parallel_chats", tuple(sorted(arrivals, key=lambda a: a.at_s)))


def clock_in_prompt(seed: int, turns: int = 15, rules_tokens: int = 8_000) -> Shape:
    """A chat whose system prompt says what time it is, to the second, and then goes on."""
    rng = random.Random(seed)
    rules, manners = prose(rng, rules_tokens), prose(rng, 300)
    history: list[Message] = []
    arrivals: list[Arrival] = []
    at_s = 0.0
    for _ in range(turns):
        clock = f"{9 + int(at_s) // 3600:02d}:{int(at_s) // 60 % 60:02d}:{int(at_s) % 60:02d}"
        prompt = f"{rules}\nThe current time is 2026-11-22 {clock} UTC.\n{manners}"
        history.append(user(prose(rng, rng.randint(20, 200))))
        request = Request("model", (system(prompt), *history))
        arrivals.append(Arrival(at_s, request, CallContext(key_id="clock")))
        history.append(Message("assistant", (Text(prose(rng, rng.randint(50, 500))),)))
        at_s += rng.uniform(8, 120)
    return Shape("clock_in_prompt", tuple(arrivals))


def slow_chat(seed: int, turns: int = 10) -> Shape:
    """A chat with a long system prompt and ten to thirty minutes between its turns."""
    rng = random.Random(seed)
    messages = [system(prose(rng, 12_000))]
    arrivals: list[Arrival] = []
    at_s = 0.0
    for _ in range(turns):
        messages.append(user(prose(rng, rng.randint(20, 200))))
        context = CallContext(key_id="slow", conversation="slow")
        arrivals.append(Arrival(at_s, Request("model", tuple(messages)), context))
        messages.append(Message("assistant", (Text(prose(rng, rng.randint(50, 500))),)))
        at_s += rng.uniform(600, 1_800)
    return Shape("slow_chat", tuple(arrivals))


def lone_questions(seed: int, calls: int = 60) -> Shape:
    """Calls that share nothing: caching can only cost."""
    rng = random.Random(seed)
    arrivals: list[Arrival] = []
    at_s = 0.0
    for _ in range(calls):
        request = Request("model", (user(prose(rng, rng.randint(2_000, 6_000))),))
        arrivals.append(Arrival(at_s, request, CallContext(key_id="lone")))
        at_s += rng.uniform(1, 30)
    return Shape("lone_questions", tuple(arrivals))


RECORDED: Mapping[str, Callable[[int], Shape]] = {
    "tool_loop": tool_loop,
    "document": document,
    "document_at_once": document_at_once,
    "parallel_chats": parallel_chats,
    "clock_in_prompt": clock_in_prompt,
}
"""The four shapes the claim is about; the document's questions both one by one and at once."""

BESIDE: Mapping[str, Callable[[int], Shape]] = {
    "slow_chat": slow_chat,
    "lone_questions": lone_questions,
}
"""What a planner that starts without history learns only at a price: outside the claim."""
