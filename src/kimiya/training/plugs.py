"""MuonClip where people already train: Hugging Face Trainer, plain loops, TorchTitan-style lists.

Invariants: no trainer is imported; each plug is a few lines over :class:`MuonClip`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from kimiya.errors import ConfigError
from kimiya.training.muon_clip import MuonClip
from kimiya.training.parameter_groups import param_groups
from kimiya.training.qk_clip import QKClip

_GROUP_OPTIONS = ("adamw_lr", "overrides", "views", "per_head")


def build_optimizer(model: nn.Module, *, tau: float | None = None, **options: Any) -> MuonClip:
    """One :class:`MuonClip` for one model.

    Args:
        model: grouped by :func:`param_groups`.
        tau: clip attention logits at this; ``None`` does not watch them. A transformers model is
            switched to the reporting attention.
        **options: of :func:`param_groups` (``adamw_lr``, ``overrides``, ``views``, ``per_head``)
            and of :class:`MuonClip`.
    """
    options = {key: value for key, value in options.items() if value is not None}
    shared = {key: options[key] for key in ("lr", "weight_decay", "adamw_betas") if key in options}
    grouping = {key: options.pop(key) for key in _GROUP_OPTIONS if key in options}
    clip: QKClip | None = options.pop("qk_clip", None)
    if clip is None and tau is not None:
        clip = _clip(model, tau)
    groups = param_groups(model, **shared, **grouping)
    return MuonClip(groups, qk_clip=clip, **options)


def _clip(model: nn.Module, tau: float) -> QKClip:
    if hasattr(model, "set_attn_implementation"):
        from kimiya.training.hugging_face import hugging_face_qk_clip

        return hugging_face_qk_clip(model, tau=tau)
    return QKClip(model, tau=tau)


class MuonClipFactory:
    """For ``Trainer(optimizer_cls_and_kwargs=(MuonClipFactory, {"lr": 2e-3, "tau": 100}))``.

    Trainer makes an instance and calls it with the model, after wrapping or sharding it.
    """

    def __call__(self, model: nn.Module, **options: Any) -> MuonClip:
        """Build the optimizer; see :func:`build_optimizer`."""
        return build_optimizer(model, **options)


class OptimizerList:
    """One optimizer a model part (pipeline stage), stepped together, as TorchTitan holds them.

    ``state_dict`` is one flat mapping keyed by parameter name, as torch.distributed.checkpoint
    wants it, so parts may be laid out otherwise on loading.
    """

    def __init__(self, model_parts: Sequence[nn.Module], optimizers: Sequence[Optimizer]) -> None:
        self.model_parts = list(model_parts)
        self.optimizers = list(optimizers)

    def __iter__(self) -> Iterator[Optimizer]:
        return iter(self.optimizers)

    def __len__(self) -> int:
        return len(self.optimizers)

    def step(self) -> None:
        """Step every part."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear every part's gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """All parts' states, flattened by parameter name."""
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        merged: dict[str, Any] = {}
        for part, optimizer in zip(self.model_parts, self.optimizers, strict=True):
            merged.update(get_optimizer_state_dict(part, optimizer, options=_flat()))
        return merged

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` gave."""
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

        for part, optimizer in zip(self.model_parts, self.optimizers, strict=True):
            set_optimizer_state_dict(part, optimizer, state_dict, options=_flat())


def _flat() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(flatten_optimizer_state_dict=True)


def build_optimizers(model_parts: Sequence[nn.Module], **options: Any) -> OptimizerList:
    """A TorchTitan-style builder: one :class:`MuonClip` a model part.

    Args:
        model_parts: one module a pipeline stage held by this rank; parallelism already applied.
        **options: see :func:`build_optimizer`.

    Raises:
        ConfigError: no parts.
    """
    if not model_parts:
        raise ConfigError("no model parts were given", key="model_parts")
    return OptimizerList(model_parts, [build_optimizer(part, **options) for part in model_parts])
