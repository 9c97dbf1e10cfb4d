"""A simulated Bedrock: control plane, admission of calls, cache accounting. No I/O.

One value holds an account over all regions; the region of a call is the one its signature names,
as at AWS. ``admit`` is asked before a reply is performed, ``manage`` for the control plane; what
the model says still comes from the script.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kimiya.core.clock import Clock
from kimiya.core.events import UsageReport
from kimiya.core.exchange import Usage
from kimiya.providers.simulated.bedrock_cache import Bill, PromptCache, blocks_of
from kimiya.providers.simulated.bedrock_checks import check_body, check_points
from kimiya.providers.simulated.bedrock_control import (
    Answered,
    ControlCall,
    ControlPlane,
    not_allowed,
)
from kimiya.providers.simulated.bedrock_models import ACCOUNT
from kimiya.providers.simulated.bedrock_profiles import Named, ProfileStore
from kimiya.providers.simulated.bedrock_refusal import Refusal, denied, invalid
from kimiya.providers.simulated.host import Performance

_SCOPE = re.compile(r"Credential=[^/]+/[0-9]{8}/(?P<region>[a-z0-9-]+)/(?P<service>[a-z0-9-]+)/")


class Policy(Struct, frozen=True):
    """What the account's owner and administrator allow."""

    denied_actions: frozenset[str] = frozenset()
    """IAM actions without their service, such as ``GetInferenceProfile``."""
    denied_models: frozenset[str] = frozenset()
    """Base ids the account has no access to."""
    retained_models: frozenset[str] = frozenset()
    """Base ids that want another data retention mode than the account's."""


class Billed(Struct):
    """What a model was billed so far, by class of token."""

    calls: int = 0
    fresh_tokens: int = 0
    read_tokens: int = 0
    written_tokens: dict[str, int] = {}
    """By lifetime."""
    output_tokens: int = 0


class Admitted(Struct, frozen=True):
    """A call the service takes."""

    named: Named
    region: str
    bill: Bill


class SimulatedBedrock:
    """One account at Bedrock.

    Args:
        clock: Ends cached prefixes, and dates profiles.
        policy: What is allowed.
    """

    def __init__(self, clock: Clock, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.billed: dict[str, Billed] = {}
        """By base id: what this host would put on its invoice."""
        self.calls: list[str] = []
        """Actions of the control plane and model ids of the runtime, in order."""
        self._clock = clock
        self.profiles = ProfileStore(clock.now())
        self._control = ControlPlane(self.profiles, self._may)
        self._cache = PromptCache()

    def manage(
        self, method: str, path: str, query: str, body: bytes, headers: Mapping[str, str]
    ) -> Answered:
        """Answer the control plane.

        Raises:
            Refusal: As the service refuses.
        """
        region = region_of(headers)
        now: datetime = self._clock.now()
        self.calls.append(f"{method} {path}")
        return self._control.answer(ControlCall(method, path, query, body, region, now))

    def admit(self, model_id: str, body: bytes, headers: Mapping[str, str]) -> Admitted:
        """Take a Converse call, and say what its input costs.

        Raises:
            Refusal: As the service refuses.
        """
        region = region_of(headers)
        self.calls.append(model_id)
        named = self._allowed(model_id, region)
        fields = _json(body)
        check_body(fields)
        base_id = named.model.base_id
        blocks = blocks_of(fields, f"{ACCOUNT}/{region}/{base_id}")
        check_points(named.model, blocks)
        bill = self._cache.bill(blocks, named.model.cache, self._clock.monotonic())
        return Admitted(named, region, bill)

    def admit_plain(self, model_id: str, body: bytes, headers: Mapping[str, str]) -> Admitted:
        """Take an InvokeModel call, whose body is the vendor's own; nothing in it is cached.

        Raises:
            Refusal: As the service refuses.
        """
        region = region_of(headers)
        self.calls.append(model_id)
        return Admitted(self._allowed(model_id, region), region, Bill(-(-len(body) // 4)))

    def vendor(self, model_id: str) -> str:
        """Who made the model of an id or ARN; ``""`` where there is no such model."""
        made = next((p for p in self.profiles.made if p.arn == model_id), None)
        tail = made.model.base_id if made is not None else model_id.rpartition("/")[2]
        fitting = (m for m in self.profiles.models.values() if tail.endswith(m.base_id))
        return next((model.vendor for model in fitting), "")

    def count(self, model_id: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Answer CountTokens.

        Raises:
            Refusal: For the many models, and every profile, it does not count.
        """
        region = region_of(headers)
        if not self._may("CountTokens"):
            raise not_allowed("CountTokens", region)
        named = self._allowed(model_id, region)
        if named.profile is not None or not named.model.counts_tokens:
            raise invalid("The provided model doesn't support counting tokens.")
        fields = _json(body)
        try:
            prompt: Any = fields["input"]["converse"]
        except (KeyError, TypeError):
            raise invalid("Malformed input request: input is missing.") from None
        check_body(prompt)
        return sum(block.tokens for block in blocks_of(prompt, ""))

    def begin(self, admitted: Admitted) -> None:
        """The reply begins: what the call writes can be read from now on."""
        self._cache.commit(admitted.bill, self._clock.monotonic())

    def settled(self, admitted: Admitted, performance: Performance) -> Performance:
        """The performance with usage as the service counts it."""
        counted = [
            UsageReport(_usage(admitted.bill, action.usage))
            if isinstance(action, UsageReport)
            else action
            for action in performance.actions
        ]
        return replace(performance, actions=tuple(counted))

    def charge(self, admitted: Admitted, usage: Usage) -> None:
        """Put a finished call on the invoice."""
        billed = self.billed.setdefault(admitted.named.model.base_id, Billed())
        billed.calls += 1
        billed.fresh_tokens += admitted.bill.fresh_tokens
        billed.read_tokens += admitted.bill.read_tokens
        billed.output_tokens += usage.output_tokens
        for ttl, tokens in admitted.bill.written:
            billed.written_tokens[ttl] = billed.written_tokens.get(ttl, 0) + tokens

    def _allowed(self, model_id: str, region: str) -> Named:
        if not self._may("InvokeModel"):
            raise not_allowed("InvokeModel", region)
        named = self.profiles.named(region, model_id)
        base_id = named.model.base_id
        if base_id in self.policy.denied_models:
            raise denied("You don't have access to the model with the specified model ID.")
        if base_id in self.policy.retained_models:
            raise invalid("data retention mode 'default' is not available for this model")
        return named

    def _may(self, action: str) -> bool:
        return action not in self.policy.denied_actions


def region_of(headers: Mapping[str, str]) -> str:
    """The region a call was signed for; a bearer key belongs to us-east-1 here.

    Raises:
        Refusal: Nobody signed it, or for another service.
    """
    told = headers.get("authorization", "")
    scope = _SCOPE.search(told)
    if scope is not None and scope["service"] == "bedrock":
        return scope["region"]
    if told.startswith("Bearer "):
        return "us-east-1"
    if scope is not None:
        wrong = f"Credential should be scoped to correct service: 'bedrock'. Not {scope['service']}"
        raise Refusal(403, "InvalidSignatureException", wrong)
    raise Refusal(403, "MissingAuthenticationTokenException", "Missing Authentication Token")


def _usage(bill: Bill, said: Usage) -> Usage:
    return replace(
        said,
        input_tokens=bill.input_tokens,
        cache_read_tokens=bill.read_tokens,
        cache_write_tokens=bill.written_tokens,
        cache_write_1h_tokens=dict(bill.written).get("1h", 0),
    )


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid("Malformed input request: the body is not JSON.") from None
