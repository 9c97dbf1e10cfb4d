"""Taming: what reaches the client is a call the model meant, or an honest retry.

The seam the pipeline stands on, whatever the engine behind it does:

* ``prepare(request, card)`` is what happens on the way in. It returns the request to send, what it
  changed, and what is needed to undo it on the way out.
* ``Tamer(prepared, card)`` is fed the raw events of one reply and gives tame, serial events;
  ``verdict`` says how the turn came out.
"""

from kimiya.taming.tamer import Prepared, Tamer, prepare

__all__ = ["Prepared", "Tamer", "prepare"]
