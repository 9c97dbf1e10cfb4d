# ruff: noqa: E402 - torch must be found before what needs it is imported
"""2 and 4 gloo processes against one: FSDP2, tensor sharding, DDP, checkpoints, QK-Clip.

Tolerance: gradients are summed in another order over ranks, so weights agree to 2e-5 after three
steps of a learning rate of 0.02, not to the bit. Momentum stays sharded.
"""

import tempfile
from typing import ClassVar

import pytest

torch = pytest.importorskip("torch")

from torch import distributed as dist
from torch import nn
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint import load as load_checkpoint
from torch.distributed.checkpoint import save as save_checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from kimiya.training import MuonClip, QKClip, muon_update, sharding
from tests.training.optim.models import Experts, Grouped, Latent, naive_maxima
from tests.training.optim.ranks import run_on_ranks

TOLERANCE = {"atol": 2e-5, "rtol": 0}
TAU = 0.9


class Small(nn.Module):
    """Attention of both kinds, experts, odd shapes that do not divide by the ranks."""

    matrix_views: ClassVar = {"odd.weight": muon_update.MatrixView(sizes=(3, 2))}

    def __init__(self):
        super().__init__()
        self.grouped = Grouped(4, 2, size=5, width=8, gain=2.0)
        self.latent = Latent(4, 3, 2, 3, width=8, rank=6, gain=4.0)
        self.experts = Experts(experts=3, width=8, inner=6)
        self.odd = nn.Linear(8, 5)
        self.thin = nn.Linear(5, 8)

    def forward(self, x):
        x = x + self.grouped(x)
        x = x + self.latent(x)
        x = x + self.experts(x.flatten(0, 1)).view(x.shape)
        return self.thin(self.odd(x))


def made():
    torch.manual_seed(7)
    return Small()


def data(step, rank=0, ranks=1):
    x = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(step))
    return x[rank * 4 // ranks : (rank + 1) * 4 // ranks]


def steps(model, optimizer, first, last, rank=0, ranks=1):
    for step in range(first, last):
        x = data(step, rank, ranks)
        optimizer.zero_grad()
        (model(x) - x).square().mean().backward()
        optimizer.step()


def optimizer_for(model, **options):
    clip = QKClip(model, tau=TAU)
    return MuonClip(model, lr=0.02, qk_clip=clip, **options), clip


def whole(model):
    return {
        name.removeprefix("module."): (p.full_tensor() if isinstance(p, DTensor) else p)
        .detach()
        .clone()
        for name, p in model.named_parameters()
    }


def single(count=3):
    model = made()
    optimizer, clip = optimizer_for(model)
    steps(model, optimizer, 0, count)
    return whole(model), clip.state_dict(), [row.clipped for row in clip.last]


def count_orthogonalised():
    """Counts matrices that go through Newton–Schulz on this rank."""
    counted = []
    original = muon_update.last_factor_

    def counting(stack, *rest):
        counted.append(stack.shape[0])
        return original(stack, *rest)

    muon_update.last_factor_ = counting
    return counted


def fsdp(rank, ranks):
    counted = count_orthogonalised()
    model = made()
    for child in (model.grouped, model.latent, model.experts):
        fully_shard(child)
    fully_shard(model)
    optimizer, clip = optimizer_for(model)
    steps(model, optimizer, 0, 3, rank, ranks)
    buffers = [s["momentum_buffer"] for s in optimizer.state.values() if "momentum_buffer" in s]
    assert all(isinstance(b, DTensor) for b in buffers)
    return whole(model), clip.state_dict(), [row.clipped for row in clip.last], sum(counted)


def ddp(rank, ranks):
    counted = count_orthogonalised()
    model = nn.parallel.DistributedDataParallel(made())
    clip = QKClip(model.module, tau=TAU)
    optimizer = MuonClip(model, lr=0.02, qk_clip=clip, process_group=dist.group.WORLD)
    steps(model, optimizer, 0, 3, rank, ranks)
    return whole(model), clip.state_dict(), [row.clipped for row in clip.last], sum(counted)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("wrapped", [fsdp, ddp])
def test_many_processes_equal_one_and_orthogonalise_each_matrix_once(wrapped, ranks):
    weights, state, clipped = single()
    results = run_on_ranks(wrapped, ranks, ranks)
    assert sum(state["total_clips"].values()) > 0
    for found, clip_state, heads, _ in results:
        for name, expected in weights.items():
            torch.testing.assert_close(found[name], expected, **TOLERANCE)
        assert heads == clipped
        assert sum(clip_state["total_clips"].values()) == sum(state["total_clips"].values())
    for found, *_ in results[1:]:
        assert all(torch.equal(found[n], results[0][0][n]) for n in weights)
    # 10 plain matrices, 2 of the fused one, 3 experts of 2 + 1 each: per step.
    assert sum(counted for *_, counted in results) == 3 * (10 + 2 + 9)


def placed(rank, ranks, placements, shape):
    """One matrix and one expert stack under any placement, against the plain step."""
    mesh = init_device_mesh("cpu", shape)
    g = torch.Generator().manual_seed(1)
    plain = [nn.Parameter(torch.randn(s, generator=g)) for s in ((7, 10), (10, 4), (3, 6, 4))]
    gradients = [torch.randn(p.shape, generator=g) for p in plain]
    spread = [nn.Parameter(distribute_tensor(p.detach().clone(), mesh, placements)) for p in plain]
    for p, q, gradient in zip(plain, spread, gradients, strict=True):
        p.grad = gradient.clone()
        q.grad = distribute_tensor(gradient, mesh, placements)
    counted = count_orthogonalised()
    MuonClip(spread, lr=0.1).step()
    seen = sum(counted)
    MuonClip(plain, lr=0.1).step()
    for p, q in zip(plain, spread, strict=True):
        torch.testing.assert_close(q.full_tensor(), p.detach(), atol=1e-5, rtol=0)
    rows = torch.linspace(0.5, 2.0, 7)
    sharding.scale_rows(spread[0].detach(), rows, 0)
    torch.testing.assert_close(spread[0].full_tensor(), plain[0] * rows[:, None], atol=1e-5, rtol=0)
    return seen


PLACEMENTS = {
    2: [((2,), [Shard(0)], 5), ((2,), [Shard(1)], 5), ((2,), [Replicate()], 10)],
    4: [
        ((2, 2), [Shard(0), Shard(1)], 5),
        ((2, 2), [Shard(1), Shard(0)], 5),
        ((2, 2), [Replicate(), Shard(0)], 10),
    ],
}
"""World size to (mesh shape, placements, matrices orthogonalised over all ranks): replicas along a
mesh dimension each do their own."""


def all_placed(rank, ranks):
    return [placed(rank, ranks, kinds, shape) for shape, kinds, _ in PLACEMENTS[ranks]]


@pytest.mark.parametrize("ranks", sorted(PLACEMENTS))
def test_any_placement_equals_the_plain_step(ranks):
    seen = run_on_ranks(all_placed, ranks, ranks)
    totals = [sum(column) for column in zip(*seen, strict=True)]
    assert totals == [count for *_, count in PLACEMENTS[ranks]]


def save_shards(rank, ranks, folder):
    model = made()
    fully_shard(model)
    optimizer, _ = optimizer_for(model)
    steps(model, optimizer, 0, 2, rank, ranks)
    weights, state = get_state_dict(model, optimizer)
    save_checkpoint({"model": weights, "optimizer": state}, storage_writer=FileSystemWriter(folder))
    steps(model, optimizer, 2, 4, rank, ranks)
    return whole(model)


def load_shards(rank, ranks, folder):
    model = made()
    for p in model.parameters():
        p.data.zero_()
    fully_shard(model)
    optimizer, _ = optimizer_for(model)
    weights, state = get_state_dict(model, optimizer)
    saved = {"model": weights, "optimizer": state}
    load_checkpoint(saved, storage_reader=FileSystemReader(folder))
    set_state_dict(
        model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"]
    )
    steps(model, optimizer, 2, 4, rank, ranks)
    return whole(model)


@pytest.mark.parametrize(("saved_by", "loaded_by"), [(4, 2), (2, 2)])
def test_checkpoints_move_to_another_world_size(saved_by, loaded_by):
    with tempfile.TemporaryDirectory() as folder:
        straight = run_on_ranks(save_shards, saved_by, saved_by, folder)[0]
        resumed = run_on_ranks(load_shards, loaded_by, loaded_by, folder)[0]
    for name, expected in straight.items():
        torch.testing.assert_close(resumed[name], expected, **TOLERANCE)
        if saved_by == loaded_by:
            assert torch.equal(resumed[name], expected)


def poisoned(rank, ranks):
    model = made()
    fully_shard(model)
    optimizer, _ = optimizer_for(model)
    kept = whole(model)
    x = data(0, rank, ranks)
    (model(x) - x).square().mean().backward()
    local = model.odd.weight.grad.to_local()
    if rank == 1 and local.numel():
        local.view(-1)[0] = float("nan")
    optimizer.step()
    found = whole(model)
    return optimizer.skipped_steps, all(torch.equal(kept[n], found[n]) for n in kept)


def test_a_nan_on_one_rank_skips_the_step_on_all():
    assert run_on_ranks(poisoned, 2, 2) == [(1, True), (1, True)]


def split_heads(rank, ranks):
    """Sequence-parallel queries and head-parallel reports: maxima are reduced over ranks."""
    torch.manual_seed(3)
    module = Grouped(4, 4, gain=3.0)
    x = torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(5))
    clip = QKClip(module, tau=1.0)
    full = naive_maxima(module, x).float()
    from kimiya.training import report_max_logits

    half = slice(2 * rank, 2 * rank + 2)
    report_max_logits(module, full[half], head_offset=2 * rank)
    (row,) = clip.clip()
    return list(row.max_logits), full.tolist(), module.q_proj.weight.detach().clone()


def test_maxima_of_heads_on_other_ranks_are_reduced():
    first, second = run_on_ranks(split_heads, 2, 2)
    assert first[0] == second[0] == first[1]
    assert torch.equal(first[2], second[2])
