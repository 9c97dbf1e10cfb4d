"""Where a call may be answered, as the user decided."""

from typing import Literal, TypeAlias

Residency: TypeAlias = Literal["region", "geography", "global"]
"""``region``: only where it was sent. ``geography``: in that part of the world. ``global``:
anywhere. Unset (``None``) takes what is written as it stands, and widens nothing further than the
geography."""
