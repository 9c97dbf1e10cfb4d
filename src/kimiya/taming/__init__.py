"""Taming: what reaches the client is a call the model meant, or an honest retry.

The seam the pipeline stands on:

* ``prepare(request, card)`` is what happens on the way in. It returns the request to send, what it
  changed, and what is needed to undo it on the way out.
* ``Tamer(prepared, card)`` is fed the raw events of one reply and gives tame, serial events;
  ``verdict`` says how the turn came out. After a verdict of ``retry`` or ``failed`` no ``Finish``
  goes out: the turn is to be asked again.

On its own, in anybody's loop: ``tame_openai_stream(deltas, tools)``.
"""

from kimiya.taming.custody import ReasoningShelf, ReasoningStore
from kimiya.taming.openai import OpenAITamer, tame_openai_stream
from kimiya.taming.retry import asked_again
from kimiya.taming.tamer import Prepared, Tamer, prepare

__all__ = [
    "OpenAITamer",
    "Prepared",
    "ReasoningShelf",
    "ReasoningStore",
    "Tamer",
    "asked_again",
    "prepare",
    "tame_openai_stream",
]
