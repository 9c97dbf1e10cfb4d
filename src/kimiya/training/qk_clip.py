"""QK-Clip."""
from typing import Any


class QKClip:
    def attach(self, optimizer: Any) -> None: ...
