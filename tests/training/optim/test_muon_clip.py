# ruff: noqa: E402 - torch must be found before what needs it is imported
"""MuonClip against torch's own optimizers, step for step, and against itself."""

import copy
import io

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional

from kimiya.errors import ConfigError
from kimiya.training import GATE_UP, MatrixView, MuonClip, param_groups
from kimiya.training.muon_clip import NonFiniteGradient
from tests.training.optim.models import Mixed


def generator(seed):
    return torch.Generator().manual_seed(seed)


def parameters(shapes, seed=0, dtype=torch.float32):
    g = generator(seed)
    return [nn.Parameter(torch.randn(s, generator=g).to(dtype)) for s in shapes]


def give_gradients(params, seed):
    g = generator(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=g).to(p.dtype)


def train(model, optimizer, steps, start=0):
    losses = []
    for step in range(start, start + steps):
        tokens = torch.randint(0, 11, (4, 6), generator=generator(step))
        loss = functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def mixed(seed=0):
    torch.manual_seed(seed)
    return Mixed()


def everything(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


SHAPES = [(8, 8), (8, 24), (24, 8), (6, 30), (1, 5)]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_equals_torch_muon_step_for_step(nesterov, adjust):
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    options = {"lr": 0.02, "weight_decay": 0.1, "nesterov": nesterov, "adjust_lr_fn": adjust}
    mine = MuonClip(ours, ns_dtype=torch.bfloat16, ns_method="direct", **options)
    reference = torch.optim.Muon(theirs, **options)
    for step in range(5):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        mine.step()
        reference.step()
        for a, b in zip(ours, theirs, strict=True):
            size = 0.02 * (0.2 * max(a.shape) ** 0.5 if adjust != "original" else 2.0)
            torch.testing.assert_close(a, b, atol=0.03 * size * (step + 1), rtol=0)
            buffers = mine.state[a]["momentum_buffer"], reference.state[b]["momentum_buffer"]
            torch.testing.assert_close(*buffers)


def test_float32_iteration_stays_near_torch_muon():
    ours, theirs = parameters([(16, 40)]), parameters([(16, 40)])
    options = {"lr": 0.1, "weight_decay": 0.0, "adjust_lr_fn": "original"}
    mine, reference = MuonClip(ours, **options), torch.optim.Muon(theirs, **options)
    give_gradients(ours, 1)
    give_gradients(theirs, 1)
    before = ours[0].detach().clone()
    mine.step()
    reference.step()
    a, b = (before - ours[0]).flatten(), (before - theirs[0]).flatten()
    assert functional.cosine_similarity(a, b, dim=0) > 0.999


@pytest.mark.parametrize("fused", [True, False])
def test_equals_torch_adamw_step_for_step(fused):
    shapes = [(8,), (3, 4), ()]
    ours, theirs = parameters(shapes), parameters(shapes)
    mine = MuonClip(
        [
            {"params": ours[:1], "algorithm": "adamw"},
            {"params": ours[1:], "use_muon": False},
            {"params": parameters([(2, 2)]), "use_muon": True},
        ],
        lr=0.01, weight_decay=0.1, adamw_betas=(0.9, 0.99),
    )  # fmt: skip
    reference = torch.optim.AdamW(theirs, 0.01, (0.9, 0.99), weight_decay=0.1, fused=fused)
    for step in range(10):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        mine.step()
        reference.step()
        for a, b in zip(ours, theirs, strict=True):
            if fused:
                assert torch.equal(a, b)
            torch.testing.assert_close(a, b)
            torch.testing.assert_close(mine.state[a]["exp_avg"], reference.state[b]["exp_avg"])


def test_update_has_adamws_rms():
    for shape in [(64, 64), (32, 128), (128, 32)]:
        (p,) = parameters([shape])
        before = p.detach().clone()
        optimizer = MuonClip(
            [p], lr=1.0, weight_decay=0.0, ns_coefficients="polar_express", nesterov=False
        )
        give_gradients([p], 3)
        optimizer.step()
        rms = (p - before).square().mean().sqrt()
        assert 0.18 < rms < 0.22


def test_weight_decay_is_decoupled():
    (p,) = parameters([(6, 6)])
    before = p.detach().clone()
    optimizer = MuonClip([p], lr=0.1, weight_decay=0.5)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(p.detach(), before * 0.95)


def test_views_equal_separate_matrices():
    fused = nn.Parameter(torch.randn(3, 8, 5, generator=generator(1)))
    gradient = torch.randn(fused.shape, generator=generator(2))
    halves = [nn.Parameter(h.clone()) for e in fused.detach() for h in e.chunk(2)]
    for half, part in zip(halves, [h for e in gradient for h in e.chunk(2)], strict=True):
        half.grad = part.clone()
    fused.grad = gradient
    MuonClip([{"params": [fused], "algorithm": "muon", "view": GATE_UP}], lr=0.1).step()
    MuonClip(halves, lr=0.1).step()
    expected = torch.stack([torch.cat(halves[i : i + 2]) for i in (0, 2, 4)])
    torch.testing.assert_close(fused.detach(), expected.detach(), atol=1e-6, rtol=0)


def test_per_head_blocks_are_orthogonalised_alone():
    p = nn.Parameter(torch.zeros(8, 6))
    gradient = torch.randn(8, 6, generator=generator(5))
    p.grad = gradient.clone()
    view = MatrixView(heads=(2,))
    optimizer = MuonClip([{"params": [p], "algorithm": "muon", "view": view}], lr=1.0)
    optimizer.step()
    first = p.detach().clone()
    p.data.zero_()
    fresh = MuonClip([{"params": [p], "algorithm": "muon", "view": view}], lr=1.0)
    p.grad = torch.cat([gradient[:4], 100 * torch.randn(4, 6, generator=generator(6))])
    fresh.step()
    torch.testing.assert_close(p.detach()[:4], first[:4], atol=1e-6, rtol=0)
    assert not torch.allclose(p.detach()[4:], first[4:])


def test_batching_does_not_change_the_step(monkeypatch):
    from kimiya.training import muon_update

    results = []
    for budget in (1, 100, 1 << 20):
        monkeypatch.setitem(muon_update.STACK_NUMEL, "cpu", budget)
        model = mixed()
        train(model, MuonClip(model, lr=0.01), 3)
        results.append(everything(model))
    for other in results[1:]:
        for name, value in results[0].items():
            torch.testing.assert_close(other[name], value, atol=2e-6, rtol=0)


def test_two_runs_are_bitwise_equal():
    runs = []
    for _ in range(2):
        model = mixed()
        runs.append((train(model, MuonClip(model, lr=0.01), 6), everything(model)))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(runs[0][1][n], runs[1][1][n]) for n in runs[0][1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resume_is_bitwise_equal(dtype):
    def fresh():
        model = mixed().to(dtype)
        return model, MuonClip(model, lr=0.01, master_weights=True)

    model, optimizer = fresh()
    train(model, optimizer, 3)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    straight = train(model, optimizer, 3, start=3)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again, optimizer_again = fresh()
    again.load_state_dict(saved["model"])
    optimizer_again.load_state_dict(saved["optimizer"])
    assert train(again, optimizer_again, 3, start=3) == straight
    resumed, kept = everything(again), everything(model)
    assert all(torch.equal(resumed[n], kept[n]) for n in kept)
    assert optimizer_again.assignments() == optimizer.assignments()


def test_learning_goes_down():
    model = mixed()
    losses = train(model, MuonClip(model, lr=0.02), 60)
    assert sum(losses[-5:]) < 0.2 * sum(losses[:5])


def test_gradients_are_left_alone():
    params = parameters(SHAPES)
    give_gradients(params, 1)
    kept = [p.grad.clone() for p in params]
    MuonClip(params, lr=0.1).step()
    assert all(torch.equal(p.grad, k) for p, k in zip(params, kept, strict=True))


def test_master_weights_keep_what_bfloat16_would_lose():
    def run(master):
        p = nn.Parameter(torch.full((4, 4), 100.0, dtype=torch.bfloat16))
        optimizer = MuonClip([p], lr=0.01, weight_decay=0.0, master_weights=master)
        give_gradients([p], 7)
        for _ in range(200):
            optimizer.step()
        return p.detach().float()

    assert torch.equal(run(False), torch.full((4, 4), 100.0))
    assert not torch.equal(run(True), torch.full((4, 4), 100.0))


# ---------------------------------------------------------------- states of others


def test_takes_up_torch_muons_state_and_goes_on_as_it_would():
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    reference = torch.optim.Muon(theirs, lr=0.02, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        give_gradients(theirs, step)
        reference.step()
    mine = MuonClip(ours, lr=1.0, ns_dtype=torch.bfloat16, ns_method="direct")
    for p, q in zip(ours, theirs, strict=True):
        p.data.copy_(q.data)
    mine.load_state_dict(reference.state_dict())
    assert mine.param_groups[0]["lr"] == 0.02
    give_gradients(ours, 9)
    give_gradients(theirs, 9)
    mine.step()
    reference.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(mine.state[a]["momentum_buffer"], reference.state[b]["momentum_buffer"])
        torch.testing.assert_close(a, b, atol=1e-3, rtol=0)


@pytest.mark.parametrize("named", [True, False])
def test_takes_up_adamws_state(named):
    model = mixed()
    params = list(model.named_parameters() if named else model.parameters())
    adamw = torch.optim.AdamW(params, lr=0.01, betas=(0.9, 0.95))
    train(model, adamw, 3)
    mine = MuonClip(model, lr=0.01)
    mine.load_state_dict(adamw.state_dict())
    for name, p in model.named_parameters():
        state, was = mine.state[p], adamw.state[p]
        if name in ("qkv.weight", "experts.gate_up_proj", "experts.down_proj"):
            assert torch.equal(state["momentum_buffer"], was["exp_avg"])
        else:
            assert torch.equal(state["exp_avg_sq"], was["exp_avg_sq"])
            assert state["step"] == 3
    train(model, mine, 2, start=3)


@pytest.mark.parametrize("state", [{}, {"state": {}}, {"state": {}, "param_groups": 3}, None])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ConfigError, match="no optimizer state"):
        MuonClip(parameters([(2, 2)])).load_state_dict(state)


def test_a_state_that_cannot_be_matched_is_refused_and_nothing_changes():
    mine = MuonClip(parameters([(2, 2), (3, 3)]))
    give_gradients(mine.param_groups[0]["params"], 0)
    mine.step()
    kept = copy.deepcopy(mine.state_dict())
    with pytest.raises(ConfigError, match="to match them by"):
        mine.load_state_dict(MuonClip(parameters([(2, 2)])).state_dict())
    for index, state in kept["state"].items():
        held = mine.state_dict()["state"][index]
        assert torch.equal(held["momentum_buffer"], state["momentum_buffer"])


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("target", ["qkv.weight", "norm.bias"])
def test_nonfinite_gradients_are_skipped_and_counted(poison, target):
    model = mixed()
    optimizer = MuonClip(model, lr=0.01)
    train(model, optimizer, 1)
    kept, state = everything(model), copy.deepcopy(optimizer.state_dict())
    dict(model.named_parameters())[target].grad.view(-1)[0] = poison
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert all(torch.equal(kept[n], p) for n, p in model.named_parameters())
    for index, values in optimizer.state_dict()["state"].items():
        assert all(torch.equal(v, state["state"][index][k]) for k, v in values.items())
    train(model, optimizer, 1)
    assert optimizer.skipped_steps == 1


def test_nonfinite_gradients_are_raised_by_choice():
    model = mixed()
    optimizer = MuonClip(model, lr=0.01, nonfinite="raise")
    train(model, optimizer, 1)
    kept = everything(model)
    model.qkv.weight.grad[0, 0] = float("nan")
    with pytest.raises(NonFiniteGradient, match=r"qkv\.weight"):
        optimizer.step()
    assert all(torch.equal(kept[n], p) for n, p in model.named_parameters())


def test_finite_gradients_whose_sum_overflows_are_no_reason_to_skip():
    (p,) = parameters([(4, 4)])
    optimizer = MuonClip([p], lr=0.1)
    p.grad = torch.full((4, 4), 3e38)
    optimizer.step()
    assert optimizer.skipped_steps == 0


def test_missing_gradients_and_frozen_parameters_are_left_alone():
    model = mixed()
    model.conv.requires_grad_(False)
    optimizer = MuonClip(model, lr=0.01)
    assert not any("conv" in row["name"] for row in optimizer.assignments())
    kept = everything(model)
    optimizer.step()
    assert all(torch.equal(kept[n], p) for n, p in model.named_parameters())
    assert not optimizer.state


def test_non_contiguous_parameters_are_stepped():
    storage = torch.randn(8, 5, generator=generator(1))
    turned, plain = nn.Parameter(storage.mT), nn.Parameter(storage.mT.contiguous())
    vector = nn.Parameter(torch.randn(10, generator=generator(3))[::2])
    straight = nn.Parameter(vector.detach().clone())
    gradient, small = torch.randn(5, 8, generator=generator(2)), torch.ones(5)
    for matrix, bias in ((turned, vector), (plain, straight)):
        matrix.grad, bias.grad = gradient.clone(), small.clone()
        MuonClip(
            [{"params": [matrix], "use_muon": True}, {"params": [bias], "use_muon": False}], lr=0.1
        ).step()
    torch.testing.assert_close(turned, plain)
    torch.testing.assert_close(vector, straight)


def test_zero_size_tensors_are_harmless():
    empty = [nn.Parameter(torch.zeros(0, 4)), nn.Parameter(torch.zeros(2, 0, 3))]
    bias, p = nn.Parameter(torch.zeros(0)), nn.Parameter(torch.ones(2, 2))
    optimizer = MuonClip(
        [{"params": [*empty, p], "algorithm": "muon"}, {"params": [bias], "algorithm": "adamw"}]
    )
    for q in (*empty, bias, p):
        q.grad = torch.ones_like(q)
    optimizer.step()
    assert not torch.equal(p, torch.ones(2, 2))
    optimizer.load_state_dict(optimizer.state_dict())
    assert "0" in optimizer.explain()


def test_shared_weights_are_stepped_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    optimizer = MuonClip(model, lr=0.1)
    assert len(optimizer.param_groups[0]["params"]) == 1


def test_tied_heads_follow_their_embedding():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False))
    model[2].weight = model[0].weight
    rows = {row["name"]: row for row in MuonClip(model).assignments()}
    assert rows["0.weight"]["algorithm"] == "adamw"
    assert "2.weight" not in rows


def test_nothing_for_muon_warns():
    with pytest.warns(UserWarning, match="none follows Muon"):
        optimizer = MuonClip(nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3)))
    assert "WARNING" in optimizer.explain()


def test_bare_mixed_parameters_warn_that_embeddings_cannot_be_told():
    with pytest.warns(UserWarning, match="bare parameters"):
        MuonClip(nn.Sequential(nn.Linear(3, 3)).parameters())


def test_sparse_gradients_name_the_parameter():
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 3))
    optimizer = MuonClip(model)
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(ConfigError, match=r"0\.weight.*sparse"):
        optimizer.step()


BAD_OPTIONS = [
    ({"lr": -1.0}, "lr"), ({"lr": float("nan")}, "lr"), ({"momentum": 1.0}, "momentum"),
    ({"weight_decay": -0.1}, "weight_decay"), ({"adjust_lr_fn": "rms"}, "adjust_lr_fn"),
    ({"ns_steps": 0}, "ns_steps"), ({"ns_coefficients": "x"}, "ns_coefficients"),
    ({"nonfinite": "maybe"}, "nonfinite"), ({"ns_method": "fast"}, "ns_method"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "key"), BAD_OPTIONS)
def test_bad_options_name_their_key(options, key):
    with pytest.raises(ConfigError, match=key):
        MuonClip(parameters([(2, 2)]), **options)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([], "no parameters"),
        ([{"params": [nn.Parameter(torch.ones(2, 2))]}], "algorithm"),
        ([{"params": [nn.Parameter(torch.ones(2, 2))], "algorithm": "sgd"}], "sgd"),
        ([{"params": [nn.Parameter(torch.ones(2))], "use_muon": True}], "AdamW"),
        ([{"params": [nn.Parameter(torch.ones(2, 2))], "use_muon": 1, "algorithm": "adamw"}],
         "use_muon"),
        ([{"params": [nn.Parameter(torch.ones(2, 2) * 1j)], "use_muon": True}], "complex"),
        ([{"params": [nn.Parameter(torch.ones(2))], "algorithm": "adamw", "amsgrad": True}],
         "amsgrad"),
    ],
)  # fmt: skip
def test_bad_groups_are_refused(groups, words):
    with pytest.raises(ConfigError, match=words):
        MuonClip(groups)


def test_a_zero3_placeholder_is_refused():
    empty = nn.Parameter(torch.zeros(0, 2))
    empty.ds_shape = (4, 2)
    with pytest.raises(ConfigError, match="ZeRO-3"):
        MuonClip([{"params": [empty], "algorithm": "muon"}])


def test_schedulers_and_closures_work():
    (p,) = parameters([(4, 4)])
    optimizer = MuonClip([p], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert optimizer.step(closure) < first


# ---------------------------------------------------------------- the rule


def test_each_parameter_follows_the_rule_it_should():
    rows = {row["name"]: row for row in MuonClip(mixed()).assignments()}
    muon = {name for name, row in rows.items() if row["algorithm"] == "muon"}
    assert muon == {"qkv.weight", "experts.gate_up_proj", "experts.down_proj"}
    assert rows["gate.weight"]["reason"] == "router"
    assert rows["embedding.weight"]["reason"] == "embedding"
    assert rows["lm_head.weight"]["reason"] == "output head"
    assert rows["conv.weight"]["reason"].startswith("convolution")
    assert rows["qkv.weight"]["matrices"] == "1 of 8×8 + 1 of 8×8 + 1 of 8×8"
    assert rows["experts.gate_up_proj"]["matrices"] == "3 of 12×8 + 3 of 12×8"


def test_a_linear_router_is_told_by_its_name():
    model = nn.ModuleDict({"gate": nn.Linear(4, 3), "gate_proj": nn.Linear(4, 3)})
    rows = {row["name"]: row["algorithm"] for row in MuonClip(model).assignments()}
    assert (rows["gate.weight"], rows["gate_proj.weight"]) == ("adamw", "muon")


def test_per_head_uses_the_declared_heads():
    groups = param_groups(mixed(), per_head=True)
    views = {name: g["view"] for g in groups for name, _ in g["params"]}
    assert views["qkv.weight"] == MatrixView(sizes=(8, 8, 8), heads=(2,))


def test_norms_and_biases_are_not_decayed():
    decay = {n: g["weight_decay"] for g in param_groups(mixed()) for n, _ in g["params"]}
    assert decay["norm.weight"] == decay["qkv.bias"] == 0.0
    assert decay["embedding.weight"] == decay["qkv.weight"] == 0.1


def test_overrides_and_views_win_and_are_explained():
    optimizer = MuonClip(
        param_groups(
            mixed(),
            adamw_lr=0.5,
            overrides={"experts.*": "adamw", "*.down_proj": "muon"},
            views={"conv.weight": MatrixView(flatten=True)},
        )
    )
    rows = {row["name"]: row for row in optimizer.assignments()}
    assert rows["experts.gate_up_proj"]["algorithm"] == "adamw"
    assert rows["experts.down_proj"]["algorithm"] == "muon"
    assert rows["conv.weight"]["matrices"] == "1 of 8×24"
    assert "override 'experts.*'" in optimizer.explain()
    rates = {g["algorithm"]: g["lr"] for g in optimizer.param_groups}
    assert rates == {"muon": 1e-3, "adamw": 0.5}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"overrides": {"nope.*": "muon"}}, "matches no trainable"),
        ({"overrides": {"qkv.weight": "sgd"}}, "sgd"),
        ({"overrides": {"qkv.bias": "muon"}}, "qkv.bias"),
        ({"views": {"qkv.weight": MatrixView(sizes=(3, 3))}}, "qkv.weight"),
        ({"views": {"qkv.weight": "gate_up"}}, "no MatrixView"),
    ],
)
def test_bad_overrides_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        param_groups(mixed(), **options)


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(ConfigError, match="no trainable"):
        param_groups(mixed().requires_grad_(False))
