"""Bounds are never below what they bound, and close to it; what is not proved is not returned."""

import math

import pytest
import torch
from archzoo.layers.lipschitz import LDLTBlock, LMIBlock, ShearWeight, lmi_matrix
from archzoo.layers.lipschitz.proof.constant import (
    shear_lipschitz,
    verified_lipschitz,
    verify,
)
from archzoo.layers.lipschitz.proof.multipliers import lmi_lipschitz
from archzoo.layers.lipschitz.proof.norms import (
    conv_bound,
    gram_bound,
    is_positive_definite,
    one_infinity_bound,
    product_up,
    spectral_bound,
    sum_up,
)
from torch import Tensor
from torch.nn import functional as F

from .semidefinite import solver_lipschitz


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def dense(function, shape: tuple[int, ...]) -> Tensor:
    """The matrix of a linear map of images."""
    identity = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    return function(identity).flatten(1).mT


def norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix.to(torch.complex128), 2).max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (40, 7), (64, 64)])
def test_a_proved_norm_is_above_the_singular_value_and_close(shape, dtype):
    w = normal(*shape, dtype=dtype)
    exact, bound = norm(w.double()), spectral_bound(w)
    # LAPACK's own value is off by a few roundings; the excess is what the proof needs.
    assert exact * (1 - 1e-14) <= bound <= exact * (1 + 1e-10)


def test_a_proved_norm_is_invariant_to_scale_far_beyond_the_range_of_squares():
    w = normal(12, 12)
    for scale in (1e-200, 1.0, 1e200):
        assert spectral_bound(scale * w) / scale == pytest.approx(norm(w), rel=1e-9)


def test_matrices_on_the_boundary_are_bounded_too():
    assert 1.0 <= spectral_bound(torch.eye(30)) < 1 + 1e-9
    q = torch.linalg.qr(normal(20, 20)).Q
    assert 1.0 - 1e-14 <= spectral_bound(q) < 1 + 1e-9
    assert spectral_bound(torch.zeros(3, 4)) == 0.0


def test_a_known_error_widens_the_bound_by_itself():
    w = normal(6, 6)
    assert spectral_bound(w, error=0.5) == pytest.approx(spectral_bound(w) + 0.5, rel=1e-12)


def test_a_batch_has_the_bound_of_its_worst_matrix():
    w = normal(4, 6, 5) + 1j * normal(4, 6, 5, seed=1)
    assert norm(w) * (1 - 1e-14) <= spectral_bound(w) <= norm(w) * (1 + 1e-10)


def test_positive_definiteness_is_proved_only_with_room_for_rounding():
    q = torch.linalg.qr(normal(8, 8)).Q
    spectrum = torch.linspace(1e-6, 1.0, 8, dtype=torch.float64)
    p = q @ torch.diag(spectrum) @ q.mT
    assert is_positive_definite(p)
    assert not is_positive_definite(p, error=2e-6)
    spectrum[0] = 0.0
    assert not is_positive_definite(q @ torch.diag(spectrum) @ q.mT)


@pytest.mark.parametrize("iterations", [1, 3, 6, 10])
def test_gram_iteration_is_above_and_closes_in(iterations):
    w = normal(30, 50)
    bound = float(gram_bound(w, iterations))
    most = 30 ** (0.5 ** (iterations + 1))
    assert norm(w) * (1 - 1e-12) <= bound <= norm(w) * most
    assert torch.autograd.gradcheck(lambda v: gram_bound(v, 3), normal(4, 3).requires_grad_())


def test_one_and_infinity_norms_bound_a_matrix_and_its_absolute_values():
    w = normal(9, 14)
    assert one_infinity_bound(w) >= norm(w.abs()) >= norm(w)


def test_directed_rounding_is_never_below_the_exact_result():
    from fractions import Fraction

    numbers = normal(50).abs().tolist()
    for a, b in zip(numbers, reversed(numbers), strict=True):
        assert Fraction(product_up(a, b)) >= Fraction(a) * Fraction(b)
        assert Fraction(sum_up(a, b)) >= Fraction(a) + Fraction(b)
    assert product_up(0.0, math.inf) == 0.0


PLACES = [
    (stride, padding, dilation, groups)
    for stride in ((1, 1), (2, 2), (3, 2))
    for padding in (0, 1, 3)
    for dilation in (1, 2)
    for groups in (1, 2)
]


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), PLACES)
def test_a_zero_padded_convolution_is_bounded(stride, padding, dilation, groups):
    w = normal(4, 6 // groups, 3, 3)
    options = {"stride": stride, "dilation": (dilation, dilation), "groups": groups}
    place = {**options, "padding": padding}
    matrix = dense(lambda x: F.conv2d(x, w, **place), (6, 7, 6))
    for bound in (
        conv_bound(w, (7, 6), **options),
        conv_bound(w, (7, 6), **options, padding=(padding, padding)),
    ):
        assert norm(matrix) <= bound * (1 + 1e-13)
        # Coarse bounds lie at 1.5 to 3. Few dilated windows fit into so small an image.
        assert bound <= (1.3 if dilation == 1 else 2.0) * norm(matrix)


def test_the_grid_of_the_image_itself_is_no_bound_for_zero_padding():
    # The largest value over the 2 × 2 grid misses a kernel that oscillates between its points.
    w = torch.tensor([[[1.0, 0.0, -1.0]]], dtype=torch.float64)
    matrix = dense(lambda x: F.conv1d(x, w, padding=1), (1, 2))
    assert norm(matrix) == pytest.approx(1.0)
    assert conv_bound(w, (2,), circular=True) < 1e-12
    assert conv_bound(w, (2,)) >= 1.0


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_circular_convolution_is_bounded_exactly(stride):
    w = normal(4, 3, 3, 3)

    def circular(x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), w, stride=stride)

    bound = conv_bound(w, (6, 6), stride=(stride, stride), circular=True)
    assert bound == pytest.approx(norm(dense(circular, (3, 6, 6))), rel=1e-10)


def test_windows_that_do_not_overlap_are_bounded_exactly():
    w = normal(8, 3, 2, 2)
    matrix = dense(lambda x: F.conv2d(x, w, stride=2), (3, 8, 8))
    assert conv_bound(w, (8, 8), stride=(2, 2)) == pytest.approx(norm(matrix), rel=1e-10)


def test_a_transposed_convolution_has_the_norm_of_its_adjoint():
    w = normal(4, 3, 3, 3)
    matrix = dense(lambda x: F.conv_transpose2d(x, w, stride=2, padding=1), (4, 5, 5))
    assert norm(matrix) <= conv_bound(w, (9, 9), stride=(2, 2)) <= 1.3 * norm(matrix)


@pytest.mark.parametrize("dims", [1, 3])
def test_other_numbers_of_axes_are_bounded(dims):
    w = normal(3, 2, *[3] * dims)
    convolve = F.conv1d if dims == 1 else F.conv3d
    matrix = dense(lambda x: convolve(x, w, padding=1), (2, *[4] * dims))
    assert norm(matrix) <= conv_bound(w, (4,) * dims) <= 1.5 * norm(matrix)


def kaiming(width: int, hidden: tuple[int, ...], gain: float = 1.0, seed: int = 0):
    """Weights of a residual branch as `nn.Linear` draws them for ReLU."""
    sizes = [width, *hidden, width]
    pairs = zip(sizes[1:], sizes, strict=False)
    drawn = [
        normal(m, n, seed=seed + i) * gain * math.sqrt(2 / n) for i, (m, n) in enumerate(pairs)
    ]
    return drawn[:-1], drawn[-1]


def steepest_pattern(skip, inner, tap, restarts: int = 4) -> float:
    """The largest ‖A + B S_n C_n … S_1 C_1‖ that flipping single ReLUs finds: a lower bound."""
    best = 0.0
    for restart in range(restarts):
        patterns = [(normal(len(c), seed=100 + restart) > 0).double() for c in inner]

        def value(patterns=patterns) -> float:
            m = torch.eye(skip.shape[1], dtype=torch.float64)
            for c, s in zip(inner, patterns, strict=True):
                m = s[:, None] * (c @ m)
            return norm(skip + tap @ m)

        here = value()
        for pattern in patterns * 3:
            for i in range(len(pattern)):
                pattern[i] = 1 - pattern[i]
                there = value()
                if there > here:
                    here = there
                else:
                    pattern[i] = 1 - pattern[i]
        best = max(best, here)
    return best


@pytest.mark.parametrize("hidden", [(16,), (16, 16), (8, 12, 10)])
def test_the_inequality_is_above_every_pattern_and_below_the_product(hidden):
    inner, tap = kaiming(8, hidden)
    skip = torch.eye(8, dtype=torch.float64)
    taps = (*[None] * (len(hidden) - 1), tap)
    bound = lmi_lipschitz(skip, inner, taps)
    assert steepest_pattern(skip, inner, tap, restarts=1) <= bound
    assert bound < 1 + math.prod(norm(w) for w in (*inner, tap))


def test_one_layer_comes_close_to_the_steepest_pattern():
    inner, tap = kaiming(8, (16,))
    skip = torch.eye(8, dtype=torch.float64)
    # The specification's blocks of this shape have 3.6767 below and 3.6881 above: 0.3 %.
    assert lmi_lipschitz(skip, inner, (tap,)) <= 1.03 * steepest_pattern(skip, inner, tap)


@pytest.mark.parametrize("hidden", [(16,), (16, 16)])
def test_the_search_comes_within_a_thousandth_of_a_solver(hidden):
    pytest.importorskip("clarabel")
    cvxpy = pytest.importorskip("cvxpy")
    inner, tap = kaiming(8, hidden)
    skip = torch.eye(8, dtype=torch.float64)
    taps = (*[None] * (len(hidden) - 1), tap)
    solved = solver_lipschitz(cvxpy, LMIBlock(skip, tuple(inner), taps, ()))
    found = lmi_lipschitz(skip, inner, taps)
    # The solver's own tolerance is 1e-8; the search ends within 2e-3 of the least L².
    assert solved * (1 - 1e-5) <= found <= 1.001 * solved


@pytest.mark.parametrize("wiring", ["taps", "dense"])
def test_a_search_ends_within_its_gap_of_a_longer_one_where_layers_have_taps(wiring):
    reads = [4, 5, 6] if wiring == "taps" else [4, 9, 15]
    inner = [normal(width, read, seed=read) for width, read in zip((5, 6, 3), reads, strict=True)]
    taps = [normal(4, width, seed=width) for width in (5, 6, 3)]
    skip = torch.eye(4, dtype=torch.float64)
    loose, tight = (lmi_lipschitz(skip, inner, taps, gap=gap) for gap in (2e-3, 1e-7))
    assert tight <= loose <= tight * (1 + 1e-3)


def test_a_search_that_cannot_gain_ends_early(monkeypatch):
    inner, tap = kaiming(8, (16,))
    skip, calls = torch.eye(8, dtype=torch.float64), []
    inverse = torch.cholesky_inverse
    monkeypatch.setattr(torch, "cholesky_inverse", lambda f: calls.append(1) or inverse(f))
    lmi_lipschitz(skip, inner, [tap])
    whole = len(calls)
    lmi_lipschitz(skip, inner, [tap], below=1.5)
    assert 0 < len(calls) - whole < whole


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e30])
def test_units_of_signals_and_outputs_change_no_constant(scale):
    inner, tap = kaiming(6, (8, 7))
    skip, taps = torch.eye(6, dtype=torch.float64), (None, tap)
    bound = lmi_lipschitz(skip, inner, taps)
    moved = [scale * inner[0], *inner[1:]]
    assert lmi_lipschitz(skip, moved, (None, tap / scale)) == pytest.approx(bound, rel=1e-3)
    scaled = lmi_lipschitz(scale * skip, inner, (None, scale * tap))
    assert scaled == pytest.approx(scale * bound, rel=3e-3)  # twice the gap, and rounding


def test_a_branch_that_does_nothing_leaves_the_skip():
    inner, tap = kaiming(6, (8,))
    skip = torch.eye(6, dtype=torch.float64)
    for factor in (0.0, 1e-13, 1e-30):
        assert 1.0 <= lmi_lipschitz(skip, inner, (factor * tap,)) <= 1 + 1e-3


def test_weights_beyond_the_squares_of_float64_have_no_constant():
    inner, tap = kaiming(6, (8,))
    skip = torch.eye(6, dtype=torch.float64)
    assert lmi_lipschitz(skip, [1e160 * inner[0]], (tap,)) == math.inf


def sll(width: int, hidden: int, dtype: torch.dtype, seed: int = 0) -> LMIBlock:
    """x − Cᵀ Λ σ(C x) with 2 Λ⁻¹ ≥ C Cᵀ: 1-Lipschitz, on the boundary of the inequality."""
    c = normal(hidden, width, seed=seed)
    multiplier = 2 / (c @ c.mT).abs().sum(1)
    tap = -c.mT * multiplier
    eye = torch.eye(width, dtype=dtype)
    return LMIBlock(eye, (c.to(dtype),), (tap.to(dtype),), (multiplier,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_block_on_the_boundary_is_proved_up_to_the_rounding_of_its_weights(dtype):
    block = sll(10, 14, dtype)
    bound = verified_lipschitz(block)
    most = {torch.float64: 1e-8, torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    assert 1.0 <= bound <= 1 + most
    wide = LMIBlock(*(_double(part) for part in block))
    assert steepest_pattern(wide.skip, wide.inner, wide.taps[0], restarts=1) <= bound


def _double(part):
    return tuple(p.double() for p in part) if isinstance(part, tuple) else part.double()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("wiring", ["chain_first", "skip_first"])
def test_steep_float32_blocks_are_proved_where_the_first_inflations_gain_nothing(wiring, seed):
    block = LDLTBlock(7, [3, 3], out_width=5, lipschitz=0.5, wiring=wiring, bias=False).double()
    with torch.no_grad():
        for i, p in enumerate(block.parameters()):
            p.copy_(100 * normal(*p.shape, seed=10 * seed + i))
    assert verified_lipschitz(block.float().eval().effective()) <= 0.5 * (1 + 1e-6)


def test_a_tampered_block_loses_its_constant():
    block = sll(10, 14, torch.float32)
    tampered = block._replace(inner=(1.5 * block.inner[0],))
    assert verified_lipschitz(block) < 1 + 1e-6
    assert verified_lipschitz(tampered) > 1.01
    assert not verify(tampered, 1 + 1e-6)


def test_what_is_verified_has_an_inequality_that_holds():
    block = sll(6, 9, torch.float64)
    bound = verified_lipschitz(block)
    assert torch.linalg.eigvalsh(lmi_matrix(block, bound * (1 + 1e-7)))[0] > -1e-12


def test_a_block_without_multipliers_that_work_has_no_constant():
    block = sll(6, 9, torch.float64)
    hopeless = block._replace(multipliers=(torch.full((9,), 1e-20, dtype=torch.float64),))
    assert verified_lipschitz(hopeless) == math.inf


def test_a_convolutional_block_is_proved_and_a_tampered_one_is_not():
    c = normal(6, 4, 3, 3)
    # Row sums of |C Cᵀ| over all shifts, as the layer's diagonal bound has them.
    products = F.conv2d(c, c, padding=2).abs().sum((1, 2, 3))
    multiplier = 2 / products
    outer = -multiplier.view(-1, 1, 1, 1) * c
    weights = ShearWeight(1.0, c.float(), outer.float(), multiplier, 1)
    bound = shear_lipschitz(weights, (5, 5))
    assert 1.0 <= bound <= 1 + 1e-6

    def branch(x: Tensor) -> Tensor:
        pattern = (normal(6, 5, 5, seed=3) > 0).double()
        hidden = pattern * F.conv2d(x, weights.inner.double(), padding=1)
        return x + F.conv_transpose2d(hidden, weights.outer.double(), padding=1)

    assert norm(dense(branch, (4, 5, 5))) <= bound
    tampered = weights._replace(inner=1.5 * weights.inner)
    assert shear_lipschitz(tampered, (5, 5)) > 1.01


def test_weights_that_are_no_numbers_are_refused():
    w = normal(4, 4)
    w[1, 2] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        spectral_bound(w)
    with pytest.raises(ValueError, match="NaN"):
        verified_lipschitz(LMIBlock(w, (normal(3, 4),), (normal(4, 3),), (torch.ones(3),)))
    with pytest.raises(ValueError, match="axes"):
        conv_bound(normal(2, 2, 3, 3), (5,))
