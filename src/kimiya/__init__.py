"""Kimiya: one address in front of any host of Kimi or Claude."""

__version__ = "0.1.0"
