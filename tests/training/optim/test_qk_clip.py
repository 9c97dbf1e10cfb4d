# ruff: noqa: E402 - torch must be found before what needs it is imported
"""QK-Clip against its formulas by hand, on every kind of attention."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from kimiya.errors import ConfigError
from kimiya.training import AttentionLayout, MuonClip, QKClip, report_max_logits
from tests.training.optim.models import Grouped, Latent, naive_logits, naive_maxima

KINDS = {
    "mha": lambda: Grouped(4, 4, gain=3.0),
    "mha with bias": lambda: Grouped(4, 4, gain=3.0, bias=True),
    "gqa": lambda: Grouped(4, 2, gain=3.0),
    "mqa": lambda: Grouped(4, 1, gain=3.0),
    "mla": lambda: Latent(gain=6.0),
}


def made(kind, seed=0):
    torch.manual_seed(seed)
    module = KINDS[kind]()
    width = module.o_proj.out_features
    x = torch.randn(3, 9, width, generator=torch.Generator().manual_seed(seed + 100))
    return module, x


def between(maxima):
    """A τ that half of the heads pass, well away from each."""
    values = maxima.sort().values
    return ((values[1] + values[2]) / 2).item()


@pytest.mark.parametrize("alpha", [0.5, 0.0, 1.0, 0.3])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_heads_logits_scale_by_exactly_its_gamma(kind, alpha):
    module, x = made(kind)
    before, maxima = naive_logits(module, x), naive_maxima(module, x)
    tau = between(maxima)
    clip = QKClip(module, tau=tau, alpha=alpha)
    module(x)
    (row,) = clip.clip()
    gamma = (tau / maxima).clamp(max=1.0)
    assert row.clipped == tuple((maxima > tau).nonzero().flatten().tolist())
    assert len(row.clipped) == 2
    torch.testing.assert_close(torch.tensor(row.gammas).double(), gamma, atol=1e-6, rtol=0)
    after = naive_logits(module, x)
    seen = before.isfinite()
    expected = (before * gamma[:, None, None])[seen]
    torch.testing.assert_close(after[seen], expected, atol=1e-5 * tau, rtol=1e-5)
    assert (naive_maxima(module, x) <= tau * (1 + 1e-6)).all()
    clip.clip()


def test_latent_attention_by_hand():
    module, x = made("mla")
    kept = copy.deepcopy(module.state_dict())
    maxima = naive_maxima(module, x)
    tau = between(maxima)
    clip = QKClip(module, tau=tau)
    module(x)
    clip.clip()
    q = module.q_b_proj.weight.view(4, 10, -1)
    kv = module.kv_b_proj.weight.view(4, 11, -1)
    q_was, kv_was = kept["q_b_proj.weight"].view_as(q), kept["kv_b_proj.weight"].view_as(kv)
    for head, s_max in enumerate(maxima.tolist()):
        gamma = min(1.0, tau / s_max)
        torch.testing.assert_close(q[head, :6], q_was[head, :6] * gamma**0.5)
        torch.testing.assert_close(q[head, 6:], q_was[head, 6:] * gamma)
        torch.testing.assert_close(kv[head, :6], kv_was[head, :6] * gamma**0.5)
        assert torch.equal(kv[head, 6:], kv_was[head, 6:])
        if gamma == 1.0:
            assert torch.equal(q[head], q_was[head])
            assert torch.equal(kv[head], kv_was[head])
    assert torch.equal(module.kr_proj.weight, kept["kr_proj.weight"])


def test_ordinary_attention_by_hand():
    module, x = made("mha with bias")
    kept = copy.deepcopy(module.state_dict())
    maxima = naive_maxima(module, x)
    tau = between(maxima)
    clip = QKClip(module, tau=tau, alpha=0.3)
    module(x)
    clip.clip()
    for head, s_max in enumerate(maxima.tolist()):
        gamma, rows = min(1.0, tau / s_max), slice(6 * head, 6 * head + 6)
        for name, power in (("q_proj", 0.3), ("k_proj", 0.7), ("v_proj", 0.0)):
            for kind in ("weight", "bias"):
                now = getattr(getattr(module, name), kind)[rows]
                torch.testing.assert_close(now, kept[f"{name}.{kind}"][rows] * gamma**power)


@pytest.mark.parametrize("kind", ["gqa", "mqa"])
def test_a_shared_key_moves_by_the_mildest_factor_and_no_weight_grows(kind):
    module, x = made(kind)
    kept = copy.deepcopy(module.state_dict())
    maxima = naive_maxima(module, x)
    tau = maxima.min().item() * 0.8
    clip = QKClip(module, tau=tau)
    module(x)
    clip.clip()
    gamma = tau / maxima
    shared = gamma.view(module.key_heads, -1).amax(-1).sqrt()
    keys, was = (
        t.view(module.key_heads, -1) for t in (module.k_proj.weight, kept["k_proj.weight"])
    )
    torch.testing.assert_close(keys, was * shared[:, None].float())
    for name in ("q_proj.weight", "k_proj.weight"):
        assert (module.state_dict()[name].abs() <= kept[name].abs()).all()
    torch.testing.assert_close(naive_maxima(module, x).float(), torch.full((4,), tau))


def test_an_unclipped_member_keeps_the_shared_key_still():
    module, x = made("mqa")
    kept = module.k_proj.weight.clone()
    clip = QKClip(module, tau=between(naive_maxima(module, x)))
    module(x)
    clip.clip()
    assert torch.equal(module.k_proj.weight, kept)


@pytest.mark.parametrize(
    ("s_max", "expected"),
    [(-5.0, 1.0), (0.0, 1.0), (-0.0, 1.0), (10.0, 1.0), (20.0, 0.5), (float("-inf"), 1.0),
     (float("inf"), 1.0), (float("nan"), 1.0), (1e-38, 1.0), (3e38, 10 / 3e38)],
)  # fmt: skip
def test_gamma_of_any_maximum_is_sound(s_max, expected):
    module, _ = made("mha")
    clip = QKClip(module, tau=10.0)
    report_max_logits(module, torch.tensor([s_max, 1.0, 40.0, 1.0]))
    (row,) = clip.clip()
    assert row.gammas[0] == pytest.approx(expected)
    assert row.gammas[1:] == (1.0, 0.25, 1.0)
    assert all(p.isfinite().all() for p in module.parameters())
    assert clip.nonfinite_maxima == (s_max != s_max or s_max == float("inf"))


def test_headroom_lowers_the_target():
    module, _ = made("mha")
    clip = QKClip(module, tau=10.0, headroom=0.2)
    report_max_logits(module, torch.tensor([16.0, 9.0, 8.0, 1.0]))
    (row,) = clip.clip()
    assert row.gammas == pytest.approx((0.5, 8 / 9, 1.0, 1.0))


@pytest.mark.parametrize("make", [
    lambda params: MuonClip(params, lr=0.05),
    lambda params: torch.optim.AdamW(params, lr=0.05),
    lambda params: torch.optim.SGD(params, lr=0.5),
])  # fmt: skip
def test_works_after_any_optimizer(make):
    module, x = made("mha")
    optimizer = make([module.q_proj.weight, module.k_proj.weight])
    tau = naive_maxima(module, x).min().item() * 0.5
    clip = QKClip(module, tau=tau).attach(optimizer)
    for _ in range(4):
        module(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert clip.steps == 4
    assert sum(clip.total_clips.values()) >= 4
    assert naive_maxima(module, x).max() < 2 * tau


def test_gradient_accumulation_uses_the_largest_of_all_micro_batches():
    module, _ = made("mha")
    clip = QKClip(module, tau=1e-3)
    batches = [torch.randn(2, 5, 10, generator=torch.Generator().manual_seed(s)) for s in range(3)]
    for x in batches:
        module(x)
    (row,) = clip.clip()
    expected = torch.stack([naive_maxima(module, x) for x in batches]).amax(0)
    gamma = torch.tensor(row.gammas).double()
    torch.testing.assert_close(torch.tensor(row.max_logits).double() * gamma, expected, rtol=1e-4,
                               atol=1e-7)  # fmt: skip
    assert clip.clip()[0].max_logit == float("-inf")


def test_master_copies_are_clipped_with_the_weights():
    module, x = made("mha")
    module, x = module.bfloat16(), x.bfloat16()
    clip = QKClip(module, tau=1.0)
    optimizer = MuonClip(module, lr=1e-3, master_weights=True, qk_clip=clip)
    module(x).square().mean().backward()
    optimizer.step()
    assert clip.last[0].clipped
    for name in ("q_proj", "k_proj"):
        weight = getattr(module, name).weight
        master = optimizer.state[weight]["master"]
        assert master.dtype == torch.float32
        assert torch.equal(weight, master.bfloat16())
    assert naive_maxima(module, x).max() < 1.1


def test_declared_copies_are_clipped_too():
    module, x = made("mha")
    shadow = {id(p): p.detach().clone() for p in module.parameters()}
    clip = QKClip(module, tau=1.0, copies=lambda p: [shadow[id(p)]])
    module(x)
    clip.clip()
    assert all(torch.equal(shadow[id(p)], p) for p in module.parameters())


def test_rests_when_logits_settle_wakes_when_they_do_not_and_resumes():
    module, x = made("mha")
    high = naive_maxima(module, x).max().item()
    clip = QKClip(module, tau=high * 4, rest_after=3, rest_stride=4)
    for _ in range(3):
        module(x)
        assert clip.clip()
    assert clip.resting
    assert "resting" in clip.report()
    watched = []
    for _ in range(8):
        module(x)
        watched.append(bool(clip.clip()))
    assert watched == [False, True, False, False, False, True, False, False]
    resumed = QKClip(copy.deepcopy(module), tau=high * 4, rest_after=3, rest_stride=4)
    resumed.load_state_dict(clip.state_dict())
    assert resumed.resting
    assert resumed.state_dict() == clip.state_dict()
    with torch.no_grad():
        module.q_proj.weight *= 8
    for _ in range(4):
        module(x)
        clip.clip()
    assert not clip.resting
    assert sum(clip.total_clips.values()) > 0
    assert naive_maxima(module, x).max() <= clip.tau * (1 + 1e-6)


def test_reports_when_it_acts():
    module, x = made("mha")
    seen = []
    clip = QKClip(module, tau=1.0, on_clip=seen.append)
    module(x)
    clip.clip()
    clip.clip()
    assert len(seen) == 1
    assert seen[0][0].max_logit > 1.0
    assert sum(clip.total_clips.values()) == len(seen[0][0].clipped)
    assert "clips so far" in clip.report()


def test_detaching_leaves_the_model_alone():
    module, x = made("mha")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    clip = QKClip(module, tau=0.1).attach(optimizer)
    clip.detach()
    kept = copy.deepcopy(module.state_dict())
    module(x).sum().backward()
    optimizer.step()
    assert not hasattr(module, "qk_record")
    assert all(torch.equal(kept[n], p) for n, p in module.state_dict().items())


@pytest.mark.parametrize("layout", [
    AttentionLayout.fused(4, 2, 3, weight="qkv.weight"),
    AttentionLayout.fused(4, 4, 2, weight="qkv.weight", interleaved=True),
    AttentionLayout.fused(4, 2, 3, weight="turned", dim=1),
])  # fmt: skip
def test_fused_projections_scale_their_own_rows(layout):
    module = nn.Module()
    module.qkv = nn.Linear(5, 24, bias=False)
    module.turned = nn.Parameter(torch.ones(5, 24))
    nn.init.ones_(module.qkv.weight)
    clip = QKClip(module, tau=1.0, layouts={"": layout})
    report_max_logits(module, torch.tensor([1.0, 4.0, 1.0, 4.0]))
    clip.clip()
    scaled = module.turned.T if layout.query.dim else module.qkv.weight
    rows = scaled[:, 0].tolist()
    if layout.query.stride == 6:
        assert rows == [1.0] * 6 + [0.5] * 4 + [1.0] * 8 + [0.5] * 4 + [1.0] * 2
    else:
        assert rows == [1.0] * 3 + [0.25] * 3 + [1.0] * 3 + [0.25] * 3 + [1.0] * 12


def test_shared_modules_are_clipped_once_with_the_largest_of_both():
    module, _ = made("mha")
    twin = Grouped(4, 4)
    twin.q_proj.weight, twin.k_proj.weight = module.q_proj.weight, module.k_proj.weight
    clip = QKClip(nn.ModuleList([module, twin]), tau=10.0)
    report_max_logits(module, torch.tensor([1.0, 20.0, 1.0, 1.0]))
    report_max_logits(twin, torch.tensor([1.0, 40.0, 1.0, 1.0]))
    (row,) = clip.clip()
    assert row.gammas == pytest.approx((1.0, 0.25, 1.0, 1.0))


def test_layers_that_share_only_one_weight_are_refused():
    module, _ = made("mha")
    twin = Grouped(4, 4)
    twin.q_proj.weight = module.q_proj.weight
    with pytest.raises(ConfigError, match="share"):
        QKClip(nn.ModuleList([module, twin]))


def test_normalised_and_frozen_attention_is_left_alone_with_a_reason():
    normed = Grouped()
    del normed.qk_layout
    normed.num_heads, normed.q_norm = 4, nn.RMSNorm(6)
    frozen = Grouped()
    frozen.q_proj.requires_grad_(False)
    clip = QKClip(nn.ModuleDict({"normed": normed, "frozen": frozen, "free": Grouped()}))
    assert "q_norm" in clip.refused["normed"]
    assert "frozen" in clip.refused["frozen"]
    assert list(clip.total_clips) == ["free"]
    with pytest.raises(ConfigError, match="q_norm"):
        QKClip(normed)


@pytest.mark.parametrize(
    ("options", "key"),
    [({"tau": 0.0}, "tau"), ({"tau": float("nan")}, "tau"), ({"tau": float("inf")}, "tau"),
     ({"alpha": 1.5}, "alpha"), ({"headroom": 1.0}, "headroom"), ({"rest_stride": 0}, "stride"),
     ({"layouts": {"nope": AttentionLayout.grouped(1, 1, 1)}}, "nope")],
)  # fmt: skip
def test_bad_options_are_refused(options, key):
    with pytest.raises(ConfigError, match=key):
        QKClip(Grouped(), **options)


def test_bad_layouts_are_refused():
    with pytest.raises(ConfigError, match="divide"):
        AttentionLayout.grouped(4, 3, 2)
    with pytest.raises(ConfigError, match="fewer than"):
        QKClip(Grouped(), layouts={"": AttentionLayout.grouped(8, 8, 6)})
    with pytest.raises(ConfigError, match="no parameter"):
        QKClip(Grouped(), layouts={"": AttentionLayout.mla(4, 2, 2, 2)})
    with pytest.raises(ConfigError, match="no attention layer"):
        QKClip(nn.Linear(3, 3))
    with pytest.raises(ConfigError, match="no QK-Clip state"):
        QKClip(Grouped()).load_state_dict({"steps": 1})


def test_two_clipped_runs_are_bitwise_equal():
    def run():
        module, x = made("mla")
        optimizer = MuonClip(module, lr=0.05, qk_clip=QKClip(module, tau=5.0))
        for _ in range(5):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
        return module.state_dict()

    first, second = run(), run()
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_a_skipped_step_does_not_clip_either():
    module, x = made("mha")
    optimizer = MuonClip(module, lr=0.05, qk_clip=QKClip(module, tau=1.0))
    kept = copy.deepcopy(module.state_dict())
    module(x).sum().backward()
    module.o_proj.weight.grad[0, 0] = torch.nan
    optimizer.step()
    assert all(torch.equal(kept[n], p) for n, p in module.state_dict().items())
    assert module.qk_record.maximum_H is None
    optimizer.zero_grad()
    module(x).sum().backward()
    optimizer.step()
    assert optimizer.qk_clip.last[0].clipped


def test_one_state_dict_carries_the_clip_too():
    module, x = made("mha")
    optimizer = MuonClip(module, lr=0.01, qk_clip=QKClip(module, tau=1.0))
    module(x).sum().backward()
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    twin = copy.deepcopy(module)
    again = MuonClip(twin, lr=0.01, qk_clip=QKClip(twin, tau=1.0))
    again.load_state_dict(saved)
    assert again.qk_clip.state_dict() == optimizer.qk_clip.state_dict()
    assert sum(again.qk_clip.total_clips.values()) > 0
