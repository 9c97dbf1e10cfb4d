"""The tools of the clients that are only SDKs: they really write and read files."""

from pathlib import Path

from kimiya.core.messages import JsonValue

WRITTEN = "written by the client's own tool"
WRITE = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "text": {"type": "string"}},
    "required": ["path", "text"],
}
READ = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
ADD = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
SCHEMAS = {"write_file": WRITE, "read_file": READ}
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5Erk"
    "Jggg=="
)
"""One grey pixel, base64."""


def run_tool(folder: Path, name: str, arguments: dict[str, JsonValue]) -> str:
    """Do what the model asked, in ``folder``."""
    path = folder / str(arguments["path"])
    if name == "read_file":
        return path.read_text(encoding="utf-8")
    assert name == "write_file"
    path.write_text(str(arguments["text"]), encoding="utf-8")
    return "done"
