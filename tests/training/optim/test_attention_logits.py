# ruff: noqa: E402 - torch must be found before what needs it is imported
"""The maximal logit: exact where it passes τ, bounded below it, never materialised."""

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from kimiya.errors import ConfigError
from kimiya.training import attend, attention_logits, exact_max_logits, report_max_logits
from kimiya.training.attention_logits import LogitRecord, norm_bound


def tensors(seed, batch=2, heads=4, key_heads=4, length=9, keys=None, size=6, value=6, gain=3.0):
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, heads, length, size, generator=g) * gain
    k = torch.randn(batch, key_heads, keys or length, size, generator=g)
    return q, k, torch.randn(batch, key_heads, keys or length, value, generator=g)


def naive(q, k, scale, visible):
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    logits = (q.double() @ k.double().mT) * scale
    return logits.masked_fill(~visible, -torch.inf)


def lower(length, keys=None):
    keys = keys or length
    return torch.ones(length, keys, dtype=torch.bool).tril(keys - length)


class Watched(nn.Module):
    def __init__(self, heads=4, threshold=1e9):
        super().__init__()
        self.qk_record = LogitRecord(heads, threshold)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.sampled_from([(4, 4), (4, 2), (4, 1), (1, 1)]),
    length=st.integers(1, 17),
    batch=st.integers(1, 3),
    chunk=st.sampled_from([1, 30, 1 << 20]),
    causal=st.booleans(),
)
def test_exact_maximum_equals_the_naive_one(seed, shape, length, batch, chunk, causal):
    q, k, _ = tensors(seed, batch, *shape, length=length)
    kept, attention_logits.CHUNK_ELEMENTS = attention_logits.CHUNK_ELEMENTS, chunk
    try:
        found = exact_max_logits(q, k, scale=0.37, causal=causal)
    finally:
        attention_logits.CHUNK_ELEMENTS = kept
    visible = lower(length) if causal else torch.ones(length, length, dtype=torch.bool)
    expected = naive(q, k, 0.37, visible).amax((0, 2, 3)).float()
    torch.testing.assert_close(found, expected, msg=lambda m: f"seed {seed}: {m}")


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("shape", [(2, 1, 9, 9), (2, 4, 9, 9), (1, 1, 1, 9), (9, 9)])
def test_masks_hide_pairs(shape, additive):
    q, k, v = tensors(1)
    visible = torch.rand(shape, generator=torch.Generator().manual_seed(2)) > 0.5
    visible[..., 0] = True
    mask = torch.zeros(shape).masked_fill(~visible, -torch.inf) if additive else visible
    expected = naive(q, k, 0.5, visible).amax((0, 2, 3)).float()
    torch.testing.assert_close(exact_max_logits(q, k, scale=0.5, mask=mask), expected)
    watched = Watched(threshold=-1e9)
    out = attend(watched, q, k, v, scale=0.5, mask=mask)
    torch.testing.assert_close(watched.qk_record.maximum_H, expected)
    reference = functional.scaled_dot_product_attention(q, k, v, visible, scale=0.5)
    torch.testing.assert_close(out, reference)


@pytest.mark.parametrize("value", [6, 3])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("lengths", [(9, 9), (3, 9)])
def test_attend_equals_sdpa_with_gradients(value, heads, lengths):
    q, k, v = tensors(3, 2, *heads, length=lengths[0], keys=lengths[1], value=value)
    inputs = [t.requires_grad_() for t in (q, k, v)]
    out = attend(Watched(), *inputs, scale=0.3)
    grads = torch.autograd.grad(out.square().sum(), inputs)
    reference = functional.scaled_dot_product_attention(
        *inputs, attn_mask=lower(*lengths), scale=0.3, enable_gqa=True
    )
    expected = torch.autograd.grad(reference.square().sum(), inputs)
    torch.testing.assert_close(out, reference)
    torch.testing.assert_close(grads, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 1e-9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(5))
def test_screen_is_a_bound_and_exact_above_the_threshold(seed, dtype, dropout):
    q, k, v = (t.to(dtype) for t in tensors(seed, length=20, gain=4.0))
    exact = naive(q, k, 0.4, lower(20)).amax((0, 2, 3)).float()
    threshold = exact.sort().values[1:3].mean().item()
    watched = Watched(threshold=threshold)
    attend(watched, q, k, v, scale=0.4, dropout=dropout)
    found = watched.qk_record.maximum_H
    over = exact > threshold
    assert over.sum() == 2
    torch.testing.assert_close(found[over], exact[over], atol=1e-4, rtol=1e-4)
    assert (found[~over] >= exact[~over] - 1e-4).all()


def test_nothing_is_looked_at_twice_when_the_bound_is_low(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("an exact pass was made")

    monkeypatch.setattr(attention_logits, "exact_max_logits", fail)
    q, k, v = tensors(0)
    watched = Watched(threshold=1e6)
    attend(watched, q, k, v)
    lse_free = Watched(threshold=norm_bound(q, k, 6**-0.5).max().item() * 1.01)
    attend(lse_free, q, k, v, dropout=0.5)
    assert not watched.qk_record.exact
    with pytest.raises(AssertionError):
        attend(Watched(threshold=0.0), q, k, v)


def test_signed_maximum_of_all_negative_logits():
    q, k, v = tensors(4)
    q, k = q.abs(), -k.abs()
    watched = Watched(threshold=-1e9)
    attend(watched, q, k, v)
    assert (watched.qk_record.maximum_H < 0).all()
    expected = naive(q, k, 6**-0.5, lower(9)).amax((0, 2, 3)).float()
    torch.testing.assert_close(watched.qk_record.maximum_H, expected)


def test_microbatches_combine_by_maximum():
    watched = Watched(threshold=-1e9)
    found = []
    for seed in range(3):
        q, k, v = tensors(seed)
        attend(watched, q, k, v)
        found.append(exact_max_logits(q, k, scale=6**-0.5))
    torch.testing.assert_close(watched.qk_record.maximum_H, torch.stack(found).amax(0))


def test_evaluation_and_unwatched_modules_record_nothing():
    q, k, v = tensors(0)
    watched = Watched().eval()
    attend(watched, q, k, v)
    attend(nn.Identity(), q, k, v)
    report_max_logits(nn.Identity(), torch.zeros(99))
    assert watched.qk_record.maximum_H is None


def test_nan_in_queries_is_seen_as_nan_by_the_exact_pass():
    q, k, v = tensors(0)
    q[0, 1, 3, 2] = torch.nan
    expected = [False, True, False, False]
    assert exact_max_logits(q, k, scale=1.0).isnan().tolist() == expected
    watched = Watched(threshold=100.0)
    attend(watched, q, k, v, dropout=1e-9)
    assert watched.qk_record.maximum_H.isnan().tolist() == expected


def test_reported_maxima_of_sharded_heads_find_their_place():
    watched = Watched()
    report_max_logits(watched, torch.tensor([1.0, 2.0]), head_offset=2)
    report_max_logits(watched, torch.tensor([3.0]), head_offset=2)
    assert watched.qk_record.maximum_H.tolist() == [-torch.inf, -torch.inf, 3.0, 2.0]


@pytest.mark.parametrize(("value", "offset"), [(torch.zeros(5), 0), (torch.zeros(2), 3),
                                               (torch.zeros(2, 2), 0)])  # fmt: skip
def test_wrong_reports_are_refused(value, offset):
    with pytest.raises(ConfigError, match="maxima"):
        report_max_logits(Watched(), value, head_offset=offset)


@pytest.mark.parametrize("wrong", [((2, 3, 4, 6), (2, 2, 4, 6)), ((2, 2, 4, 6), (2, 2, 4, 5)),
                                   ((2, 4, 6), (2, 4, 6))])  # fmt: skip
def test_shapes_that_do_not_match_are_refused(wrong):
    q, k = (torch.zeros(shape) for shape in wrong)
    with pytest.raises(ConfigError):
        attend(Watched(), q, k, k)


def test_empty_batches_are_harmless():
    q = torch.zeros(0, 4, 3, 6)
    watched = Watched()
    assert attend(watched, q, q, q).shape == q.shape
    assert watched.qk_record.maximum_H is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("value", [64, 32])
def test_cuda_flash_path_agrees(value):
    q, k, v = (t.cuda().bfloat16() for t in tensors(0, length=64, size=64, value=value))
    watched = Watched(threshold=-1e9)
    out = attend(watched, q, k, v)
    exact = naive(q.cpu(), k.cpu(), 64**-0.5, lower(64)).amax((0, 2, 3)).float()
    torch.testing.assert_close(watched.qk_record.maximum_H.cpu(), exact, atol=1e-2, rtol=1e-2)
    reference = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(out, reference, atol=2e-2, rtol=2e-2)
