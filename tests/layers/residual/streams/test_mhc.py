"""mHC mixes streams by doubly stochastic matrices: nearly with Sinkhorn, exactly with mHC-lite."""

import math

import pytest
import torch
from archzoo.layers.residual import (
    Context,
    MHCLite,
    double_stochasticity_error,
    sinkhorn_log,
)

from ..formulas.streams import sinkhorn_plain
from ..stacks import SITES, WIDTH, branch_weights, build, normal, rms_norm, stack, trained

TOL = {"rtol": 1e-11, "atol": 1e-11}  # some thousand roundings of float64, streams that grow
NAMES = ["mhc", "mhc_lite"]
every = pytest.mark.parametrize("name", NAMES)


def wide(residual, factor=30.0):
    """Return the mechanism with weights that make peaked and different matrices."""
    trained(residual)
    with torch.no_grad():
        residual.gate.fill_(1.0)
        residual.weight.mul_(factor)
    return residual


# The iteration.


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("n", [1, 2, 4, 7])
@pytest.mark.parametrize("seed", range(3))
def test_the_log_domain_equals_the_plain_domain(seed, n, steps):
    logits = 3 * normal(5, n, n, seed=seed)
    torch.testing.assert_close(
        sinkhorn_log(logits, steps), sinkhorn_plain(logits, steps), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("steps", [1, 20])
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0, 1e4])
def test_columns_sum_to_one_after_any_number_of_steps(scale, steps):
    matrix = sinkhorn_log(scale * normal(50, 4, 4), steps)
    assert (matrix >= 0).all()
    # Logarithms of up to 1e4 have 1e-12 of rounding.
    torch.testing.assert_close(
        matrix.sum(-2), torch.ones(50, 4).double(), rtol=0.0, atol=max(1e-15 * scale, 1e-14)
    )


def test_rows_sum_to_one_after_many_steps():
    logits = normal(50, 4, 4)
    errors = [double_stochasticity_error(sinkhorn_log(logits, t)).max() for t in (1, 5, 20, 200)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 1e-3
    assert errors[3] < 1e-13


def test_twenty_steps_are_not_enough_for_peaked_logits():
    matrix = sinkhorn_log(8 * normal(200, 4, 4), 20)
    assert double_stochasticity_error(matrix).max() > 0.05


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_logits_of_ten_thousand_overflow_nothing(sign):
    logits = (sign * 1e4 * normal(6, 4, 4).sign()).requires_grad_()
    matrix = sinkhorn_log(logits, 20)
    assert matrix.isfinite().all()
    (gradient,) = torch.autograd.grad((matrix * normal(6, 4, 4, seed=1)).sum(), logits)
    assert gradient.isfinite().all()
    assert not sinkhorn_plain(logits, 20).isfinite().all()


def test_the_gradient_of_sinkhorn_is_its_gradient():
    logits = normal(2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: sinkhorn_log(z, 5), logits)


def test_a_shift_of_rows_and_columns_changes_nothing():
    logits = normal(5, 4, 4)
    shifted = logits + normal(5, 4, 1, seed=1)
    # A shift of a row is taken out by the first step.
    torch.testing.assert_close(
        sinkhorn_log(shifted, 3), sinkhorn_log(logits, 3), rtol=0.0, atol=1e-13
    )


def test_the_error_is_the_worst_row_or_column():
    matrix = torch.eye(3).double().repeat(3, 1, 1)
    matrix[1, 0, 1] = 0.25
    matrix[2, 2] *= 0.5
    assert double_stochasticity_error(matrix).tolist() == [0.0, 0.25, 0.5]


# The matrices of a network.


def matrices(residual, seed=0):
    streams = normal(2, 3, residual.streams, WIDTH, seed=seed)
    return [residual.mixing(streams, site).res for site in range(len(SITES))]


@pytest.mark.parametrize("streams", [1, 2, 3, 4, 5])
def test_the_lite_matrix_is_doubly_stochastic_for_any_weights(streams):
    residual = wide(build("mhc_lite", streams=streams))
    for matrix in matrices(residual):
        assert matrix.shape == (2, 3, streams, streams)
        assert (matrix >= 0).all()
        assert double_stochasticity_error(matrix).max() < 1e-14


@every
def test_a_product_of_matrices_is_doubly_stochastic_and_of_norm_one(name):
    options = {"sinkhorn_steps": 500} if name == "mhc" else {}
    residual = wide(build(name, **options), factor=0.3)
    with torch.no_grad():
        residual.offset.mul_(0.1)  # the start's -8 lies too far for Sinkhorn to arrive
    product = torch.eye(4).double()
    for matrix in matrices(residual):
        product = matrix @ product
        assert double_stochasticity_error(product).max() < 1e-12
        norms = torch.linalg.matrix_norm(product, 2)
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0.0, atol=1e-12)


@every
def test_mixing_conserves_the_sum_of_the_streams(name):
    residual, streams = wide(build(name)), normal(2, 3, 4, WIDTH)
    for site in range(len(SITES)):
        state = type(residual.open(streams[..., 0, :]))(streams)
        zero = torch.zeros(2, 3, WIDTH).double()
        after = residual.write(state, site, zero, Context(zero, zero))
        assert (after.streams - streams).abs().max() > 1e-3
        torch.testing.assert_close(residual.close(after), streams.sum(-2), rtol=0.0, atol=1e-12)


@every
def test_one_stream_is_carried_on_as_it_is(name):
    for matrix in matrices(wide(build(name, streams=1))):
        torch.testing.assert_close(matrix, torch.ones_like(matrix), rtol=0.0, atol=1e-15)


@every
def test_gates_lie_between_their_bounds(name):
    residual = wide(build(name))
    mixing = residual.mixing(normal(2, 3, 4, WIDTH), 3)
    assert ((mixing.pre >= 0) & (mixing.pre <= 1)).all()
    assert ((mixing.post >= 0) & (mixing.post <= 2)).all()


# The whole.


@every
def test_a_fresh_network_carries_on_and_prefers_the_stream_of_its_turn(name):
    residual, streams = build(name), normal(2, 3, 4, WIDTH)
    for site in range(len(SITES)):
        pre, post, res = residual.mixing(streams, site)
        expected = torch.full((4,), 1 / (1 + math.e)).double()
        expected[site % 4] = math.e / (1 + math.e)
        torch.testing.assert_close(pre, expected.expand_as(pre), rtol=0.0, atol=1e-7)
        torch.testing.assert_close(post, 2 * expected.expand_as(post), rtol=0.0, atol=1e-7)
        # exp(-8) = 3.4e-4 for each of 3 others in a row, or of 23 other permutations.
        torch.testing.assert_close(res, torch.eye(4).double().expand_as(res), rtol=0.0, atol=8e-3)


@every
def test_a_fresh_network_differs_from_the_plain_one(name):
    x, weights = normal(2, 3, WIDTH), branch_weights()
    plain, ours = stack(build("add"), x, weights), stack(build(name), x, weights)
    assert (rms_norm(ours) - rms_norm(plain)).norm() > 0.01 * rms_norm(plain).norm()
    assert not build(name).equals_prenorm_at_init


@every
def test_resetting_returns_to_the_start(name):
    residual, fresh = trained(build(name)).float(), build(name).float()
    residual.reset_parameters()
    for ours, start in zip(residual.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(ours, start)


@pytest.mark.parametrize("streams", [7, 9])
def test_too_many_permutations_are_refused_with_a_way_out(streams):
    with pytest.raises(ValueError, match=f"streams must .*6.*{streams}.*mhc"):
        MHCLite(WIDTH, SITES, streams=streams)
    assert build("mhc", streams=streams).streams == streams


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mhc", {"streams": 0}, "streams must be at least 1, got 0"),
        ("mhc", {"sinkhorn_steps": 0}, "sinkhorn_steps must be at least 1, got 0"),
        ("mhc_lite", {"streams": 0}, "streams must .*0"),
    ],
)
def test_a_bad_argument_is_refused_by_name(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)
