"""The scaled residual and its presets: what lambda is, and what it does."""

import math

import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.residual import Context, Site, scale_by_depth

from .stacks import SITES, WIDTH, branch_weights, build, fill, normal, stack

BITWISE = {"rtol": 0.0, "atol": 0.0}
PRESETS = ["skip_init", "rezero", "layer_scale"]


def chain(length: int) -> list[Site]:
    """One branch a block."""
    return [Site("mlp", block) for block in range(length)]


@pytest.mark.parametrize(
    ("depth", "root", "reciprocal"),
    [(1, 1, 1), (4, 0.5, 0.25), (16, 0.25, 0.0625), (100, 0.1, 0.01)],
)
def test_lambda_is_a_power_of_depth(depth, root, reciprocal):
    assert scale_by_depth(depth) == pytest.approx(root, rel=1e-15)
    assert scale_by_depth(depth, exponent=1.0) == pytest.approx(reciprocal, rel=1e-15)
    assert scale_by_depth(depth, exponent=0.0) == 1.0
    assert scale_by_depth(depth, coefficient=3.0) == pytest.approx(3 * root, rel=1e-15)
    assert build("scaled", sites=chain(depth)).initial == scale_by_depth(depth)


def test_depth_counts_adds_or_blocks():
    assert build("scaled", exponent=1.0).initial == 1 / 6
    assert build("scaled", exponent=1.0, count="blocks").initial == 1 / 3


@pytest.mark.parametrize("options", [{}, {"learned": True}, {"learned": True, "per_channel": True}])
def test_exponent_zero_and_coefficient_one_are_add_bit_for_bit(options):
    x, weights = normal(2, 3, WIDTH), branch_weights()
    scaled = build("scaled", exponent=0.0, coefficient=1.0, **options)
    torch.testing.assert_close(
        stack(scaled, x, weights), stack(build("add"), x, weights), **BITWISE
    )


def test_a_write_adds_lambda_times_the_branch():
    x, ys = normal(2, 3, WIDTH), normal(len(SITES), 2, 3, WIDTH, seed=1)
    residual = build("scaled", coefficient=2.0, exponent=1.0)
    # Six roundings at unit scale.
    torch.testing.assert_close(
        residual.close(fill(residual, x, ys)), x + ys.sum(0) / 3, rtol=0.0, atol=1e-14
    )


@pytest.mark.parametrize("name", PRESETS)
def test_the_gradient_of_lambda_is_the_product_of_gradient_and_branch(name):
    residual = build(name, sites=chain(1))
    x, y, g = normal(2, 3, WIDTH), normal(2, 3, WIDTH, seed=1), normal(2, 3, WIDTH, seed=2)
    state = residual.write(residual.open(x), 0, y, Context(x, x))
    (gradient,) = torch.autograd.grad(residual.close(state), residual.scale, g)
    expected = (g * y).sum((0, 1)) if name == "layer_scale" else (g * y).sum().view(1)
    torch.testing.assert_close(gradient[0], expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "shape", "value"),
    [("skip_init", (6, 1), 0.0), ("rezero", (3, 1), 0.0), ("layer_scale", (6, WIDTH), 0.1)],
)
def test_a_preset_owns_what_its_paper_says(name, shape, value):
    residual = build(name)
    assert [key for key, _ in residual.named_parameters()] == ["scale"]
    assert residual.scale.shape == shape
    torch.testing.assert_close(
        residual.scale.detach(), torch.full(shape, value).double(), rtol=1e-7, atol=0.0
    )
    assert decay_exclusions(residual) == {"scale"}


def test_rezero_shares_one_scalar_among_the_branches_of_a_block():
    residual = build("rezero", sites=[Site("attention", 4), Site("mlp", 4), Site("mlp", 5)])
    assert residual.row == [0, 0, 1]
    with torch.no_grad():
        residual.scale.copy_(torch.tensor([[2.0], [3.0]]))
    ys = normal(3, 1, WIDTH)
    closed = residual.close(fill(residual, torch.zeros(1, WIDTH).double(), ys))
    torch.testing.assert_close(closed, 2 * ys[0] + 2 * ys[1] + 3 * ys[2], rtol=0.0, atol=1e-14)


@pytest.mark.parametrize("name", ["skip_init", "rezero"])
def test_a_closed_network_is_the_identity(name):
    x = normal(2, 3, WIDTH)
    torch.testing.assert_close(stack(build(name), x, branch_weights()), x, **BITWISE)


@pytest.mark.parametrize(
    ("blocks", "value"), [(1, 0.1), (18, 0.1), (19, 1e-5), (24, 1e-5), (25, 1e-6), (36, 1e-6)]
)
def test_layer_scale_starts_by_the_depth_in_blocks(blocks, value):
    sites = [Site(kind, i) for i in range(blocks) for kind in ("attention", "mlp")]
    assert build("layer_scale", sites=sites).initial == value
    assert build("layer_scale", sites=sites, initial=0.5).initial == 0.5


def test_skip_init_may_start_open():
    assert build("skip_init", coefficient=0.2).scale.eq(torch.tensor(0.2)).all()


@pytest.mark.parametrize("name", PRESETS)
def test_resetting_returns_to_the_start(name):
    residual = build(name).float()
    with torch.no_grad():
        residual.scale.add_(1.0)
    residual.reset_parameters()
    assert torch.equal(residual.scale, build(name).float().scale)


@pytest.mark.parametrize("channel_dim", [-1, 1])
def test_a_scale_per_channel_follows_the_channels(channel_dim):
    residual = build("layer_scale", sites=chain(1), channel_dim=channel_dim)
    with torch.no_grad():
        residual.scale.copy_(torch.arange(WIDTH)[None])
    x = torch.zeros(2, 3, 4, WIDTH).double().movedim(-1, channel_dim)
    closed = residual.close(fill(residual, x, torch.ones_like(x)[None]))
    assert torch.equal(closed.movedim(channel_dim, -1)[1, 2, 3], torch.arange(WIDTH).double())


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_the_variance_grows_by_the_law_of_independent_branches(exponent):
    depth, width, std = 16, 256, 0.7
    residual = build("scaled", sites=chain(depth), width=width, exponent=exponent)
    x = normal(64, width)
    state = residual.open(x)
    for site in range(depth):
        h = residual.read(state, site)
        y = std * h @ normal(width, width, seed=10 + site) / math.sqrt(width)
        state = residual.write(state, site, y, Context(h, h))
    growth = residual.close(state).square().mean() / x.square().mean()
    law = (1 + (residual.initial * std) ** 2) ** depth
    # The estimate from 256 channels spreads by about sqrt(2 · 16 / 256) / 3 of its logarithm.
    assert growth.item() == pytest.approx(law, rel=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exponent": -0.5}, "exponent must be at least 0, got -0.5"),
        ({"count": "layers"}, "count must be .*'blocks'.*got 'layers'"),
        ({"per_channel": True}, "per_channel and shared need learned=True"),
        ({"shared": True}, "per_channel and shared need learned=True"),
    ],
)
def test_a_bad_argument_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        build("scaled", **options)


def test_a_bad_count_is_refused_by_the_class_itself():
    from archzoo.layers.residual import Scaled

    with pytest.raises(ValueError, match="count must be 'adds' or 'blocks', got 'layers'"):
        Scaled(WIDTH, SITES, count="layers")
