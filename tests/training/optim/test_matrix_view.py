# ruff: noqa: E402 - torch must be found before what needs it is imported
"""Declared views: they alias, they cover, and they say when they do not fit."""

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from kimiya.errors import ConfigError
from kimiya.training import FLATTENED, GATE_UP, WHOLE, MatrixView

VIEWS = [
    (WHOLE, (6, 4)),
    (WHOLE, (3, 6, 4)),
    (GATE_UP, (3, 8, 5)),
    (MatrixView(parts=2, interleaved=True), (8, 5)),
    (MatrixView(parts=2, dim=-1), (3, 5, 8)),
    (MatrixView(parts=2, dim=-1, interleaved=True), (3, 5, 8)),
    (MatrixView(sizes=(8, 4, 4), heads=(4, 2, 2)), (16, 6)),
    (MatrixView(heads=(4,), inner=(3, 2)), (20, 6)),
    (MatrixView(sizes=(8, 4), heads=(2,), inner=()), (3, 12, 6)),
    (FLATTENED, (4, 3, 2, 2)),
]


@pytest.mark.parametrize(("view", "shape"), VIEWS)
def test_a_view_covers_each_element_once_and_aliases(view, shape):
    tensor = torch.zeros(shape)
    for piece in view.matrices(tensor):
        piece += 1
    assert torch.equal(tensor, torch.ones(shape))


@settings(max_examples=40, deadline=None)
@given(
    sections=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3),
    dim=st.sampled_from([-1, -2]),
    stack=st.integers(1, 3),
)
def test_any_sections_and_heads_cover_each_element_once(sections, dim, stack):
    sizes = tuple(heads * rows for heads, rows in sections)
    view = MatrixView(sizes=sizes, heads=tuple(heads for heads, _ in sections), dim=dim)
    shape = (stack, sum(sizes), 5) if dim == -2 else (stack, 5, sum(sizes))
    tensor = torch.zeros(shape)
    for piece in view.matrices(tensor):
        piece += 1
    assert torch.equal(tensor, torch.ones(shape))


def test_fused_qkv_is_read_as_what_it_is():
    fused = torch.arange(32.0).view(8, 4)
    q, k, v = MatrixView(sizes=(4, 2, 2)).matrices(fused)
    assert torch.equal(torch.cat([q, k, v]), fused)
    assert q.shape == (4, 4)


def test_works_on_transposed_storage():
    tensor = torch.zeros(4, 8).mT
    for piece in MatrixView(heads=(2,)).matrices(tensor):
        piece += 1
    assert torch.equal(tensor, torch.ones(8, 4))


@pytest.mark.parametrize(
    ("view", "shape"),
    [
        (MatrixView(sizes=(3, 3)), (5, 4)),
        (GATE_UP, (5, 4)),
        (MatrixView(heads=(3,)), (4, 4)),
        (MatrixView(heads=(2,), inner=(1, 2)), (4, 4)),
        (WHOLE, (4,)),
        (WHOLE, ()),
    ],
)
def test_a_view_that_does_not_fit_says_so(view, shape):
    with pytest.raises(ConfigError):
        view.matrices(torch.zeros(shape))


@pytest.mark.parametrize(
    "wrong",
    [{"dim": 0}, {"parts": 0}, {"sizes": (1, -1)}, {"sizes": (1,), "parts": 2},
     {"parts": 3, "heads": (1, 2)}, {"heads": (0,)}],
)  # fmt: skip
def test_impossible_views_cannot_be_made(wrong):
    with pytest.raises(ConfigError):
        MatrixView(**wrong)


def test_folding_a_strided_kernel_would_copy_and_is_refused():
    with pytest.raises(ConfigError, match="contiguous"):
        FLATTENED.matrices(torch.zeros(4, 3, 2, 2).permute(0, 2, 3, 1))


def test_description_counts_matrices():
    assert GATE_UP.describe((48, 8, 4)) == "48 of 4×4 + 48 of 4×4"
