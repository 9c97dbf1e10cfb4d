"""How one parameter is read as matrices: a declared view, never a guess from a name.

A parameter may hold one matrix, several glued along an axis (fused QKV, gate and up), a stack of
experts, or one block a head. ``MatrixView.matrices`` returns them as strided views of the tensor,
so the same declaration reads a gradient, a momentum and a weight.

Invariants: views alias their tensor and together cover each element exactly once; leading
dimensions of a tensor are a stack and are never mixed; a view that does not fit a shape says so.
"""

from dataclasses import dataclass
from math import prod

from torch import Tensor

from kimiya.errors import ConfigError


@dataclass(frozen=True, slots=True)
class MatrixView:
    """One way to cut ``(..., rows, columns)`` into matrices.

    First ``sizes`` or ``parts`` cut the axis into sections; then ``heads`` cuts each section into
    equal blocks; then ``inner`` cuts each block again.

    >>> import torch
    >>> [tuple(m.shape) for m in MatrixView(sizes=(4, 2, 2)).matrices(torch.zeros(8, 5))]
    [(4, 5), (2, 5), (2, 5)]
    >>> [tuple(m.shape) for m in MatrixView(heads=(3,), inner=(2, 1)).matrices(torch.zeros(9, 5))]
    [(3, 2, 5), (3, 1, 5)]
    """

    sizes: tuple[int, ...] = ()
    """Lengths of the sections along ``dim``, in order; empty for one section."""

    parts: int = 1
    """Number of equal sections, when ``sizes`` is empty."""

    heads: tuple[int, ...] = ()
    """Blocks in each section (one number for all of them, or one a section); empty for one."""

    inner: tuple[int, ...] = ()
    """Lengths of the pieces inside each block; empty for one piece."""

    dim: int = -2
    """The axis that is cut: -2 for rows (outputs of ``nn.Linear``), -1 for columns."""

    interleaved: bool = False
    """With ``parts``: section i holds every ``parts``-th line starting at i."""

    flatten: bool = False
    """Fold all dimensions after the first into columns first (convolution kernels)."""

    def __post_init__(self) -> None:
        if self.dim not in (-1, -2):
            raise ConfigError(f"dim is {self.dim}", key="dim", remedy="Use -2 (rows) or -1")
        if self.parts < 1 or any(n < 1 for n in (*self.sizes, *self.heads, *self.inner)):
            raise ConfigError(f"{self} has a part that is not positive")
        if self.sizes and self.parts != 1:
            raise ConfigError(f"{self} gives both sizes and parts", remedy="Give one of them")
        sections = len(self.sizes) or self.parts
        if len(self.heads) not in (0, 1, sections):
            raise ConfigError(f"{self} gives {len(self.heads)} heads for {sections} sections")

    def matrices(self, tensor: Tensor) -> list[Tensor]:
        """The matrices of ``tensor`` as views, each ``(..., n, m)``.

        Raises:
            ConfigError: the view does not fit the shape.
        """
        if self.flatten:
            tensor = self._flattened(tensor)
        if tensor.ndim < 2:
            raise ConfigError(f"shape {tuple(tensor.shape)} holds no matrix")
        turned = tensor.mT if self.dim == -1 else tensor
        found: list[Tensor] = []
        for index, section in enumerate(self._sections(turned)):
            found += self._pieces(section, self._blocks(index))
        return [piece.mT for piece in found] if self.dim == -1 else found

    def describe(self, shape: tuple[int, ...]) -> str:
        """The matrices in words, for reports: ``"48 of 96×192"``."""
        from torch import empty

        found = self.matrices(empty(shape, device="meta"))
        words = (f"{prod(m.shape[:-2])} of {m.shape[-2]}×{m.shape[-1]}" for m in found)
        return " + ".join(words)

    def keeps_whole(self, ndim: int, dim: int) -> bool:
        """Whether cutting a tensor of ``ndim`` dimensions along ``dim`` splits no matrix."""
        return not self.flatten and dim % ndim < ndim - 2

    @staticmethod
    def _flattened(tensor: Tensor) -> Tensor:
        try:
            return tensor.view(tensor.shape[0], -1)
        except RuntimeError as cause:
            raise ConfigError(
                f"a tensor of shape {tuple(tensor.shape)} and strides {tensor.stride()} cannot be "
                "read as a matrix without a copy",
                remedy="Make the parameter contiguous",
            ) from cause

    def _sections(self, tensor: Tensor) -> list[Tensor]:
        length = tensor.shape[-2]
        if self.sizes:
            if sum(self.sizes) != length:
                raise ConfigError(f"sizes {self.sizes} do not add up to {length}")
            return list(tensor.split(self.sizes, dim=-2))
        if length % self.parts:
            raise ConfigError(f"{length} lines do not divide into {self.parts} parts")
        if self.interleaved:
            return [tensor[..., start :: self.parts, :] for start in range(self.parts)]
        return list(tensor.split(length // self.parts, dim=-2)) if length else [tensor]

    def _blocks(self, section: int) -> int:
        if not self.heads:
            return 1
        return self.heads[0] if len(self.heads) == 1 else self.heads[section]

    def _pieces(self, section: Tensor, blocks: int) -> list[Tensor]:
        if section.shape[-2] % blocks:
            raise ConfigError(f"{section.shape[-2]} lines do not divide into {blocks} heads")
        if blocks > 1:
            section = section.unflatten(-2, (blocks, section.shape[-2] // blocks))
        if not self.inner:
            return [section]
        if sum(self.inner) != section.shape[-2]:
            raise ConfigError(f"inner {self.inner} do not add up to {section.shape[-2]}")
        return list(section.split(self.inner, dim=-2))


WHOLE = MatrixView()
"""The tensor is one matrix, or a stack of matrices along its leading dimensions."""

GATE_UP = MatrixView(parts=2)
"""Gate and up projections glued along the rows, as in ``(2·I, H)`` or ``(E, 2·I, H)``."""

FLATTENED = MatrixView(flatten=True)
"""A convolution kernel ``(O, I, ...)`` read as one ``O × I·...`` matrix."""
