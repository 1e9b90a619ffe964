"""DeepCrossAttention is its equations, and starts as the plain stream unless it drops sources."""

import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.residual import Context, Site
from archzoo.layers.residual.depth_mixing.dca import GeneralizedResidual

from ..formulas.blocks import kept
from ..stacks import SITES, WIDTH, branch_weights, build, fill, normal, stack, trained

TOL = {"rtol": 0.0, "atol": 1e-12}  # some thousand roundings of float64 at unit scale
BITWISE = {"rtol": 0.0, "atol": 0.0}
DEEP = [Site(kind, block) for block in range(5) for kind in ("attention", "mlp")]


def test_keeping_all_is_the_default():
    x, weights = normal(2, 3, WIDTH), branch_weights(len(DEEP))
    ours, wide = (trained(build("dca", sites=DEEP, **o)) for o in ({}, {"keep": 3}))
    torch.testing.assert_close(stack(ours, x, weights), stack(wide, x, weights), **BITWISE)


def test_a_block_is_stacked_without_its_base():
    residual = trained(build("dca"))
    ys = normal(4, 2, WIDTH, seed=1)
    state = fill(residual, normal(2, WIDTH), ys)
    torch.testing.assert_close(state.sources[1], ys[0] + ys[1], **BITWISE)
    torch.testing.assert_close(state.sources[2], ys[2] + ys[3], **BITWISE)


def test_a_block_goes_on_from_the_sum_of_the_query():
    residual = trained(build("dca"))
    state = fill(residual, normal(2, WIDTH), normal(2, 2, WIDTH, seed=1))
    h, y = residual.read(state, 2), normal(2, WIDTH, seed=7)
    assert list(h) == ["query", "key", "value"]
    state = residual.write(state, 2, y, Context(h, h))
    torch.testing.assert_close(residual.read(state, 3), h["query"] + y, **BITWISE)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_state_holds_no_more_than_it_may_read(keep):
    residual = trained(build("dca", sites=DEEP, keep=keep))
    x, ys = normal(2, WIDTH), normal(len(DEEP), 2, WIDTH, seed=1)
    state = fill(residual, x, ys)
    blocks = [x, *(ys[0::2] + ys[1::2])]
    assert len(state.sources) == 2 * keep
    for ours, expected in zip(state.sources, kept(blocks, keep), strict=True):
        torch.testing.assert_close(ours, expected, **BITWISE)


@pytest.mark.parametrize(
    ("keep", "equal"), [(None, True), (1, False), (2, True), (100, True)], ids=str
)
def test_only_a_stack_that_is_whole_starts_as_the_plain_sum(keep, equal):
    residual = build("dca", keep=keep)  # three blocks and the embedding make four sources
    x, ys = normal(2, WIDTH), normal(len(SITES), 2, WIDTH, seed=1)
    gap = residual.close(fill(residual, x, ys)) - (x + ys.sum(0))
    assert residual.equals_prenorm_at_init is equal
    assert (gap.abs().max().item() < 1e-13) is equal


def test_a_fresh_query_can_leave_zero():
    residual = build("dca")
    stack(residual, normal(2, 3, WIDTH), branch_weights()).square().sum().backward()
    for mix in residual.mix:
        assert mix.query.grad.abs().amin(1).max() > 0
        assert mix.static.grad.abs().max() > 0


def test_a_weight_is_never_below_its_static_part():
    mix = GeneralizedResidual(WIDTH, 2, 3).double()
    with torch.no_grad():
        mix.query.copy_(normal(2, WIDTH, seed=4))
    weights = mix.weights(normal(3, 50, WIDTH))
    dynamic = torch.stack([torch.stack(row) for row in weights]) - 1.0
    assert dynamic.min() == 0.0
    assert dynamic.max() > 1.0


def test_sizes_grow_with_the_stack():
    residual = build("dca")
    assert [tuple(mix.static.shape) for mix in residual.mix] == [
        (3, 2, WIDTH),
        (3, 3, WIDTH),
        (1, 4, WIDTH),
    ]
    assert [tuple(mix.query.shape) for mix in residual.mix] == [(3, WIDTH), (3, WIDTH), (1, WIDTH)]
    names = {f"mix.{i}.{name}" for i in range(3) for name in ("static", "query")}
    assert decay_exclusions(residual) == names


def test_resetting_returns_to_the_plain_sum():
    residual = trained(build("dca"))
    residual.reset_parameters()
    x, ys = normal(2, WIDTH), normal(len(SITES), 2, WIDTH, seed=1)
    torch.testing.assert_close(residual.close(fill(residual, x, ys)), x + ys.sum(0), **TOL)


def test_keeping_nothing_is_refused():
    with pytest.raises(ValueError, match="keep must be at least 1 or None, got 0"):
        build("dca", keep=0)
