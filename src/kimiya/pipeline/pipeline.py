"""Everything a call passes through, assembled once and shared by all calls."""

import random
from collections.abc import Mapping
from typing import Protocol

import msgspec

from kimiya.caching.planner import Planner
from kimiya.core.clock import Clock, SystemClock
from kimiya.core.context import NO_CONTEXT, CallContext
from kimiya.core.exchange import Request
from kimiya.core.messages import JsonValue
from kimiya.core.token_estimate import estimate_input_tokens
from kimiya.pipeline.accounts import Accounts
from kimiya.pipeline.call import Call, HoldReasoning
from kimiya.pipeline.flights import Flights
from kimiya.pipeline.ready import make_ready
from kimiya.pipeline.report import Outcome, TokenCount
from kimiya.providers.provider import Provider, Target
from kimiya.providers.retry import RetryPolicy
from kimiya.taming import ReasoningShelf


class Router(Protocol):
    """Knows what a model name stands for."""

    def targets(self, name: str) -> tuple[Target, ...]:
        """Where calls of ``name`` may go, in the order they are tried; never empty.

        Raises:
            UnknownModel: Nothing answers to the name.
        """
        ...

    async def settled(self, name: str) -> tuple[Target, ...]:
        """As ``targets``, with what only the host can say: the model behind a profile, say.

        Raises:
            UnknownModel: Nothing answers to the name.
            InvalidRequest: The user's settings allow none of the targets.
        """
        ...

    def provider(self, name: str) -> Provider:
        """The provider configured under ``name``."""
        ...

    def retries(self, name: str) -> int | None:
        """Repeats at each target for this model name; ``None`` leaves it to the pipeline."""
        ...


class Pipeline:
    """Makes calls.

    Args:
        router: What model names stand for.
        retry: Patience where a route does not say its own.
        clock: What waits and stamps.
        rng: Where jitter is drawn from.
        prose: By tool name, how its arguments look when a model types them as prose.
        planner: Where cache breakpoints go; ``None`` leaves them to callers.
        accounts: Ledger, budgets and rate limits; ``None`` keeps no books.
        hold_reasoning: When reasoning waits for the first text or call (see ``Call``).
    """

    def __init__(
        self,
        router: Router,
        *,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        prose: Mapping[str, JsonValue] | None = None,
        planner: Planner | None = None,
        accounts: Accounts | None = None,
        hold_reasoning: HoldReasoning = "with_tools",
    ) -> None:
        self.router = router
        self.retry = retry or RetryPolicy()
        self.clock = clock or SystemClock()
        self.rng = rng or random.Random()
        self.prose = prose
        self.planner = planner
        self.accounts = accounts or Accounts(self.clock)
        self.flights = Flights(self.clock)
        self.hold_reasoning: HoldReasoning = hold_reasoning
        self.reasoning_shelf = ReasoningShelf()
        """Reasoning of earlier replies, for clients that drop it."""

    def policy_for(self, model: str) -> RetryPolicy:
        """How patient to be with each target of a model name."""
        retries = self.router.retries(model)
        if retries is None:
            return self.retry
        return msgspec.structs.replace(self.retry, max_retries=retries)

    def stream(self, request: Request, context: CallContext = NO_CONTEXT) -> Call:
        """Start a call; its events come as the host sends them.

        Raises (while iterating):
            UnknownModel: Nothing answers to ``request.model``.
            ProviderError: Every route failed, or one failed after content was sent.
            TamingExhausted: No attempt gave a reply that could be let through.
        """
        return Call(self, msgspec.structs.replace(request, stream=True), context)

    def whole(self, request: Request, context: CallContext = NO_CONTEXT) -> Call:
        """As ``stream``, but the host is asked for a whole reply and nothing comes before it."""
        return Call(self, msgspec.structs.replace(request, stream=False), context)

    async def complete(self, request: Request, context: CallContext = NO_CONTEXT) -> Outcome:
        """Make a call and wait for the whole reply. Raises as ``stream``."""
        return await self.whole(request, context).outcome()

    async def count_tokens(self, request: Request) -> TokenCount:
        """Input tokens as the first target's host counts them, or an estimate where it does not."""
        target = (await self.router.settled(request.model))[0]
        provider = self.router.provider(target.provider)
        ready = make_ready(request, target, provider)
        counted = await provider.count_tokens(ready.request, target.card)
        if counted is None:
            return TokenCount(estimate_input_tokens(request), is_estimate=True)
        return TokenCount(counted)
