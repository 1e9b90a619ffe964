"""MUDDFormer is its equations, and starts as the plain stream."""

import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.residual import Context, Site
from archzoo.layers.residual.depth_mixing.muddformer import DynamicMix

from ..stacks import SITES, WIDTH, branch_weights, build, fill, normal, stack, trained

TOL = {"rtol": 0.0, "atol": 1e-12}  # some thousand roundings of float64 at unit scale
BITWISE = {"rtol": 0.0, "atol": 0.0}
CONVS = [Site("conv", block) for block in range(4)]


def test_a_read_names_its_mixtures():
    residual = build("muddformer")
    state = fill(residual, normal(2, 3, WIDTH), normal(2, 2, 3, WIDTH, seed=1))
    assert list(residual.read(state, 2)) == ["query", "key", "value", "residual"]
    residual = build("muddformer", sites=CONVS)
    state = fill(residual, normal(2, 3, WIDTH), normal(1, 2, 3, WIDTH, seed=1))
    assert list(residual.read(state, 1)) == ["input", "residual"]


def test_a_block_goes_on_from_the_residual_and_not_from_the_stream():
    residual = build("muddformer")
    state = fill(residual, normal(2, WIDTH), normal(2, 2, WIDTH, seed=1))
    h = {name: normal(2, WIDTH, seed=i) for i, name in enumerate(["query", "residual"])}
    y = normal(2, WIDTH, seed=7)
    state = residual.write(state, 2, y, Context(h, h))
    torch.testing.assert_close(residual.read(state, 3), h["residual"] + y, **BITWISE)


def test_weights_may_be_negative_and_need_not_sum_to_one():
    mix = DynamicMix(WIDTH, 1, 2, 3).double()
    with torch.no_grad():
        mix.static.copy_(torch.tensor([[-2.0, 0.5]]))
    history = normal(2, 3, WIDTH)
    torch.testing.assert_close(mix(history)[0], -2 * history[0] + 0.5 * history[1], **TOL)


def test_a_fresh_mixture_is_the_newest_source_bitwise():
    history = normal(4, 2, WIDTH)
    for stream in DynamicMix(WIDTH, 3, 4, 5).double()(history):
        torch.testing.assert_close(stream, history[-1], **BITWISE)


def test_a_fresh_network_can_leave_its_start():
    residual = build("muddformer")
    stack(residual, normal(2, 3, WIDTH), branch_weights()).square().sum().backward()
    for mix in residual.mix:
        assert mix.second.grad.abs().max() > 0
        assert mix.static.grad.abs().max() > 0
        assert not mix.first.grad.any()  # behind zeros, until those have moved


@pytest.mark.parametrize("hidden", [None, 7])
def test_sizes_grow_with_the_history(hidden):
    residual = build("muddformer", hidden=hidden)
    expected = [(4, 2, 8), (4, 3, 12), (1, 4, 16)]  # C, n, K = C n, four times that at the end
    found = [(*mix.static.shape, mix.first.shape[0]) for mix in residual.mix]
    assert found == [(c, n, hidden or k) for c, n, k in expected]
    for mix, (c, n, _) in zip(residual.mix, found, strict=True):
        assert mix.first.shape[1] == WIDTH
        assert mix.second.shape == (c * n, mix.first.shape[0])


def test_static_weights_are_not_decayed():
    assert decay_exclusions(build("muddformer")) == {f"mix.{i}.static" for i in range(3)}


def test_resetting_returns_to_the_plain_stream():
    residual = trained(build("muddformer"))
    residual.reset_parameters()
    x, ys = normal(2, WIDTH), normal(len(SITES), 2, WIDTH, seed=1)
    torch.testing.assert_close(residual.close(fill(residual, x, ys)), x + ys.sum(0), **TOL)


def test_a_hidden_width_below_one_is_refused():
    with pytest.raises(ValueError, match="hidden must be at least 1 or None, got 0"):
        build("muddformer", hidden=0)
