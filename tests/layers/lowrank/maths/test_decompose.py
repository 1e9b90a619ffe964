"""Best approximations by factors: optimal, nested, and where data decides, the data's."""

import pytest
import torch
from archzoo.layers.lowrank.maths.decompose import (
    balanced_factors,
    product_svd,
    rebalance,
    refuse_infinite,
    row_side_svd,
    weighted_svd,
)
from archzoo.layers.lowrank.maths.moment_root import MomentRoot
from archzoo.layers.lowrank.maths.singular_values import (
    effective_rank,
    normalised_spectrum,
    rank_for_energy,
    rank_for_threshold,
    stable_rank,
    tail_energy,
)
from torch import Tensor

# Some hundred roundings of float64 at the scale of the matrices drawn here.
TOL = {"rtol": 1e-12, "atol": 1e-12}
BATCHES = [(), (3,)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def moment(*shape: int, seed: int = 7) -> Tensor:
    """Return a second moment (..., n, n) whose eigenvalues spread over some decades."""
    root = draw(*shape, shape[-1], seed=seed)
    scale = torch.logspace(0, 1.5, shape[-1], dtype=torch.float64)
    return (root * scale) @ (root * scale).mT / shape[-1]


def weighted_error(error: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """tr[Eᵀ L E R]."""
    weighted = error if left is None else left @ error
    weighted = weighted if right is None else weighted @ right
    return (error * weighted).sum((-2, -1))


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("sides", ["none", "left", "right", "both"])
def test_the_error_is_the_tail_of_the_weighted_singular_values(batch, sides):
    matrix = draw(*batch, 7, 5)
    left = moment(*batch, 7) if sides in ("left", "both") else None
    right = moment(*batch, 5, seed=8) if sides in ("right", "both") else None
    for rank in range(6):
        u, v, values = weighted_svd(matrix, rank, left, right)
        assert u.shape == (*batch, 7, rank) and v.shape == (*batch, rank, 5)
        error = weighted_error(matrix - u @ v, left, right)
        expected = values[..., rank:].square().sum(-1)
        total = values.square().sum(-1).max()
        torch.testing.assert_close(error, expected, rtol=1e-12, atol=1e-12 * float(total))


@pytest.mark.parametrize("sides", ["none", "left", "right", "both"])
def test_no_other_product_of_the_rank_is_nearer(sides):
    matrix = draw(6, 5)
    left = moment(6) if sides in ("left", "both") else None
    right = moment(5, seed=8) if sides in ("right", "both") else None
    u, v, _ = weighted_svd(matrix, 2, left, right)
    best = weighted_error(matrix - u @ v, left, right)
    for seed in range(200):
        size = 10.0 ** -(seed % 5)
        other = (u + size * draw(6, 2, seed=seed)) @ (v + size * draw(2, 5, seed=seed + 500))
        assert weighted_error(matrix - other, left, right) >= best * (1 - 1e-12)


def test_a_weight_on_data_beats_the_plain_svd_in_its_norm_only():
    matrix, right = draw(7, 5), moment(5)
    plain, weighted = weighted_svd(matrix, 2), weighted_svd(matrix, 2, right_moment=right)
    errors = [matrix - d.left @ d.right for d in (plain, weighted)]
    assert weighted_error(errors[1], None, right) < weighted_error(errors[0], None, right)
    assert errors[1].norm() > errors[0].norm()


def test_the_root_of_the_moment_does_not_matter():
    matrix, right = draw(7, 5), moment(5)
    root = torch.linalg.cholesky(right)
    p, s, q = torch.linalg.svd(matrix @ root, full_matrices=False)
    expected = (p[:, :2] * s[:2]) @ q[:2] @ torch.linalg.inv(root)
    left, right_factor, values = weighted_svd(matrix, 2, right_moment=right)
    # The condition number of the root, some 300, times the roundings.
    torch.testing.assert_close(left @ right_factor, expected, rtol=0.0, atol=1e-11)
    torch.testing.assert_close(values, s, **TOL)


def test_a_moment_given_by_its_diagonal_is_the_diagonal_matrix():
    matrix, rows, columns = draw(2, 7, 5), draw(2, 7, seed=1) ** 2, draw(2, 5, seed=2) ** 2
    short = weighted_svd(matrix, 3, rows, columns)
    long = weighted_svd(matrix, 3, torch.diag_embed(rows), torch.diag_embed(columns))
    torch.testing.assert_close(short.left @ short.right, long.left @ long.right, **TOL)


def test_a_prefix_is_the_best_approximation_of_its_own_rank():
    matrix, right = draw(3, 7, 5), moment(3, 5)
    u, v, _ = weighted_svd(matrix, 4, right_moment=right)
    for rank in range(5):
        a, b, _ = weighted_svd(matrix, rank, right_moment=right)
        torch.testing.assert_close(u[..., :rank] @ v[..., :rank, :], a @ b, **TOL)


def column_side(matrix: Tensor, rank: int, right: Tensor) -> Tensor:
    """Return the best X by a root of the moment of the inputs, as a tall matrix has it."""
    root = MomentRoot.of(right, matrix.shape[:-2] + matrix.shape[-1:], "right")
    p, s, q = torch.linalg.svd(root.times(matrix), full_matrices=False)
    return (p[..., :rank] * s[..., None, :rank]) @ root.undone(q[..., :rank, :])


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("rank", range(6))
def test_the_moment_of_the_outputs_gives_the_same_matrix_as_a_root_of_that_of_the_inputs(
    batch, rank
):
    matrix, right = draw(*batch, 5, 12), moment(*batch, 12)
    u, v, values = weighted_svd(matrix, rank, right_moment=right)
    other = column_side(matrix, rank, right)
    torch.testing.assert_close(u @ v, other, rtol=0.0, atol=1e-10)
    errors = [weighted_error(matrix - x, None, right) for x in (u @ v, other)]
    scale = values.square().sum(-1).max()
    torch.testing.assert_close(errors[0], errors[1], rtol=1e-10, atol=1e-12 * float(scale))
    torch.testing.assert_close(u.norm(dim=-2), v.norm(dim=-1), **TOL)


def test_the_moment_of_outputs_is_enough_and_needs_no_damping():
    matrix, samples = draw(5, 12), draw(12, 3, seed=3)
    outputs = matrix @ samples
    u, v, values = row_side_svd(matrix, 5, outputs @ outputs.mT)
    torch.testing.assert_close(u @ v, matrix, rtol=0.0, atol=1e-12)
    assert (values[3:] <= 1e-7 * values[0]).all()  # roots of roundings
    u, v, _ = row_side_svd(matrix, 3, outputs @ outputs.mT)
    torch.testing.assert_close(u @ v @ samples, outputs, rtol=0.0, atol=1e-11)


def test_a_left_moment_joins_the_row_side():
    matrix, left, right = draw(5, 12), moment(5, seed=9), moment(12)
    u, v, _ = weighted_svd(matrix, 2, left, right)
    root = torch.linalg.cholesky(left).mT
    expected = torch.linalg.inv(root) @ column_side(root @ matrix, 2, right)
    torch.testing.assert_close(u @ v, expected, rtol=0.0, atol=1e-9)


def test_directions_without_data_cost_nothing_and_damping_keeps_them():
    matrix, samples = draw(7, 5), draw(5, 3, seed=3)
    right = samples @ samples.mT  # rank 3 of 5
    u, v, values = weighted_svd(matrix, 3, right_moment=right)
    torch.testing.assert_close(u @ v @ samples, matrix @ samples, rtol=0.0, atol=1e-11)
    assert (values[3:] < 1e-12 * values[0]).all()
    lost = weighted_svd(matrix, 5, right_moment=right)
    assert not torch.allclose(lost.left @ lost.right, matrix)
    kept = weighted_svd(matrix, 5, right_moment=right, damping=1e-6)
    # A condition number of 1e3 for the damped root.
    torch.testing.assert_close(kept.left @ kept.right, matrix, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_a_random_sketch_finds_what_the_exact_svd_finds_and_the_seed_repeats_it(batch):
    basis = draw(*batch, 40, 30)
    matrix = basis * torch.logspace(0, -4, 30, dtype=torch.float64)
    right = moment(*batch, 30)

    def sketch(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        found = weighted_svd(
            matrix, 4, right_moment=right, method="randomized", generator=generator
        )
        assert found.singular_values.shape == (*batch, 4)
        return found.left @ found.right

    exact = weighted_svd(matrix, 4, right_moment=right)
    best = weighted_error(matrix - exact.left @ exact.right, None, right)
    # Nine passes over a spectrum that falls: the excess is far below a percent.
    assert (weighted_error(matrix - sketch(0), None, right) <= 1.001 * best).all()
    assert torch.equal(sketch(1), sketch(1))
    assert not torch.equal(sketch(1), sketch(2))


@pytest.mark.parametrize("split", ["balanced", "left", "right"])
def test_a_split_moves_the_singular_values_and_not_the_product(split):
    u, v, values = weighted_svd(draw(7, 5), 3, split=split)
    share = {"balanced": 0.5, "left": 1.0, "right": 0.0}[split]
    torch.testing.assert_close(u.norm(dim=0), values[:3] ** share, **TOL)
    torch.testing.assert_close(v.norm(dim=1), values[:3] ** (1 - share), **TOL)
    other = weighted_svd(draw(7, 5), 3)
    torch.testing.assert_close(u @ v, other.left @ other.right, **TOL)


def test_balanced_factors_have_the_norms_of_the_nuclear_penalty():
    u, v, values = weighted_svd(draw(7, 5))
    torch.testing.assert_close((u.square().sum() + v.square().sum()) / 2, values.sum(), **TOL)
    torch.testing.assert_close(u.norm(dim=0) * v.norm(dim=1), values, **TOL)
    lasso = 0.0
    for i in range(5):
        tail = values[i:].sum()
        torch.testing.assert_close(u[:, i:].norm() * v[i:].norm(), tail, **TOL)
        lasso = lasso + u[:, i:].norm() + v[i:].norm()
    expected = 2 * values.flip(0).cumsum(0).sqrt().sum()
    torch.testing.assert_close(lasso, expected, **TOL)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("rank", [0, 1, 4, 6, 9])
def test_the_svd_of_a_product_never_forms_it_and_any_rank_will_do(batch, rank):
    left, right = draw(*batch, 7, rank), draw(*batch, rank, 6, seed=1)
    p, s, q = product_svd(left, right)
    kept = min(rank, 6)
    assert p.shape == (*batch, 7, kept) and q.shape == (*batch, kept, 6)
    torch.testing.assert_close((p * s[..., None, :]) @ q, left @ right, **TOL)
    torch.testing.assert_close(s, torch.linalg.svdvals(left @ right)[..., :kept], **TOL)
    eye = torch.eye(kept, dtype=torch.float64).expand(*batch, kept, kept)
    torch.testing.assert_close(p.mT @ p, eye, **TOL)
    torch.testing.assert_close(q @ q.mT, eye, **TOL)
    u, v = rebalance(left, right)
    torch.testing.assert_close(u @ v, left @ right, **TOL)
    torch.testing.assert_close(u.norm(dim=-2), v.norm(dim=-1), **TOL)
    for got, expected in zip(rebalance(u, v), balanced_factors(p, s, q), strict=True):
        torch.testing.assert_close(got.abs(), expected.abs(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_decomposed_in_float32_and_cast_back(dtype):
    matrix = draw(7, 5).to(dtype)
    u, v, values = weighted_svd(matrix, 3)
    assert u.dtype == v.dtype == dtype and values.dtype == torch.float32
    expected = weighted_svd(matrix.float(), 3)
    assert torch.equal(u, expected.left.to(dtype)) and torch.equal(v, expected.right.to(dtype))
    calibrated = weighted_svd(matrix, 3, right_moment=moment(5))
    assert calibrated.left.dtype == dtype and calibrated.singular_values.dtype == torch.float64
    assert {t.dtype for t in rebalance(u, v)} == {dtype}


class TestLinearTargets:
    """Maestro's theory: one set of factors minimises the losses of all prefixes at once.

    The loss of a prefix is tr[(A - U_b V_b) C (A - U_b V_b)ᵀ] for targets A x, C = E[x xᵀ].
    """

    @staticmethod
    def gradients(target: Tensor, second: Tensor, u: Tensor, v: Tensor) -> list[Tensor]:
        """Return the losses' gradients for the factors, for every prefix."""
        found = []
        for b in range(u.shape[1] + 1):
            left, right = u[:, :b].clone().requires_grad_(), v[:b].clone().requires_grad_()
            loss = weighted_error(target - left @ right, None, second)
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, (left, right))]))
        return found

    def test_isotropic_inputs_are_met_by_the_plain_svd(self):
        target = draw(7, 5)
        u, v, _ = weighted_svd(target)
        for gradient in self.gradients(target, torch.eye(5, dtype=torch.float64), u, v):
            # A hundred roundings of numbers near 5.
            assert gradient.numel() == 0 or gradient.abs().max() <= 1e-13

    def test_other_inputs_are_met_by_the_weighted_svd(self):
        target, second = draw(7, 5), moment(5)
        u, v, values = weighted_svd(target, right_moment=second)
        scale = float(values[0].square())
        for b, gradient in enumerate(self.gradients(target, second, u, v)):
            assert gradient.numel() == 0 or gradient.abs().max() <= 1e-13 * scale
            loss = weighted_error(target - u[:, :b] @ v[:b], None, second)
            torch.testing.assert_close(
                loss, values[b:].square().sum(), rtol=1e-12, atol=1e-13 * scale
            )

    def test_other_inputs_are_not_met_by_the_plain_svd(self):
        target, second = draw(7, 5), moment(5)
        u, v, _ = weighted_svd(target)
        for gradient in self.gradients(target, second, u, v)[1:5]:
            assert gradient.norm() > 1.0

    def test_the_identity_is_met_by_the_principal_components(self):
        second = moment(5)
        vectors = torch.linalg.eigh(second).eigenvectors.flip(-1)
        u, v, _ = weighted_svd(torch.eye(5, dtype=torch.float64), right_moment=second)
        for b in range(6):
            projector = vectors[:, :b] @ vectors[:, :b].mT
            torch.testing.assert_close(u[:, :b] @ v[:b], projector, rtol=0.0, atol=1e-13)


def test_energy_keeps_its_share_with_the_fewest_components():
    values = torch.linalg.svdvals(draw(12, 9))
    energy = values.square()
    assert rank_for_energy(values, 0.0) == 9
    for discarded in (1e-6, 0.02, 0.1, 0.5, 0.9, 0.999):
        rank = rank_for_energy(values, discarded)
        assert rank >= 1 and energy[rank:].sum() <= discarded * energy.sum()
        assert rank == 1 or energy[rank - 1 :].sum() > discarded * energy.sum()
    torch.testing.assert_close(tail_energy(values)[0], energy.sum(), **TOL)
    assert tail_energy(values)[-1] == 0 and tail_energy(values).shape == (10,)
    assert (tail_energy(values).diff().diff() >= -1e-12).all()  # convex
    assert rank_for_energy(torch.zeros(4), 0.1) == 1


def test_matrices_of_a_batch_share_energy_and_the_largest_count():
    values = torch.tensor([[3.0, 2.0, 1.0], [1.0, 0.5, 0.0]])
    assert rank_for_threshold(values, 1.0) == 3
    assert rank_for_threshold(values, 3.5) == 0
    torch.testing.assert_close(
        tail_energy(values), torch.tensor([15.25, 5.25, 1.0, 0.0], dtype=torch.float64)
    )


def test_ranks_of_a_spectrum_lie_between_one_and_the_rank():
    flat, single = torch.ones(4), torch.tensor([2.0, 0.0, 0.0])
    for measure in (stable_rank, effective_rank):
        assert float(measure(flat)) == pytest.approx(4.0, rel=1e-12)
        assert float(measure(single)) == pytest.approx(1.0, rel=1e-12)
        assert float(measure(torch.zeros(3))) == 0.0
        values = torch.linalg.svdvals(draw(3, 8, 5))
        assert ((measure(values) > 1) & (measure(values) < 5)).all()
        torch.testing.assert_close(measure(values), measure(7 * values), **TOL)


def test_a_normalised_spectrum_forgets_scale_and_offset():
    values = torch.tensor([5.0, 3.0, 1.0])
    torch.testing.assert_close(
        normalised_spectrum(values), torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    )
    torch.testing.assert_close(normalised_spectrum(3 * values + 1), normalised_spectrum(values))
    assert torch.equal(normalised_spectrum(torch.full((3,), 2.0)), torch.ones(3).double())


NAN = torch.full((3, 3), torch.nan)
BAD = {
    "matrix holds NaN": lambda: weighted_svd(NAN, 1),
    "right_moment holds NaN": lambda: weighted_svd(draw(3, 3), 1, right_moment=NAN),
    "output_moment holds NaN": lambda: row_side_svd(draw(3, 4), 1, NAN),
    r"output_moment must have shape \(3, 3\) for 3 rows, got \(4, 4\)": (
        lambda: row_side_svd(draw(3, 4), 1, draw(4, 4))
    ),
    "output_moment has the negative eigenvalue -1": (
        lambda: row_side_svd(draw(3, 4), 1, torch.diag(torch.tensor([1.0, 1.0, -1.0])))
    ),
    "left holds NaN": lambda: product_svd(NAN, draw(3, 3)),
    r"rank must lie in \[0, 3\] for 3x4, got 4": lambda: weighted_svd(draw(3, 4), 4),
    "split must be": lambda: weighted_svd(draw(3, 4), split="both"),  # type: ignore[arg-type]
    "method must be": lambda: weighted_svd(draw(3, 4), method="fast"),  # type: ignore[arg-type]
    "damping must be at least 0, got -1": lambda: weighted_svd(draw(3, 4), damping=-1),
    "'randomized' needs generator": lambda: weighted_svd(draw(3, 4), 1, method="randomized"),
    r"right_moment must have shape \(4, 4\), or \(4,\) for a diagonal, got \(3, 3\)": (
        lambda: weighted_svd(draw(3, 4), right_moment=draw(3, 3))
    ),
    "left_moment has the negative eigenvalue -1": lambda: weighted_svd(
        draw(3, 4), left_moment=torch.tensor([1.0, 1.0, -1.0])
    ),
    r"discarded must be a share in \[0, 1\), got 1.0": lambda: rank_for_energy(torch.ones(3), 1.0),
}


@pytest.mark.parametrize(("message", "call"), BAD.items())
def test_bad_arguments_are_refused_by_name(message, call):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_not_finite_is_refused_and_finite_numbers_whose_sum_is_not_are_taken(dtype):
    largest = torch.finfo(dtype).max
    for taken in (torch.full((3, 3), largest, dtype=dtype), torch.empty(0, 4, dtype=dtype)):
        refuse_infinite(taken, "moment")
    for bad in ([1.0, float("nan")], [float("inf"), -float("inf")], [largest, -float("inf")]):
        with pytest.raises(ValueError, match="moment holds NaN or infinite values"):
            refuse_infinite(torch.tensor(bad, dtype=dtype), "moment")
