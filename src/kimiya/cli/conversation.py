"""A conversation with one model: what was said, and the next question.

What the user saw of a stopped reply stays in the history; a question that got no reply at all is
taken back, so that asking again does not say it twice.
"""

from contextlib import aclosing

from msgspec import structs

from kimiya.cli.rendering import Screen
from kimiya.core.events import ReasoningDelta, TextDelta, ToolCallDelta
from kimiya.core.exchange import Mode, Request, Sampling, Thinking
from kimiya.core.messages import Message, Text, system, user
from kimiya.pipeline import Outcome, Pipeline


class Conversation:
    """Keeps the history; asks through the pipeline."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        model: str,
        mode: Mode | None = None,
        system: str | None = None,
        max_output_tokens: int | None = None,
        temperature: float | None = None,
        streams: bool = True,
    ) -> None:
        self.model = model
        self.mode: Mode | None = mode
        self._pipeline = pipeline
        self._sampling = Sampling(temperature=temperature, max_output_tokens=max_output_tokens)
        self._streams = streams
        self._system = system
        self._messages: list[Message] = []
        self.clear()

    def clear(self, *, system: str | None = None) -> None:
        """Forget what was said; keep, or replace, the instructions."""
        self._system = system or self._system
        self._messages = [_system(self._system)] if self._system else []

    @property
    def messages(self) -> tuple[Message, ...]:
        """The history."""
        return tuple(self._messages)

    async def whole(self, question: str) -> Outcome:
        """Ask, and wait for the whole reply.

        Raises:
            KimiyaError: As ``Pipeline.complete``.
        """
        self._messages.append(user(question))
        is_answered = False
        try:
            outcome = await self._pipeline.complete(self._request())
            self._messages.append(outcome.response.message)
            is_answered = True
            return outcome
        finally:
            if not is_answered:
                self._messages.pop()

    async def ask(self, question: str, screen: Screen) -> None:
        """Ask, and show the reply as it comes.

        Raises:
            KimiyaError: As ``Pipeline.stream``; what came before it is kept.
        """
        self._messages.append(user(question))
        said: list[str] = []
        request = self._request()
        call = self._pipeline.stream(request) if self._streams else self._pipeline.whole(request)
        screen.begin()
        try:
            async with aclosing(call):
                async for event in call:
                    match event:
                        case TextDelta(text=text):
                            said.append(text)
                            screen.text(text)
                        case ReasoningDelta(text=text):
                            screen.reasoning(text)
                        case ToolCallDelta(name=name) if name:
                            screen.remark(f"(calls {name}, which nobody here can run)")
                        case _:
                            pass
        finally:
            screen.end()
            if any(said):
                self._messages.append(Message("assistant", (Text("".join(said)),)))
            else:
                self._messages.pop()
        screen.report(call.report)

    def _request(self) -> Request:
        thinking = Thinking() if self.mode is None else Thinking(enabled=self.mode == "thinking")
        return Request(
            model=self.model,
            messages=tuple(self._messages),
            sampling=structs.replace(self._sampling),
            thinking=thinking,
        )


def _system(text: str) -> Message:
    return system(text)
