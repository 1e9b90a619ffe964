"""Attention Residuals in the ball: the midpoint of sources, and AttnRes in the flat limit."""

import pytest
import torch
from archzoo.layers.hyperbolic import BallCurvature, mobius_add_tangents, poincare
from archzoo.layers.residual import Context, GyroAttnRes, GyroBlockAttnRes, gyro_mix
from archzoo.zoo.axes.residuals import make_residual

from ..stacks import SITES, WIDTH, branch_weights, build, fill, normal, stack, trained

C = 0.3
PAIRS = [
    ("gyro_attnres", "attnres", {}),
    ("gyro_attnres", "attnres", {"competition": "sigmoid"}),
    ("gyro_attnres", "attnres", {"window": 2}),
    ("gyro_attnres", "attnres", {"input_dependent_query": True}),
    ("gyro_attnres", "attnres", {"shared_query": True}),
    ("gyro_block_attnres", "block_attnres", {"block_size": 4}),
    ("gyro_block_attnres", "block_attnres", {"num_blocks": 2, "key_gain": False}),
]


@pytest.mark.parametrize(("gyro", "flat", "options"), PAIRS, ids=str)
def test_in_flat_space_it_is_attention_over_vectors(gyro, flat, options):
    curved = trained(build(gyro, curvature=1e-12, **options))
    plain = trained(build(flat, **options))
    report = plain.load_state_dict(curved.state_dict(), strict=False)
    assert report.unexpected_keys == ["curvature._extra_state"] and not report.missing_keys
    x, weights = normal(2, 3, WIDTH).requires_grad_(), branch_weights()
    outs = [stack(residual, x, weights) for residual in (curved, plain)]
    if options.get("competition") == "sigmoid":
        # Weights of a midpoint count by their ratios; sigmoids alone do not sum to one, so here
        # only directions of a first read are comparable.
        ys = normal(1, 2, 3, WIDTH, seed=3)
        outs = [residual.read(fill(residual, x, ys), 1) for residual in (curved, plain)]
        outs = [out / out.norm(dim=-1, keepdim=True) for out in outs]
    # The limit is reached like c: 1e-12 times some squares.
    torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=1e-8)
    found, expected = (torch.autograd.grad(out.square().sum(), x)[0] for out in outs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_a_mixture_is_the_weighted_midpoint_of_points():
    sources = [normal(4, WIDTH, seed=seed) for seed in range(3)]
    weights = normal(3, 4, 1, seed=9).softmax(0)
    points = poincare.expmap0(torch.stack(sources), C, margin=0.0)
    middle = poincare.midpoint(points, C, weights, over=0)
    ours = gyro_mix(sources, weights, C, -1)
    torch.testing.assert_close(ours, poincare.logmap0(middle, C), rtol=1e-9, atol=1e-10)


def test_a_mixture_moves_with_every_isometry():
    sources = [normal(4, WIDTH, seed=seed) for seed in range(3)]
    weights = normal(3, 4, 1, seed=9).softmax(0)
    shift = normal(4, WIDTH, seed=5)
    moved = [mobius_add_tangents(shift, source, C) for source in sources]
    expected = mobius_add_tangents(shift, gyro_mix(sources, weights, C, -1), C)
    torch.testing.assert_close(gyro_mix(moved, weights, C, -1), expected, rtol=1e-8, atol=1e-9)


def test_a_mixture_of_one_point_is_that_point():
    x = normal(4, WIDTH)
    weights = torch.full((3, 4, 1), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(gyro_mix([x, x, x], weights, C, -1), x, rtol=1e-12, atol=1e-12)


def test_a_block_of_one_branch_is_the_full_form():
    full = trained(build("gyro_attnres", curvature=C))
    block = trained(build("gyro_block_attnres", curvature=C, block_size=1))
    x, weights = normal(2, 3, WIDTH), branch_weights()
    torch.testing.assert_close(stack(block, x, weights), stack(full, x, weights), rtol=0, atol=0)


def test_a_block_is_summed_by_moebius_addition():
    residual = build("gyro_block_attnres", curvature=C, block_size=2)
    ys = normal(2, 3, WIDTH, seed=1)
    state = residual.open(normal(3, WIDTH))
    for site, y in enumerate(ys):
        state = residual.write(state, site, y, Context(y, y))
    torch.testing.assert_close(
        state.values[1], mobius_add_tangents(ys[1], ys[0], C), rtol=0, atol=0
    )


def test_a_learned_curvature_is_shared_and_gets_a_gradient():
    ball = BallCurvature(C, learned=True)
    residual = GyroAttnRes(WIDTH, SITES, curvature=ball).double()
    assert residual.curvature is ball
    stack(residual, normal(2, 3, WIDTH), branch_weights()).square().sum().backward()
    assert ball.log_ratio.grad.abs() > 0


@pytest.mark.parametrize("name", ["gyro_attnres", "gyro_block_attnres"])
@pytest.mark.parametrize("option", ["heads", "additive"])
def test_what_has_no_meaning_for_points_is_no_option(name, option):
    with pytest.raises(ValueError, match=f"takes no keyword '{option}'"):
        make_residual({"name": name, option: 1}, WIDTH, SITES)


def test_a_curvature_that_is_not_positive_is_refused():
    for build_one in (GyroAttnRes, GyroBlockAttnRes):
        with pytest.raises(ValueError, match="curvature must be a positive number"):
            build_one(WIDTH, SITES, curvature=0.0)
