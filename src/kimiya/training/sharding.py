"""Muon over ranks: a sharded matrix is made whole once, orthogonalised there, and sent back.

Four cases, by how a parameter lies on its mesh:

* whole here (plain, or sharded only along a stack of matrices): stepped where it is;
* equal replicas (DDP, when a process group is given): dealt out, each owner's updates broadcast;
* sharded along one mesh dimension (FSDP2 or tensor parallel): dealt out, all-to-all, and back;
* sharded along several: gathered, orthogonalised by the owner, broadcast along each dimension.

Invariants: every rank deals in the same order from shapes alone; momentum stays sharded; an update
is computed by exactly one rank of the ranks that share its shards; no rank writes another's shard.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from kimiya.training.adamw_update import local_part
from kimiya.training.matrix_view import MatrixView
from kimiya.training.muon_update import MuonRule, advance_momentum, apply_muon, pieces_of

ROUND_NUMEL = 1 << 24
"""Elements a rank owns in one exchange, at most (one matrix at least): bounds the buffers."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One parameter's local tensors, and its placement when it is distributed."""

    gradient: Tensor
    average: Tensor
    weight: Tensor
    whole: Any
    """The DTensor itself, or the plain tensor."""


def update_matrices(
    gradients: Sequence[Tensor | None],
    buffers: Sequence[Tensor],
    weights: Sequence[Tensor],
    view: MatrixView,
    rule: MuonRule,
    process_group: Any = None,
) -> None:
    """One Muon step of ``weights`` and ``buffers`` in place, on every rank alike.

    Args:
        gradients: one a weight, placed like it.
        buffers: momenta, placed like the weights.
        weights: parameters or master copies, plain or distributed.
        view: how each is read as matrices.
        rule: hyperparameters.
        process_group: ranks that hold equal replicas of the plain parameters.
    """
    rows = [
        _Row(local_part(g), local_part(b), local_part(w), w)
        for g, b, w in zip(gradients, buffers, weights, strict=True)
        if g is not None and w.numel()
    ]
    held = [row for row in rows if row.weight.numel()]
    advance_momentum([row.gradient for row in held], [row.average for row in held], rule)
    kinds: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        kinds[_kind(row.whole, view, process_group)].append(row)
    _step_here(kinds["here"], view, rule)
    if kinds["replicated"]:
        _step_replicated(kinds["replicated"], view, rule, process_group)
    by_mesh: dict[Any, list[_Row]] = defaultdict(list)
    for row in kinds["sharded"]:
        by_mesh[(row.whole.device_mesh, _shard_dims(row.whole)[0])].append(row)
    for (mesh, mesh_dim), alike in by_mesh.items():
        _step_sharded(alike, view, rule, mesh.get_group(mesh_dim))
    for row in kinds["scattered"]:
        _step_scattered(row, view, rule)


def _step_here(rows: Sequence[_Row], view: MatrixView, rule: MuonRule) -> None:
    apply_muon(
        [
            piece
            for row in rows
            if row.weight.numel()
            for piece in pieces_of(view, row.gradient, row.average, row.weight)
        ],
        rule,
    )


def _kind(whole: Tensor, view: MatrixView, process_group: Any) -> str:
    placements = getattr(whole, "placements", None)
    if placements is None:
        return "replicated" if process_group is not None else "here"
    sharded = _shard_dims(whole)
    if all(view.keeps_whole(whole.ndim, placements[dim].dim) for dim in sharded):
        return "here"
    simple = len(sharded) == 1 and type(placements[sharded[0]]).__name__ == "Shard"
    return "sharded" if simple else "scattered"


def _shard_dims(whole: Any) -> list[int]:
    """Mesh dimensions along which the tensor is cut."""
    return [dim for dim, place in enumerate(whole.placements) if not place.is_replicate()]


def _combined(gradient: Tensor, average: Tensor, rule: MuonRule) -> Tensor:
    """What is to be orthogonalised: the momentum, with the gradient mixed in under Nesterov."""
    if not rule.nesterov:
        return average.clone()
    return torch.lerp(gradient.to(average.dtype), average, rule.momentum)


def _orthogonalize_owned(wholes: Sequence[Tensor], view: MatrixView, rule: MuonRule) -> None:
    """Replace each whole combined momentum by its scaled update."""
    pieces = [p for whole in wholes for p in pieces_of(view, whole, None, whole, replaces=True)]
    apply_muon(pieces, rule)


def _take_step(weight: Tensor, update: Tensor, rule: MuonRule) -> None:
    weight.mul_(1.0 - rule.lr * rule.weight_decay).add_(update, alpha=-rule.lr)


def deal(costs: Sequence[float], ranks: int) -> list[int]:
    """An owner for each item: dearest first, to whoever has least; ties to the lowest rank.

    >>> deal([4.0, 1.0, 1.0, 2.0], 2)
    [0, 1, 1, 1]
    """
    load = [0.0] * ranks
    owners = [0] * len(costs)
    for item in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        owner = min(range(ranks), key=lambda rank: (load[rank], rank))
        owners[item] = owner
        load[owner] += costs[item]
    return owners


def _cost(shape: torch.Size) -> float:
    return float(shape.numel() * min(shape[-2:]))


def _step_replicated(rows: Sequence[_Row], view: MatrixView, rule: MuonRule, group: Any) -> None:
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    owners = deal([_cost(row.weight.shape) for row in rows], size)
    updates = [
        _combined(row.gradient, row.average, rule).contiguous()
        if owner == rank
        else torch.empty(row.weight.shape, dtype=row.average.dtype, device=row.weight.device)
        for row, owner in zip(rows, owners, strict=True)
    ]
    _orthogonalize_owned([u for u, o in zip(updates, owners, strict=True) if o == rank], view, rule)
    works = [
        dist.broadcast(update, group_src=owner, group=group, async_op=True)
        for update, owner in zip(updates, owners, strict=True)
    ]
    for row, update, work in zip(rows, updates, works, strict=True):
        if work is not None:
            work.wait()
        _take_step(row.weight, update, rule)


def _step_sharded(rows: Sequence[_Row], view: MatrixView, rule: MuonRule, group: Any) -> None:
    """Round by round: shards to their owners, whole updates computed, shards back."""
    size = dist.get_world_size(group)
    owners = deal([_cost(row.whole.shape) for row in rows], size)
    batch: list[tuple[_Row, int]] = []
    owned = [0] * size
    for row, owner in zip(rows, owners, strict=True):
        if batch and owned[owner] + row.whole.numel() > ROUND_NUMEL:
            _exchange_round(batch, view, rule, group)
            batch, owned = [], [0] * size
        batch.append((row, owner))
        owned[owner] += row.whole.numel()
    _exchange_round(batch, view, rule, group)


def _exchange_round(
    batch: Sequence[tuple[_Row, int]], view: MatrixView, rule: MuonRule, group: Any
) -> None:
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    by_owner: list[list[_Row]] = [[r for r, o in batch if o == owner] for owner in range(size)]
    mine = by_owner[rank]
    sent = [[_combined(r.gradient, r.average, rule) for r in rows] for rows in by_owner]
    shapes = [[_shard_shape(r.whole, peer, size) for r in mine] for peer in range(size)]
    reference = batch[0][0].average
    arrived = _all_to_all(sent, shapes, reference, group)
    wholes = [
        torch.cat([arrived[peer][i] for peer in range(size)], dim=_tensor_dim(row.whole))
        for i, row in enumerate(mine)
    ]
    _orthogonalize_owned(wholes, view, rule)
    back = [
        [_shard_of(whole, row.whole, peer, size) for row, whole in zip(mine, wholes, strict=True)]
        for peer in range(size)
    ]
    updates = _all_to_all(back, [[t.shape for t in row] for row in sent], reference, group)
    for rows, received in zip(by_owner, updates, strict=True):
        for row, update in zip(rows, received, strict=True):
            if row.weight.numel():
                _take_step(row.weight, update, rule)


def _all_to_all(
    sent: Sequence[Sequence[Tensor]],
    shapes: Sequence[Sequence[torch.Size]],
    reference: Tensor,
    group: Any,
) -> list[list[Tensor]]:
    """Send ``sent[p]`` to each peer p; what peer p sends here has ``shapes[p]``."""
    flat = [t.reshape(-1) for tensors in sent for t in tensors]
    outgoing = torch.cat(flat) if flat else reference.new_empty(0)
    out_sizes = [sum(t.numel() for t in tensors) for tensors in sent]
    in_sizes = [sum(shape.numel() for shape in row) for row in shapes]
    incoming = outgoing.new_empty(sum(in_sizes))
    dist.all_to_all_single(incoming, outgoing, in_sizes, out_sizes, group=group)
    received: list[list[Tensor]] = []
    for part, row in zip(incoming.split(in_sizes), shapes, strict=True):
        pieces = part.split([shape.numel() for shape in row])
        received.append([p.view(shape) for p, shape in zip(pieces, row, strict=True)])
    return received


def _tensor_dim(whole: Any) -> int:
    return whole.placements[_shard_dims(whole)[0]].dim % whole.ndim


def _bounds(length: int, peer: int, size: int) -> tuple[int, int]:
    """Where ``torch.chunk`` puts a peer's share: later peers may have less, or nothing."""
    each = -(-length // size)
    return min(peer * each, length), min((peer + 1) * each, length)


def _shard_shape(whole: Any, peer: int, size: int) -> torch.Size:
    dim = _tensor_dim(whole)
    start, stop = _bounds(whole.shape[dim], peer, size)
    return torch.Size((*whole.shape[:dim], stop - start, *whole.shape[dim + 1 :]))


def _shard_of(update: Tensor, whole: Any, peer: int, size: int) -> Tensor:
    dim = _tensor_dim(whole)
    start, stop = _bounds(whole.shape[dim], peer, size)
    return update.narrow(dim, start, stop - start)


def _step_scattered(row: _Row, view: MatrixView, rule: MuonRule) -> None:
    """Gather over every mesh dimension; the owner alone orthogonalises; broadcast back."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    mesh, placements = row.whole.device_mesh, row.whole.placements
    combined = DTensor.from_local(
        _combined(row.gradient, row.average, rule),
        mesh,
        placements,
        run_check=False,
        shape=row.whole.shape,
        stride=row.whole.stride(),
    )
    update = combined.full_tensor().contiguous()
    # The owner rotates with the shape so that equal matrices of one model do not pile on rank 0.
    owner = _owner_coordinate(row, mesh)
    here = list(mesh.get_coordinate())
    if here == owner:
        _orthogonalize_owned([update], view, rule)
    for dim in reversed(range(mesh.ndim)):
        if here[:dim] == owner[:dim]:
            dist.broadcast(update, group_src=owner[dim], group=mesh.get_group(dim))
    shard = distribute_tensor(update, mesh, placements, src_data_rank=None).to_local()
    if row.weight.numel():
        _take_step(row.weight, shard, rule)


def _owner_coordinate(row: _Row, mesh: Any) -> list[int]:
    number = sum(row.whole.shape) % mesh.size()
    coordinate: list[int] = []
    for dim in reversed(range(mesh.ndim)):
        coordinate.insert(0, number % mesh.size(dim))
        number //= mesh.size(dim)
    return coordinate


def any_rank(flag: Tensor | None, distributed: bool, process_group: Any) -> bool:
    """Whether ``flag`` is set on any rank, so that all ranks skip the same step.

    Args:
        flag: 0-d, above zero where set; ``None`` where this rank has nothing to say.
        distributed: whether ranks hold parts or replicas of one model.
        process_group: the ranks that must agree; ``None`` is all of them.
    """
    if not (distributed and dist.is_available() and dist.is_initialized()):
        return flag is not None and bool(flag)
    value = torch.zeros(()) if flag is None else flag.clone()
    return bool(max_over_ranks(value, process_group))


def max_over_ranks(values: Tensor, process_group: Any) -> Tensor:
    """The elementwise maximum over ranks (in place), or ``values`` in a single process."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    if values.device.type == "cpu" and dist.get_backend(process_group) == "nccl":
        values = values.cuda()
    dist.all_reduce(values, dist.ReduceOp.MAX, group=process_group)
    return values


def scale_rows(tensor: Tensor, rows: Tensor, dim: int) -> None:
    """Multiply each line of ``tensor`` along ``dim`` by its factor, in place, shard by shard.

    The product is formed in float32 at least, so a bfloat16 weight is rounded once.
    """
    shape = [1] * tensor.ndim
    shape[dim] = -1
    factors = rows.view(shape)
    if hasattr(tensor, "placements"):
        from torch.distributed.tensor import Replicate, distribute_tensor

        mesh = tensor.device_mesh  # type: ignore[attr-defined]
        kept = [
            place if not place.is_replicate() and place.dim % tensor.ndim == dim else Replicate()
            for place in tensor.placements  # type: ignore[attr-defined]
        ]
        factors = distribute_tensor(factors, mesh, kept, src_data_rank=None).to_local()
    here = local_part(tensor)
    if here.numel():
        here.copy_(here.to(torch.promote_types(here.dtype, torch.float32)) * factors)
