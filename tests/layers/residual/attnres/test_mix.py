"""The laws of the depth mix, the equation of Attention Residuals, in float64."""

import math

import pytest
import torch
from archzoo.layers.residual.attnres.mix import depth_weights, mix
from torch import Tensor
from torch.nn import functional as F

from ..stacks import normal

N, D = 4, 7
EPS = 1e-6
BITWISE = {"rtol": 0.0, "atol": 0.0}
TOL = {"rtol": 0.0, "atol": 1e-13}  # some hundred roundings of float64 at unit scale
seeds = pytest.mark.parametrize("seed", range(3))


def sources(seed: int = 0) -> Tensor:
    """Four sources (4, 2, 3, D) of different sizes."""
    return normal(N, 2, 3, D, seed=seed) * torch.tensor([0.1, 1.0, 3.0, 1.0]).view(N, 1, 1, 1)


def query(seed: int = 0) -> Tensor:
    return normal(D, seed=100 + seed)


def keys(v: Tensor, eps: float = EPS) -> Tensor:
    return v * (v.square().mean(-1, keepdim=True) + eps).rsqrt()


@pytest.mark.parametrize("channel_dim", [-1, 1])
@pytest.mark.parametrize("competition", ["softmax", "sigmoid"])
@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_the_mixture_is_the_equation_written_out(heads, competition, channel_dim):
    v, u = normal(N, 2, 3, 8), normal(8, seed=1)
    expected = torch.zeros(2, 3, 8).double()
    for head in torch.arange(8).chunk(heads):
        s = [(u[head] * x[..., head]).sum(-1) / (x.square().mean(-1) + 0.1).sqrt() for x in v]
        total = sum(logit.exp() for logit in s)
        a = [logit.exp() / total if competition == "softmax" else logit.sigmoid() for logit in s]
        for weight, x in zip(a, v, strict=True):
            expected[..., head] += weight.unsqueeze(-1) * x[..., head]
    u = u if channel_dim == -1 else u.unsqueeze(-1)
    found = mix(
        [x.movedim(-1, channel_dim) for x in v],
        u,
        channel_dim=channel_dim,
        eps=0.1,
        heads=heads,
        competition=competition,
    )
    torch.testing.assert_close(found.movedim(channel_dim, -1), expected, **TOL)


@seeds
def test_a_zero_query_gives_the_mean(seed):
    v, zero = sources(seed), torch.zeros(D).double()
    torch.testing.assert_close(depth_weights(v, zero), torch.full((N, 2, 3, 1), 0.25).double())
    torch.testing.assert_close(mix(v, zero), v.mean(0), **TOL)


def test_one_source_is_returned_as_it_is():
    v = sources()[:1]
    torch.testing.assert_close(mix(list(v), 100 * query()), v[0], **BITWISE)
    torch.testing.assert_close(depth_weights(v, query()), torch.ones(1, 2, 3, 1).double())


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@seeds
def test_the_weights_lie_on_the_simplex(seed, scale):
    a = depth_weights(sources(seed), scale * query(seed))
    assert a.shape == (N, 2, 3, 1)
    assert (a >= 0).all()
    torch.testing.assert_close(a.sum(0), torch.ones(2, 3, 1).double(), **TOL)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@seeds
def test_the_mixture_is_no_longer_than_the_longest_source(seed, scale):
    v = sources(seed)
    assert (mix(v, scale * query(seed)).norm(dim=-1) <= v.norm(dim=-1).amax(0) + 1e-13).all()


@seeds
def test_permuting_the_sources_permutes_the_weights_and_keeps_the_mixture(seed):
    v, q, order = sources(seed), query(seed), [2, 0, 3, 1]
    torch.testing.assert_close(depth_weights(v[order], q), depth_weights(v, q)[order], **TOL)
    torch.testing.assert_close(mix(v[order], q), mix(v, q), **TOL)


@seeds
def test_without_epsilon_the_size_of_a_source_moves_no_weight(seed):
    v, q = sources(seed), query(seed)
    factors = torch.tensor([1e-6, 3.0, 1.0, 1e6]).double().view(N, 1, 1, 1)
    torch.testing.assert_close(
        depth_weights(factors * v, q, eps=0.0), depth_weights(v, q, eps=0.0), **TOL
    )
    assert (mix(factors * v, q, eps=0.0) - mix(v, q, eps=0.0)).abs().max() > 1.0


def test_the_sign_of_a_source_matters():
    v, q = sources(), query()
    flipped = v * torch.tensor([1.0, -1.0, 1.0, 1.0]).view(N, 1, 1, 1)
    assert (depth_weights(flipped, q) - depth_weights(v, q)).abs().max() > 0.1


@seeds
def test_it_is_dot_product_attention_over_depth_with_rms_keys_and_scale_one(seed):
    v, q = sources(seed), query(seed)
    depth_last = v.permute(1, 2, 0, 3)
    expected = F.scaled_dot_product_attention(
        q.expand(2, 3, 1, D), keys(depth_last), depth_last, scale=1.0
    )
    torch.testing.assert_close(mix(v, q), expected.squeeze(2), **TOL)


@seeds
def test_a_logit_is_bounded_by_the_query_and_reaches_the_bound_along_it(seed):
    q = query(seed)
    v = torch.stack([torch.zeros(D).double(), *normal(50, D, seed=seed), 5 * q])
    a = depth_weights(v, q, eps=1e-300)  # the zero source has logit 0, so a_i / a_0 = exp(s_i)
    logits = (a.log() - a[0].log()).squeeze(-1)
    bound = q.norm() * math.sqrt(D)
    assert (logits.abs() <= bound * (1 + 1e-13)).all()
    torch.testing.assert_close(logits[-1], bound, rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.1])
@seeds
def test_the_gradients_have_the_closed_form(seed, eps):
    v, u, g = sources(seed).requires_grad_(), query(seed).requires_grad_(), normal(2, 3, D, seed=7)
    h = mix(v, u, eps=eps)
    dv, du = torch.autograd.grad(h, [v, u], g)
    with torch.no_grad():
        a = depth_weights(v, u, eps=eps)
        r = (v.square().mean(-1, keepdim=True) + eps).rsqrt()
        s = r * (v * u).sum(-1, keepdim=True)
        d = a * ((g * v).sum(-1, keepdim=True) - (g * h).sum(-1, keepdim=True))
        expected_v = a * g + d * (r * u - s * r**2 / D * v)
        expected_u = (d * r * v).sum((0, 1, 2))
    torch.testing.assert_close(dv, expected_v, rtol=1e-11, atol=1e-12)  # r reaches 40 here
    torch.testing.assert_close(du, expected_u, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("channel_dim", [-1, 1])
def test_the_gradient_is_the_gradient(channel_dim):
    v, u = normal(3, 2, 3, 4), normal(4, seed=1)
    if channel_dim == 1:
        v, u = v.mT.contiguous(), u[:, None]

    def mixture(v, u):
        return mix(list(v), u, channel_dim=channel_dim)

    assert torch.autograd.gradcheck(mixture, [v.requires_grad_(), u.requires_grad_()])


def test_a_zero_query_is_no_saddle():
    u = torch.zeros(D).double().requires_grad_()
    (gradient,) = torch.autograd.grad(mix(sources(), u), u, normal(2, 3, D))
    assert gradient.abs().max() > 0.1


def test_a_dead_source_changes_nothing_and_a_zero_source_does():
    v, q = sources(), query()
    dead = torch.zeros(2, 1, 1, dtype=torch.bool)
    more = torch.cat([v, normal(1, 2, 3, D, seed=5)])
    torch.testing.assert_close(mix(more, q, alive=[None] * N + [dead]), mix(v, q), **TOL)
    assert depth_weights(more, q, alive=[None] * N + [dead])[-1].abs().max() == 0
    with_zero = torch.cat([v, torch.zeros(1, 2, 3, D).double()])
    assert (mix(with_zero, q) - mix(v, q)).abs().max() > 0.01


def test_a_source_may_be_dead_for_one_sample_only():
    v, q = sources(), query()
    mask = torch.tensor([True, False]).view(2, 1, 1)
    mixed = mix(v, q, alive=[None, None, mask, None])
    torch.testing.assert_close(mixed[0], mix(v, q)[0], **TOL)
    torch.testing.assert_close(mixed[1], mix(v[[0, 1, 3]], q)[1], **TOL)


def test_a_dead_source_leaves_no_trace_in_the_gradients():
    v, q = sources().requires_grad_(), query().requires_grad_()
    dead = torch.zeros(2, 1, 1, dtype=torch.bool)
    dv, dq = torch.autograd.grad(mix(v, q, alive=[None, None, dead, None]), [v, q], normal(2, 3, D))
    assert dv[2].abs().max() == 0
    (expected,) = torch.autograd.grad(mix(v[[0, 1, 3]], q), q, normal(2, 3, D))
    torch.testing.assert_close(dq, expected, **TOL)


def test_a_common_shift_moves_the_mixture_by_itself_only_at_a_zero_query():
    v, q, t = sources(), query(), normal(D, seed=9)
    zero = torch.zeros_like(q)
    torch.testing.assert_close(mix(v + t, zero), mix(v, zero) + t, **TOL)
    assert (mix(v + t, q) - mix(v, q) - t).abs().max() > 0.01


def test_a_token_mixes_only_its_own_history():
    v, q = sources(), query()
    changed = v.clone()
    changed[:, 0, 1] += 1.0
    before, after = mix(v, q), mix(changed, q)
    assert not torch.equal(after[0, 1], before[0, 1])
    after[0, 1] = before[0, 1]
    torch.testing.assert_close(after, before, **BITWISE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_worked_out_in_float32_and_rounded_once(dtype):
    v, q = sources().to(dtype), query().to(dtype)
    assert depth_weights(v, q).dtype == torch.float32
    mixed = mix(v, q)
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed, mix(v.float(), q.float()).to(dtype), **BITWISE)


def test_a_large_half_precision_source_does_not_overflow():
    v = (1000 * torch.ones(2, 3, D)).half()  # its square is beyond float16
    torch.testing.assert_close(depth_weights(v, query().half()), torch.full((2, 3, 1), 0.5))
    torch.testing.assert_close(mix(v, query().half()), v[0], **BITWISE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wider_types_keep_their_own(dtype):
    v, q = sources().to(dtype), query().to(dtype)
    assert depth_weights(v, q).dtype == dtype
    assert mix(v, q).dtype == dtype
