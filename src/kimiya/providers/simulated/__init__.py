"""A host that says what a script says: for tests, and for people who test their own agents.

``docs/simulate.md`` describes the script. ``SimulatedProvider`` plays one inside the process;
``server`` puts one on a port, as an OpenAI, Anthropic or Bedrock host.
"""

from pathlib import Path

from kimiya.providers.simulated.parser import ECHO, parse_script, read_script
from kimiya.providers.simulated.provider import SimulatedProvider
from kimiya.providers.simulated.script import Script

__all__ = ["ECHO", "Script", "SimulatedProvider", "load_script", "parse_script", "read_script"]


def load_script(path: str | Path | None) -> Script:
    """The script of a file, or the echo where none is named.

    Raises:
        ConfigError: The file cannot be read, or a line in it.
    """
    return parse_script(ECHO, "echo") if path is None else read_script(path)
