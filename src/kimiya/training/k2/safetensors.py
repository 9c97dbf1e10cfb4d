"""The safetensors file format: a length, a JSON header, then the tensors' bytes.

Written here because training depends on torch alone; the format is eight bytes of length, the
header and raw little-endian data (https://github.com/huggingface/safetensors, read 2026-11).
A file is written under another name and renamed, so that a reader never meets half of one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kimiya.errors import ConfigError

__all__ = ["load_safetensors", "save_safetensors"]

_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def save_safetensors(
    tensors: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``tensors`` to ``path``, in order of name.

    Raises:
        OSError: the disk is full or the place cannot be written; no file is left behind.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    at = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for name in sorted(tensors):
                file.write(_bytes(tensors[name]))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of the file.

    Raises:
        ConfigError: the file is missing, cut short or no safetensors.
    """
    try:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        body = memoryview(data)[8 + length :]
        return {name: _tensor(body, entry) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"no tensors can be read: {error}", file=str(path)) from error


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _tensor(body: memoryview, entry: Mapping[str, object]) -> Tensor:
    dtype, shape = _DTYPES[str(entry["dtype"])], [int(n) for n in entry["shape"]]  # pyright: ignore
    start, end = (int(n) for n in entry["data_offsets"])  # pyright: ignore
    raw = bytes(body[start:end])
    if len(raw) != end - start:
        raise ValueError("the file is cut short")
    if not raw:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)
