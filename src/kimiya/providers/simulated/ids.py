"""How a simulated host names the calls of its replies."""

import random
import string
from collections.abc import Iterator

from kimiya.core.exchange import Request
from kimiya.providers.simulated.script import IdStyle

_LENGTHS = {"call": 24, "toolu": 24, "tooluse": 22}
_LETTERS = string.ascii_letters + string.digits


def call_ids(request: Request, style: IdStyle, rng: random.Random) -> Iterator[str]:
    """Ids of the reply's calls, in order; ``{name}`` in one stands for the tool's name.

    ``canonical`` counts calls through the whole conversation from 0, as Kimi's own API does.
    """
    number = sum(len(message.tool_calls) for message in request.messages)
    while True:
        if style == "canonical":
            yield f"functions.{{name}}:{number}"
            number += 1
        else:
            drawn = "".join(rng.choices(_LETTERS, k=_LENGTHS[style]))
            yield f"{style}_{drawn}"
