"""Hyper-connections are their equations, and start as n times the plain stream."""

import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.residual import Context

from ..stacks import SITES, WIDTH, branch_weights, build, fill, normal, stack, trained

TOL = {"rtol": 1e-11, "atol": 1e-11}  # some thousand roundings of float64, streams that grow
modes = pytest.mark.parametrize("dynamic", [False, True])
sizes = pytest.mark.parametrize("streams", [1, 2, 4, 5])


@modes
@sizes
def test_a_fresh_network_closes_as_n_times_the_plain_stream(streams, dynamic):
    x, weights = normal(2, 3, WIDTH), branch_weights()
    ours = build("hyper_connections", streams=streams, dynamic=dynamic)
    plain = stack(build("add"), x, weights)
    torch.testing.assert_close(stack(ours, x, weights), streams * plain, **TOL)


@modes
@sizes
def test_every_fresh_stream_is_the_plain_stream(streams, dynamic):
    x, ys = normal(2, 3, WIDTH), normal(len(SITES), 2, 3, WIDTH, seed=1)
    residual = build("hyper_connections", streams=streams, dynamic=dynamic)
    state = fill(residual, x, ys)
    plain = (x + ys.sum(0)).unsqueeze(-2).expand(-1, -1, streams, -1)
    torch.testing.assert_close(state.streams, plain, rtol=0.0, atol=1e-14)


@modes
def test_a_fresh_site_reads_the_stream_of_its_turn(dynamic):
    residual, streams = build("hyper_connections", dynamic=dynamic), normal(2, 3, 4, WIDTH)
    for site in range(len(SITES)):
        state = type(residual.open(normal(2, 3, WIDTH)))(streams)
        torch.testing.assert_close(
            residual.read(state, site), streams[:, :, site % 4], rtol=0.0, atol=1e-15
        )


def test_a_zero_scale_is_static():
    dynamic, static = (trained(build("hyper_connections", dynamic=d)) for d in (True, False))
    with torch.no_grad():
        static.static.copy_(dynamic.static)
        dynamic.scale.zero_()
    x, weights = normal(2, 3, WIDTH), branch_weights()
    torch.testing.assert_close(stack(dynamic, x, weights), stack(static, x, weights), **TOL)


def test_dynamic_connections_are_bounded_by_their_scale():
    residual = trained(build("hyper_connections"))
    with torch.no_grad():
        residual.weight.mul_(1e4)
        residual.scale.fill_(0.3)
    mixing = residual.mixing(normal(2, 3, 4, WIDTH), 2)
    static = residual.static[2]
    for ours, still in zip(mixing, (static[:, 0], static[:, -1], static[:, 1:-1].mT), strict=True):
        assert ((ours - still).abs() <= 0.3 + 1e-12).all()


def test_dynamic_connections_do_not_depend_on_the_length_of_a_stream():
    residual, streams = trained(build("hyper_connections")), 1e3 * normal(2, 3, 4, WIDTH)
    for a, b in zip(residual.mixing(streams, 1), residual.mixing(7 * streams, 1), strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-10)  # eps of 1e-6 beside 1e6


@modes
def test_a_look_ahead_changes_nothing(dynamic):
    residual = trained(build("hyper_connections", dynamic=dynamic))
    x, ys = normal(2, 3, WIDTH), normal(len(SITES), 2, 3, WIDTH, seed=1)
    ahead = residual.open(x)
    bare = residual.open(x)
    for site, y in enumerate(ys):
        torch.testing.assert_close(residual.read(ahead, site), residual.read(bare, site), **TOL)
        context = Context(x, x)
        ahead = residual.write(ahead, site, y, context)
        bare = type(bare)(residual.write(bare, site, y, context).streams)
    torch.testing.assert_close(residual.close(ahead), residual.close(bare), **TOL)


def test_a_stage_hands_on_the_mean_of_its_streams():
    residual = trained(build("hyper_connections"))
    state = fill(residual, normal(2, 3, WIDTH), normal(len(SITES), 2, 3, WIDTH, seed=1))
    after = residual.handoff(state, lambda t: 2 * t)
    mean = 2 * state.streams.mean(-2, keepdim=True).expand_as(state.streams)
    torch.testing.assert_close(after.streams, mean, **TOL)


@modes
def test_connections_are_initialised_as_the_paper_says(dynamic):
    residual = trained(build("hyper_connections", dynamic=dynamic))
    residual.reset_parameters()
    for site, static in enumerate(residual.static):
        assert torch.equal(static[:, 0], torch.eye(4).double()[site % 4])
        assert torch.equal(static[:, 1:-1], torch.eye(4).double())
        assert torch.equal(static[:, -1], torch.ones(4).double())
    assert (residual.weight is not None) == (residual.scale is not None) == dynamic
    if dynamic:
        assert not residual.weight.any()
        torch.testing.assert_close(
            residual.scale.detach(), torch.full((6, 2), 0.01).double(), rtol=1e-7, atol=0.0
        )
        assert {"static", "scale"} <= decay_exclusions(residual)


@pytest.mark.parametrize("streams", [0, -1])
def test_a_bad_argument_is_refused_by_name(streams):
    with pytest.raises(ValueError, match=f"streams must be at least 1, got {streams}"):
        build("hyper_connections", streams=streams)
