"""A depth read is short sliding-window attention with depth in place of time."""

import pytest
import torch
from archzoo.layers.residual import Context, Site, depth_attention
from torch.nn import functional as F

from .stacks import SITES, branch_weights, build, fill, normal, stack, trained

WIDTH = 6
LENGTH = 7
EXACT = {"rtol": 0.0, "atol": 1e-13}  # some ten roundings of float64 at unit scale
TOL = {"rtol": 0.0, "atol": 1e-11}  # some thousand, through six branches with weights of size one
BITWISE = {"rtol": 0.0, "atol": 0.0}


def normed(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def swa(x, qkv, heads, window):
    """Sliding-window attention along the second-to-last axis, by the library."""
    query, key, value = (
        (normed(x) @ w.T).unflatten(-1, (heads, -1)).transpose(-2, -3) for w in qkv.chunk(3)
    )
    length = x.shape[-2]
    band = torch.ones(length, length, dtype=torch.bool).tril().triu(1 - window)
    y = F.scaled_dot_product_attention(query, key, value, attn_mask=band)
    return y.transpose(-2, -3).flatten(-2)


@pytest.mark.parametrize("heads", [1, 2, 3, 6])
@pytest.mark.parametrize("window", [1, 2, 3, LENGTH, 100])
def test_depth_reads_are_banded_causal_attention_over_depth(window, heads):
    states = normal(LENGTH, 2, 4, WIDTH)
    qkv = normal(3 * WIDTH, WIDTH, seed=1)
    swapped = swa(states.movedim(0, 2), qkv, heads, window).movedim(2, 0)
    for layer in range(LENGTH):
        seen = states[max(0, layer - window + 1) : layer + 1].unbind()
        torch.testing.assert_close(depth_attention(seen, qkv, heads=heads), swapped[layer], **EXACT)


def test_a_window_of_one_projects_the_state_itself():
    x, qkv = normal(2, 3, WIDTH), normal(3 * WIDTH, WIDTH, seed=1)
    torch.testing.assert_close(
        depth_attention([x], qkv, heads=2), normed(x) @ qkv[2 * WIDTH :].T, **EXACT
    )


@pytest.mark.parametrize("window", [6, 7, 100])
def test_a_window_as_long_as_the_history_is_no_window(window):
    x, weights = normal(2, 3, WIDTH), branch_weights(width=WIDTH)
    wide, all_ = (trained(build("depth_swa", width=WIDTH, window=size)) for size in (window, None))
    torch.testing.assert_close(stack(wide, x, weights), stack(all_, x, weights), **BITWISE)


@pytest.mark.parametrize("window", [1, 3])
def test_a_state_holds_the_streams_in_the_window_and_no_more(window):
    residual = trained(build("depth_swa", width=WIDTH, window=window))
    x, ys = normal(2, WIDTH), normal(len(SITES), 2, WIDTH, seed=1)
    state = fill(residual, x, ys)
    assert len(state) == window
    streams = x + ys.cumsum(0)
    torch.testing.assert_close(torch.stack(state), streams[-window:], **EXACT)


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_the_stream_is_the_plain_sum_whatever_is_read(mode):
    residual = trained(build("depth_swa", width=WIDTH, mode=mode))
    x, ys = normal(2, WIDTH), normal(len(SITES), 2, WIDTH, seed=1)
    torch.testing.assert_close(residual.close(fill(residual, x, ys)), x + ys.sum(0), **EXACT)


def test_a_closed_output_projection_reads_the_stream_bitwise():
    residual = trained(build("depth_swa", width=WIDTH))
    with torch.no_grad():
        residual.out.zero_()
    ys = normal(3, 2, WIDTH, seed=1)
    state = fill(residual, normal(2, WIDTH), ys)
    torch.testing.assert_close(residual.read(state, 3), state[-1], **BITWISE)


def test_a_token_reads_no_other_token():
    residual = trained(build("depth_swa", width=WIDTH, window=None, heads=2))
    x = normal(1, 4, WIDTH).requires_grad_()
    state = fill(residual, x, normal(4, 1, 4, WIDTH, seed=1))
    (gradient,) = torch.autograd.grad(residual.read(state, 4)[0, 2].sum(), x)
    assert gradient[0, 2].abs().min() > 0
    assert not gradient[0, [0, 1, 3]].any()


@pytest.mark.parametrize("heads", [1, 2])
def test_pixels_are_tokens(heads):
    states = normal(4, 2, 3, 5, WIDTH)
    qkv = normal(3 * WIDTH, WIDTH, seed=1)
    images = [x.movedim(-1, 1) for x in states]
    ours = depth_attention(images, qkv, heads=heads, channel_dim=1)
    expected = depth_attention(states.unbind(), qkv, heads=heads)
    torch.testing.assert_close(ours.movedim(1, -1), expected, **EXACT)


@pytest.mark.parametrize(("mode", "equal"), [("add", True), ("replace", False)])
def test_only_an_added_read_starts_plain(mode, equal):
    residual = build("depth_swa", width=WIDTH, mode=mode)
    x, weights = normal(2, 3, WIDTH), branch_weights(width=WIDTH)
    gap = stack(residual, x, weights) - stack(build("add", width=WIDTH), x, weights)
    assert residual.equals_prenorm_at_init is equal
    assert (gap.abs().max().item() == 0) is equal


def test_a_fresh_output_projection_can_leave_zero():
    residual = build("depth_swa", width=WIDTH)
    weights = branch_weights(width=WIDTH)
    stack(residual, normal(2, 3, WIDTH), weights).square().sum().backward()
    assert residual.out.grad.abs().amax((1, 2)).min() > 0


def test_a_single_branch_has_no_depth_to_look_at():
    residual = build("depth_swa", sites=[Site("mlp", 0)], width=WIDTH)
    x, y = normal(2, WIDTH), normal(2, WIDTH, seed=1)
    state = residual.write(residual.open(x), 0, y, Context(x, x))
    assert list(residual.parameters()) == []
    torch.testing.assert_close(residual.close(state), x + y, **BITWISE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be at least 1 or None, got 0"),
        ({"heads": 4}, "heads must be a divisor of width=6, got 4"),
        ({"heads": 0}, "heads must be a divisor of width=6, got 0"),
        ({"mode": "sum"}, "mode must be .*'replace'.*got 'sum'"),
    ],
)
def test_a_bad_argument_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        build("depth_swa", width=WIDTH, **options)


def test_a_bad_mode_is_refused_by_the_class_itself():
    from archzoo.layers.residual import DepthSWA

    with pytest.raises(ValueError, match="mode must be 'add' or 'replace', got 'sum'"):
        DepthSWA(WIDTH, SITES, mode="sum")
