# ruff: noqa: E402 - torch must be found before what needs it is imported
"""Newton–Schulz against the singular value decomposition."""

import pytest

torch = pytest.importorskip("torch")

from kimiya.errors import ConfigError
from kimiya.training import SCHEDULES, orthogonalize
from kimiya.training.newton_schulz import resolve_schedule

BOUNDS = {"jordan": (0.66, 1.21), "polar_express": (0.85, 1.15)}
"""Where five steps leave singular values that began within 1e-2 of the largest."""

SHAPES = [(16, 16), (16, 40), (40, 16), (8, 64), (3, 12, 20), (2, 2, 20, 12)]


def spread(shape, smallest, seed=0):
    """Matrices whose singular values run geometrically from ``smallest`` to one."""
    generator = torch.Generator().manual_seed(seed)
    u, _, vh = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    values = torch.logspace(torch.tensor(smallest).log10(), 0, min(shape[-2:]))
    return (u * values) @ vh


@pytest.mark.parametrize("method", ["direct", "gram"])
@pytest.mark.parametrize("name", sorted(BOUNDS))
@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_land_in_the_band_and_directions_stay(shape, name, method):
    matrix = spread(shape, 0.1)
    done = orthogonalize(matrix, ns_coefficients=name, method=method)
    values = torch.linalg.svdvals(done)
    low, high = BOUNDS[name]
    assert values.min() > low
    assert values.max() < high
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.mT @ done @ vh.mT
    off = inner - torch.diag_embed(torch.diagonal(inner, dim1=-2, dim2=-1))
    assert off.abs().max() < 1e-3


@pytest.mark.parametrize("name", ["jordan", "polar_express"])
@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-5])
def test_gram_form_equals_the_direct_form(name, smallest):
    matrix = spread((24, 96), smallest, seed=3)
    gram = orthogonalize(matrix, ns_coefficients=name, method="gram")
    direct = orthogonalize(matrix, ns_coefficients=name, method="direct")
    torch.testing.assert_close(gram, direct, atol=5e-4, rtol=0)


def test_four_steps_are_nearer_to_one_than_jordans_five():
    for seed in range(3):
        matrix = spread((24, 40), 2e-2, seed)
        few = orthogonalize(matrix, ns_coefficients="four_step", ns_steps=4)
        values = torch.linalg.svdvals(few)
        assert values.min() > 0.79
        assert values.max() < 1.21


def test_four_step_coefficients_equioscillate():
    """Each step is minimax where the one before leaves off: its error is met at four points."""
    low, high = 3e-3, 1.0
    for a, b, c in SCHEDULES["four_step"]:
        x = torch.linspace(low, high, 200_001, dtype=torch.float64)
        error = 1 - (a * x + b * x**3 + c * x**5)
        worst = error.abs().max().item()
        ends = error[[0, -1]].tolist()
        turns = error[1:-1][(error[1:-1] - error[:-2]) * (error[2:] - error[1:-1]) < 0].tolist()
        assert [ends[0], *turns, ends[1]] == pytest.approx([worst, -worst, worst, -worst], rel=1e-4)
        low, high = 1 - worst, 1 + worst


def test_polar_express_converges_to_the_polar_factor():
    matrix = spread((12, 20), 1e-2, seed=5)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    far = orthogonalize(matrix, ns_coefficients="polar_express", ns_steps=10)
    torch.testing.assert_close(far, u @ vh, atol=2e-5, rtol=0)
    errors = [
        (orthogonalize(matrix, ns_coefficients="polar_express", ns_steps=n) - u @ vh).norm()
        for n in (3, 5, 7)
    ]
    assert errors == sorted(errors, reverse=True)


def test_polar_express_is_more_accurate_than_jordan():
    matrix = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    worst = {
        name: (torch.linalg.svdvals(orthogonalize(matrix, ns_coefficients=name)) - 1).abs().max()
        for name in BOUNDS
    }
    assert worst["polar_express"] < 0.6 * worst["jordan"]


def test_matrices_of_a_stack_do_not_mix():
    stack = torch.randn(3, 10, 14, generator=torch.Generator().manual_seed(2))
    alone = torch.stack([orthogonalize(matrix) for matrix in stack])
    torch.testing.assert_close(orthogonalize(stack), alone, atol=1e-5, rtol=0)
    changed = stack.clone()
    changed[1] = torch.nan
    kept = orthogonalize(changed)
    assert torch.isfinite(kept[[0, 2]]).all()


def test_transposing_commutes():
    matrix = torch.randn(10, 30, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(orthogonalize(matrix.mT), orthogonalize(matrix).mT)


def test_scale_does_not_matter_and_the_argument_is_left_alone():
    matrix = torch.randn(10, 30, generator=torch.Generator().manual_seed(4))
    kept = matrix.clone()
    small = orthogonalize(matrix * 1e-4)
    torch.testing.assert_close(small, orthogonalize(matrix), atol=1e-4, rtol=0)
    assert torch.equal(matrix, kept)


@pytest.mark.parametrize("method", ["direct", "gram"])
def test_a_zero_matrix_stays_zero(method):
    assert torch.equal(orthogonalize(torch.zeros(4, 9), method=method), torch.zeros(4, 9))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 3, 5)])
def test_nothing_in_nothing_out(shape):
    assert orthogonalize(torch.zeros(shape)).shape == shape


def test_bfloat16_by_choice():
    matrix = spread((16, 24), 0.2)
    done = orthogonalize(matrix, dtype=torch.bfloat16)
    assert done.dtype == torch.bfloat16
    torch.testing.assert_close(done.float(), orthogonalize(matrix), atol=0.1, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_iterates_in_bfloat16_by_default():
    done = orthogonalize(torch.randn(16, 24, device="cuda"))
    assert done.dtype == torch.bfloat16
    values = torch.linalg.svdvals(done.float())
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize(
    ("coefficients", "steps"),
    [("jordam", 5), ("jordan", 0), ("jordan", 100), ("jordan", True), ((1.0, 2.0), 5), ((), 5),
     (((1.0, 2.0, 3.0), (1.0, 2.0)), 5), ((1.0, float("nan"), 0.0), 5), ("jordan", 2.5)],
)  # fmt: skip
def test_bad_schedules_are_refused(coefficients, steps):
    with pytest.raises(ConfigError, match="ns_"):
        resolve_schedule(coefficients, steps)


def test_the_last_triple_repeats():
    assert resolve_schedule(((1.0, 0.0, 0.0), (2.0, 0.0, 0.0)), 3) == (
        (1.0, 0.0, 0.0),
        (2.0, 0.0, 0.0),
        (2.0, 0.0, 0.0),
    )


def test_a_vector_is_no_matrix():
    with pytest.raises(ConfigError, match="no matrix"):
        orthogonalize(torch.zeros(3))
