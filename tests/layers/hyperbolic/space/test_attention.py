"""Attention of points: the literal sums, its isometries and limits, recentring and decoding."""

import pytest
import torch
from archzoo.layers.hyperbolic import (
    BallCurvature,
    Centre,
    HyperbolicAttention,
    attend_lifted,
    centre_of,
    covector,
    hyperbolic_attention,
    lift,
    lorentz,
    poincare,
)
from archzoo.layers.hyperbolic import space_points as points
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

from ..hyperbolic_paths import HAND_WRITTEN, take
from .drawn_points import CURVATURES, LAW, draw, grads, leaf, moved, spread

ALL_CURVATURES = pytest.mark.parametrize("c", CURVATURES)
PATHS = ["definition", *HAND_WRITTEN]
C = 0.3
B, H, T, D = 2, 3, 6, 4


def heads(c: float = C, radii: float = 1.5, t: int = T, d: int = D) -> list[Tensor]:
    """Draw queries, keys and values."""
    return [spread(B, H, t, d, c=c, seed=seed, radii=radii) for seed in range(3)]


def literal(q, k, v, c, *, mask=None, score="inner", aggregate="centroid", gain=1.0) -> Tensor:
    """Attention as it is published: points with their times, scores and weights written out."""
    full_q, full_k, full_v = (lorentz.from_space(s, c) for s in (q, k, v))
    if score == "inner":
        scores = lorentz.minkowski(full_q[..., :, None, :], full_k[..., None, :, :]).squeeze(-1)
    else:
        scores = -lorentz.distance(full_q[..., :, None, :], full_k[..., None, :, :], c)
    scores = gain * scores / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1)
    if aggregate == "tangent":
        mean = weights @ lorentz.logmap0(full_v, c)
        return lorentz.expmap0(mean, c)[..., 1:]
    mean = weights @ full_v
    return mean[..., 1:] / (c * -lorentz.minkowski(mean, mean)).sqrt()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("aggregate", ["centroid", "tangent"])
@pytest.mark.parametrize("score", ["inner", "distance"])
@ALL_CURVATURES
def test_it_is_the_literal_attention_in_outputs_and_gradients(
    c, score, aggregate, path, monkeypatch
):
    take(path, monkeypatch)
    inputs = [*(leaf(x) for x in heads(c)), leaf(c), leaf(draw(H, 1, 1, seed=4).exp() * c)]
    q, k, v, curvature, gain = inputs
    options = {"score": score, "aggregate": aggregate}
    ours = hyperbolic_attention(q, k, v, curvature, gain=gain, **options)
    theirs = literal(q, k, v, curvature, gain=gain, **options)
    torch.testing.assert_close(ours * c**0.5, theirs * c**0.5, **LAW)
    # The scores of the literal one lose the digits of its times; the scale of c is another.
    for x, found, expected in zip(
        inputs, grads(ours, *inputs), grads(theirs, *inputs), strict=True
    ):
        unit = expected.abs().max()
        torch.testing.assert_close(found / unit, expected / unit, rtol=1e-8, atol=1e-9, msg=str(x))


@ALL_CURVATURES
def test_moving_queries_and_keys_changes_nothing_and_moving_values_moves_the_output(c):
    q, k, v = heads(c)
    expected = moved(hyperbolic_attention(q, k, v, c), c, seed=7)
    found = hyperbolic_attention(moved(q, c), moved(k, c), moved(v, c, seed=7), c)
    torch.testing.assert_close(found * c**0.5, expected * c**0.5, **LAW)


def test_permuted_tokens_and_heads_give_permuted_outputs():
    q, k, v = heads()
    out = hyperbolic_attention(q, k, v, C)
    tokens, order = torch.tensor([3, 1, 5, 0, 2, 4]), torch.tensor([2, 0, 1])
    found = hyperbolic_attention(q[:, order][:, :, tokens], k[:, order], v[:, order], C)
    torch.testing.assert_close(found, out[:, order][:, :, tokens], **LAW)
    found = hyperbolic_attention(q, k[:, :, tokens], v[:, :, tokens], C)
    torch.testing.assert_close(found, out, **LAW)


def test_flat_space_weighs_by_half_squared_distances():
    q, k, v = (draw(B, H, T, D, seed=seed) for seed in range(3))
    scores = -torch.cdist(q, k).square() / 2 / D**0.5
    expected = scores.softmax(-1) @ v
    torch.testing.assert_close(hyperbolic_attention(q, k, v, 1e-12), expected, rtol=0, atol=1e-10)


def test_flat_space_has_plain_attention_of_keys_that_are_equally_long():
    q, k, v = (draw(B, H, T, D, seed=seed) for seed in range(3))
    k = F.rms_norm(k, (D,))
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(hyperbolic_attention(q, k, v, 1e-12), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("score", ["inner", "distance"])
def test_masks_hide_keys_and_a_query_that_sees_nothing_gives_the_origin(score):
    q, k, v = heads()
    mask = draw(B, 1, T, T, seed=8) > 0
    mask[..., 0] = True
    found = hyperbolic_attention(q, k, v, C, mask=mask, score=score)
    torch.testing.assert_close(found, literal(q, k, v, C, mask=mask, score=score), **LAW)
    bias = torch.zeros(B, 1, T, T).double().masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(
        hyperbolic_attention(q, k, v, C, mask=bias, score=score), found, **LAW
    )
    mask[0, 0, 2] = False
    q, k, v = leaf(q), leaf(k), leaf(v)
    out = hyperbolic_attention(q, k, v, C, mask=mask, score=score)
    assert not out[0, :, 2].any()
    assert all(gradient.isfinite().all() for gradient in grads(out, q, k, v))


@pytest.mark.parametrize("score", ["inner", "distance"])
def test_a_causal_token_sees_those_before_it_only(score):
    q, k, v = heads()
    mask = torch.ones(T, T, dtype=torch.bool).tril()
    found = hyperbolic_attention(q, k, v, C, causal=True, score=score)
    torch.testing.assert_close(found, literal(q, k, v, C, mask=mask, score=score), **LAW)
    other = [torch.cat([x[:, :, :3], -2 * x[:, :, 3:]], 2) for x in (q, k, v)]
    later = hyperbolic_attention(*other, C, causal=True, score=score)
    torch.testing.assert_close(later[:, :, :3], found[:, :, :3], **LAW)


@pytest.mark.parametrize("score", ["inner", "distance"])
def test_heads_of_keys_may_be_shared(score):
    q, k, v = heads()
    q = spread(B, 2 * H, T, D, c=C)
    repeated = [x.repeat_interleave(2, 1) for x in (k, v)]
    expected = hyperbolic_attention(q, *repeated, C, score=score)
    for centre in (None, centre_of(k, v, C)):
        found = hyperbolic_attention(q, k, v, C, score=score, grouped=True, centre=centre)
        torch.testing.assert_close(found, expected, **LAW)


def test_rotated_positions_leave_times_alone_and_score_by_their_differences():
    q, k, _ = heads()
    out = [
        covector(rotate(q, 3 + shift), C) @ lift(rotate(k, 5 + shift), C).mT for shift in (0, 11)
    ]
    torch.testing.assert_close(*out, **LAW)
    torch.testing.assert_close(lift(rotate(k, 5), C)[..., -1], lift(k, C)[..., -1], **LAW)


def rotate(s: Tensor, position: int) -> Tensor:
    """Rotate the pairs (i, i + D/2) of (…, D) by their angles at a position."""
    a, b = s.chunk(2, -1)
    angles = position * 10.0 ** -torch.arange(D // 2, dtype=torch.float64)
    return torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], -1)


class TestRecentring:
    """The kernel around another point."""

    @pytest.mark.parametrize("aggregate", ["centroid", "tangent"])
    @ALL_CURVATURES
    def test_any_centre_gives_the_same_outputs_and_gradients(self, c, aggregate):
        inputs = [*(leaf(x) for x in heads(c)), leaf(c)]
        plain = hyperbolic_attention(*inputs, aggregate=aggregate)
        expected = grads(plain, *inputs)
        anywhere = Centre(*(spread(B, H, 1, D, c=c, seed=seed) for seed in (11, 12)))
        for centre in (centre_of(*inputs[1:]), anywhere):
            found = hyperbolic_attention(*inputs, aggregate=aggregate, centre=centre)
            torch.testing.assert_close(found * c**0.5, plain * c**0.5, **LAW)
            for one, other in zip(grads(found, *inputs), expected, strict=True):
                unit = other.abs().max()
                torch.testing.assert_close(one / unit, other / unit, **LAW)

    @pytest.mark.parametrize("radii", [2.0, 4.0, 6.0])
    def test_half_precision_is_right_to_a_fiftieth_of_a_radius_far_out(self, radii):
        direction = F.normalize(draw(B, H, 1, 16, seed=3), dim=-1)
        centre = torch.tensor(radii).sinh() * direction
        spots = [0.5 * draw(B, H, 64, 16, seed=seed) / 4 for seed in range(3)]
        q, k, v = (points.boost(x, centre, 1.0).float() for x in spots)
        exact = hyperbolic_attention(q.double(), k.double(), v.double(), 1.0)
        core = HyperbolicAttention(H, curvature=1.0)
        with torch.autocast("cpu", torch.bfloat16):
            found = core(q, k, v)
        assert found.dtype == torch.float32
        assert points.distance(found.double(), exact, 1.0).max() < 2e-2
        core.recentre = False
        with torch.autocast("cpu", torch.bfloat16):
            plain = core(q, k, v)
        if radii >= 4:
            assert points.distance(plain.double(), exact, 1.0).max() > 2e-2

    def test_it_is_on_where_the_kernel_runs_in_half_precision(self):
        q, k, v = (x.float() for x in heads())
        automatic, forced = (HyperbolicAttention(H, recentre=option) for option in (None, True))
        torch.testing.assert_close(automatic(q, k, v), forced(q, k, v), rtol=1e-4, atol=1e-5)
        assert not torch.equal(automatic(q, k, v), forced(q, k, v))
        half = [x.bfloat16() for x in (q, k, v)]
        assert torch.equal(automatic(*half), forced(*half))
        assert automatic(*half).dtype == torch.bfloat16


@pytest.mark.parametrize("recentred", [False, True])
def test_decoding_token_by_token_is_decoding_at_once(recentred):
    q, k, v = heads()
    prompt = 2
    centre = centre_of(k[:, :, :prompt], v[:, :, :prompt], C) if recentred else None
    whole = hyperbolic_attention(q, k, v, C, causal=True, centre=centre)
    for t in range(prompt, T):
        now = [q[:, :, t : t + 1], k[:, :, : t + 1], v[:, :, : t + 1]]
        found = hyperbolic_attention(*now, C, centre=centre)
        torch.testing.assert_close(found, whole[:, :, t : t + 1], rtol=0, atol=1e-12)


def test_a_decoder_may_keep_its_keys_and_values_lifted():
    q, k, v = heads()
    whole = hyperbolic_attention(q, k, v, C, causal=True)
    kept_k, kept_v = (x.new_empty(B, H, 0, D + 1) for x in (k, v))
    for t in range(T):
        now = slice(t, t + 1)
        kept_k = torch.cat([kept_k, lift(k[:, :, now], C)], 2)
        kept_v = torch.cat([kept_v, lift(v[:, :, now], C)], 2)
        found = attend_lifted(covector(q[:, :, now], C), kept_k, kept_v, C)
        torch.testing.assert_close(found, whole[:, :, now], rtol=0, atol=1e-12)


def test_it_is_the_attention_of_the_ball_by_distances_and_gyromidpoints():
    q, k, v = (draw(B, H, T, D, seed=seed, size=0.6) for seed in range(3))
    balls = [poincare.expmap0(t, C) for t in (q, k, v)]
    far = poincare.distance(balls[0][..., :, None, :], balls[1][..., None, :, :], C)
    weights = (-far / D**0.5).softmax(-1)[..., None]
    expected = poincare.midpoint(
        balls[2][..., None, :, :].expand(-1, -1, T, -1, -1), C, weights, over=3
    )
    spaces = [points.from_tangent(t, C) for t in (q, k, v)]
    found = points.to_ball(hyperbolic_attention(*spaces, C, score="distance"), C)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", [(0, H, T, D), (B, H, T, 1), (B, H, 1, 5), (B, H, 0, D)])
def test_empty_and_odd_sizes(shape, path, monkeypatch):
    take(path, monkeypatch)
    inputs = [leaf(draw(*shape, seed=seed)) for seed in range(3)]
    out = hyperbolic_attention(*inputs, C)
    assert out.shape == shape
    if out.numel():
        torch.testing.assert_close(out, literal(*inputs, C), **LAW)
    for x, gradient in zip(inputs, grads(out, *inputs), strict=True):
        assert gradient.shape == x.shape and gradient.isfinite().all()


def test_gradients_are_those_of_differences():
    inputs = [leaf(draw(1, 2, 3, 2, seed=seed)) for seed in range(3)]
    inputs += [leaf(C), leaf(draw(2, 1, 1, seed=4).exp())]
    assert gradcheck(lambda q, k, v, c, g: hyperbolic_attention(q, k, v, c, gain=g), inputs)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e3])
@pytest.mark.parametrize("c", [1e-8, 1.0])
def test_values_and_gradients_are_finite_for_any_input(c, size, path, monkeypatch):
    take(path, monkeypatch)
    core = HyperbolicAttention(H, curvature=BallCurvature(c, learned=True))
    inputs = [draw(B, H, T, D, seed=seed).float().mul(size).requires_grad_() for seed in range(3)]
    out = core(*inputs)
    assert out.isfinite().all()
    found = torch.autograd.grad(out.square().sum(), [*inputs, *core.parameters()])
    assert all(gradient.isfinite().all() for gradient in found)


@pytest.mark.compiles
def test_compiled_code_computes_the_same():
    core = HyperbolicAttention(H, curvature=BallCurvature(C, learned=True)).double()
    inputs = [leaf(x) for x in heads()]
    compiled = torch.compile(core, fullgraph=True, backend="aot_eager")
    expected, found = core(*inputs), compiled(*inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    wanted = [*inputs, *core.parameters()]
    for one, other in zip(grads(found, *wanted), grads(expected, *wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


REFUSED = {
    "heads": (lambda q, k, v: HyperbolicAttention(0), "num_heads must be at least 1, got 0"),
    "score": (
        lambda q, k, v: HyperbolicAttention(H, score="dot"),
        "score must be 'inner' or 'distance', got 'dot'",
    ),
    "aggregate": (
        lambda q, k, v: hyperbolic_attention(q, k, v, C, aggregate="mean"),
        "aggregate must be 'centroid' or 'tangent', got 'mean'",
    ),
    "width": (
        lambda q, k, v: hyperbolic_attention(q, k[..., 1:], v, C),
        r"key has shape \(2, 3, 6, 3\), expected \(B, H, T, 4\)",
    ),
    "another number of heads": (
        lambda q, k, v: HyperbolicAttention(4)(q, k, v),
        r"query has shape \(2, 3, 6, 4\), expected \(B, 4, T, D\)",
    ),
    "curvature": (
        lambda q, k, v: hyperbolic_attention(q, k, v, 0.0),
        "curvature must be a positive number",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_meaning_is_refused_by_name(case):
    act, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        act(*heads())
