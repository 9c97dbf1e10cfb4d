"""Dialects: bytes to values and back, both ends from one definition, with no I/O."""
