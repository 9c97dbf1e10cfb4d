"""A K2 model as a folder that others load: ``config.json`` and ``model.safetensors``.

Experts are written one by one under their published names (``experts.7.gate_proj.weight``), which
is how the hub's checkpoints hold them and what ``transformers`` fuses again on loading. Quantised,
the routed experts alone become ``compressed-tensors`` (`pack-quantized`, INT4, groups of 32, as in
Kimi K2-Thinking) with the very scales they were trained with; everything else keeps its dtype.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kimiya.errors import ConfigError
from kimiya.training.int4 import (
    GROUP_SIZE,
    FakeInt4,
    Int4Weight,
    dequantize,
    pack,
    quantize,
    unpack,
)
from kimiya.training.k2.config import K2Config
from kimiya.training.k2.experts import RoutedExperts
from kimiya.training.k2.model import K2Model
from kimiya.training.k2.safetensors import load_safetensors, save_safetensors

__all__ = ["load_model", "quantize_experts", "save_model"]

_STACKED = re.compile(r"(?P<experts>.+\.experts)\.(?P<which>gate_up_proj|down_proj)")
_SINGLE = re.compile(
    r"(?P<experts>.+\.experts)\.(?P<index>\d+)\.(?P<which>gate|up|down)_proj"
    r"\.(?P<kind>weight|weight_packed|weight_scale|weight_shape)"
)

QUANTIZATION: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "kv_cache_scheme": None,
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "input_activations": None,
            "output_activations": None,
            "weights": {
                "num_bits": 4,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": GROUP_SIZE,
                "dynamic": False,
                "observer": "minmax",
            },
        }
    },
    "ignore": [
        "lm_head",
        "re:.*self_attn.*",
        "re:.*shared_experts.*",
        r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",
    ],
}
"""``quantization_config`` of the published INT4 checkpoints."""


def quantize_experts(model: K2Model, *, enabled: bool = True) -> None:
    """Train and run the routed experts on the INT4 grid from now on (or off it again)."""
    for module in model.modules():
        if isinstance(module, RoutedExperts):
            module.quantize = FakeInt4() if enabled else None


def save_model(model: K2Model, folder: Path, *, int4: bool = False) -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``folder``.

    Raises:
        OSError: the folder cannot be written; what was there before is intact.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        stacked = _STACKED.fullmatch(name)
        if stacked is None:
            if not (model.config.tie_word_embeddings and name == "lm_head.weight"):
                tensors[name] = tensor
            continue
        for index, expert in enumerate(tensor):
            for which, weight in _projections(stacked["which"], expert):
                prefix = f"{stacked['experts']}.{index}.{which}_proj"
                tensors |= _entries(prefix, weight, int4=int4)
    save_safetensors(tensors, folder / "model.safetensors")
    config = model.config.to_mapping() | {"dtype": "float32"}
    if int4:
        config["quantization_config"] = QUANTIZATION
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_model(folder: Path) -> K2Model:
    """The model `save_model` wrote, or any single-file checkpoint of this architecture.

    Raises:
        ConfigError: a file is missing or broken, or the weights do not fit the config.
    """
    path = folder / "config.json"
    try:
        mapping = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"no model can be read: {error}", file=str(path)) from error
    model = K2Model(K2Config.from_mapping(mapping))
    held = load_safetensors(folder / "model.safetensors")
    state = {name: tensor for name, tensor in held.items() if not _SINGLE.fullmatch(name)}
    if model.config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    try:
        state |= _stack_experts(model, held)
        model.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise ConfigError(f"weights and config do not fit: {error}", file=str(folder)) from error
    return model


def _projections(which: str, expert_OI: Tensor) -> list[tuple[str, Tensor]]:
    if which == "down_proj":
        return [("down", expert_OI)]
    gate, up = expert_OI.chunk(2)
    return [("gate", gate), ("up", up)]


def _entries(prefix: str, weight_OI: Tensor, *, int4: bool) -> dict[str, Tensor]:
    if not int4:
        return {f"{prefix}.weight": weight_OI}
    grid = quantize(weight_OI)
    return {
        f"{prefix}.weight_packed": pack(grid.codes_RC),
        f"{prefix}.weight_scale": grid.scales_RQ,
        f"{prefix}.weight_shape": torch.tensor(weight_OI.shape),
    }


def _stack_experts(model: K2Model, held: dict[str, Tensor]) -> dict[str, Tensor]:
    stacked: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if not isinstance(module, RoutedExperts):
            continue
        count = module.down_proj.shape[0]
        gates, ups, downs = (
            [_weight(held, f"{name}.{index}.{which}_proj") for index in range(count)]
            for which in ("gate", "up", "down")
        )
        stacked[f"{name}.gate_up_proj"] = torch.stack(
            [torch.cat(pair) for pair in zip(gates, ups, strict=True)]
        )
        stacked[f"{name}.down_proj"] = torch.stack(downs)
    return stacked


def _weight(held: dict[str, Tensor], prefix: str) -> Tensor:
    if f"{prefix}.weight" in held:
        return held[f"{prefix}.weight"]
    codes = unpack(held[f"{prefix}.weight_packed"])
    return dequantize(Int4Weight(codes, held[f"{prefix}.weight_scale"]))
