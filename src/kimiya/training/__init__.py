"""Training: MuonClip, QK-Clip, and what a small model of the K2 architecture needs.

An island: torch, and nothing else of Kimiya but its errors. Importing this package loads no torch;
the first name taken from it does, and says which extra to install when torch is absent.

Invariants: ``import kimiya.training`` costs nothing and cannot fail; every public name is listed in
``__all__`` and lives in exactly one module.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kimiya.errors import ConfigError

if TYPE_CHECKING:
    from kimiya.training.attention_layout import AttentionLayout, HeadRows, describe_attention
    from kimiya.training.attention_logits import attend, exact_max_logits, report_max_logits
    from kimiya.training.hugging_face import hugging_face_qk_clip
    from kimiya.training.matrix_view import FLATTENED, GATE_UP, WHOLE, MatrixView
    from kimiya.training.muon_clip import MuonClip
    from kimiya.training.newton_schulz import SCHEDULES, orthogonalize
    from kimiya.training.parameter_groups import assign_parameters, param_groups
    from kimiya.training.plugs import MuonClipFactory, build_optimizer, build_optimizers
    from kimiya.training.qk_clip import QKClip

_HOMES = {
    "FLATTENED": "matrix_view",
    "GATE_UP": "matrix_view",
    "SCHEDULES": "newton_schulz",
    "WHOLE": "matrix_view",
    "AttentionLayout": "attention_layout",
    "HeadRows": "attention_layout",
    "MatrixView": "matrix_view",
    "MuonClip": "muon_clip",
    "MuonClipFactory": "plugs",
    "QKClip": "qk_clip",
    "assign_parameters": "parameter_groups",
    "attend": "attention_logits",
    "build_optimizer": "plugs",
    "build_optimizers": "plugs",
    "describe_attention": "attention_layout",
    "exact_max_logits": "attention_logits",
    "hugging_face_qk_clip": "hugging_face",
    "orthogonalize": "newton_schulz",
    "param_groups": "parameter_groups",
    "report_max_logits": "attention_logits",
}

__all__ = [
    "FLATTENED",
    "GATE_UP",
    "SCHEDULES",
    "WHOLE",
    "AttentionLayout",
    "HeadRows",
    "MatrixView",
    "MuonClip",
    "MuonClipFactory",
    "QKClip",
    "assign_parameters",
    "attend",
    "build_optimizer",
    "build_optimizers",
    "describe_attention",
    "exact_max_logits",
    "hugging_face_qk_clip",
    "orthogonalize",
    "param_groups",
    "report_max_logits",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use.

    Raises:
        AttributeError: no such public name.
        ConfigError: torch is not installed.
    """
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{home}")
    except ModuleNotFoundError as missing:
        if missing.name != "torch":
            raise
        raise ConfigError(
            f"kimiya.training.{name} needs torch, which is not installed",
            remedy="Install the extra: pip install 'kimiya[train]'",
        ) from missing
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
