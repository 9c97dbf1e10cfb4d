"""Where the simulated Bedrock meets HTTP: which calls it answers itself, and which a model answers.

The control plane and CountTokens are answered here. Converse and InvokeModel are admitted here (or
refused), performed by the script, and charged when their answer has gone out whole.
"""

import re
from collections.abc import Sequence
from urllib.parse import unquote

import msgspec

from kimiya.core.events import UsageReport
from kimiya.providers.simulated.bedrock import Admitted, SimulatedBedrock
from kimiya.providers.simulated.bedrock_control import action_of
from kimiya.providers.simulated.bedrock_refusal import Refusal
from kimiya.providers.simulated.exchange import Exchange
from kimiya.providers.simulated.host import Performance
from kimiya.providers.simulated.script import Cut, Fail, Page
from kimiya.wire.dialect import Dialect, Route

_CALL = re.compile(r"/model/(?P<model>.+)/(?P<operation>count-tokens|invoke|converse[a-z-]*)")
_INVOKED_IN = {
    "anthropic": "anthropic_messages",
    "moonshot": "openai_chat",
    "moonshotai": "openai_chat",
}
"""The dialect of InvokeModel's body, by vendor."""


class Charge:
    """What one call is charged; without an account, nothing."""

    def __init__(
        self, bedrock: SimulatedBedrock | None = None, admitted: Admitted | None = None
    ) -> None:
        self._bedrock = bedrock
        self._admitted = admitted

    def applied(self, performance: Performance) -> Performance:
        """The performance with usage as the account counts it."""
        if self._bedrock is None or self._admitted is None:
            return performance
        return self._bedrock.settled(self._admitted, performance)

    def settle(self, performance: Performance) -> None:
        """The answer has gone out: put it on the invoice, unless it ended early."""
        if self._bedrock is None or self._admitted is None:
            return
        if any(isinstance(action, Fail | Page | Cut) for action in performance.actions):
            return
        for action in performance.actions:
            if isinstance(action, UsageReport):
                self._bedrock.charge(self._admitted, action.usage)


class BedrockFront:
    """One account, as HTTP."""

    def __init__(self, bedrock: SimulatedBedrock, dialects: Sequence[Dialect]) -> None:
        self._bedrock = bedrock
        self._dialects = {dialect.name: dialect for dialect in dialects}

    async def answers(self, exchange: Exchange) -> bool:
        """Whether this was a call that no model answers; then it has been answered."""
        call = _CALL.fullmatch(exchange.path)
        is_count = call is not None and call["operation"] == "count-tokens"
        if not is_count and action_of(exchange.method, exchange.path) is None:
            return False
        body = await exchange.body()
        try:
            if call is not None:
                model_id = unquote(call["model"])
                tokens = self._bedrock.count(model_id, body, exchange.headers)
                status, value = 200, {"inputTokens": tokens}
            else:
                status, value = self._bedrock.manage(
                    exchange.method, exchange.path, exchange.query, body, exchange.headers
                )
        except Refusal as refusal:
            await exchange.answer(refusal.status, refusal.body, refusal.headers)
        else:
            await exchange.answer(status, msgspec.json.encode(value))
        return True

    def invoked(self, path: str) -> tuple[Dialect, Route, str] | None:
        """What a call of InvokeModel speaks; its body is that of the model's own vendor."""
        call = _CALL.fullmatch(path)
        if call is None or call["operation"] != "invoke":
            return None
        model_id = unquote(call["model"])
        dialect = self._dialects.get(_INVOKED_IN.get(self._bedrock.vendor(model_id), ""))
        return None if dialect is None else (dialect, Route(path, streams=False), model_id)

    def admit(self, exchange: Exchange, model_id: str | None, body: bytes) -> Charge:
        """Take a call for a model.

        Raises:
            Refusal: As the service refuses it.
        """
        call = _CALL.fullmatch(exchange.path)
        if call is None or model_id is None:
            return Charge()  # another dialect than AWS's
        is_converse = call["operation"] != "invoke"
        take = self._bedrock.admit if is_converse else self._bedrock.admit_plain
        admitted = take(model_id, body, exchange.headers)
        exchange.when_begun(lambda: self._bedrock.begin(admitted))
        return Charge(self._bedrock, admitted)
