"""What hyperbolic layers do with inputs of another shape, without points, or in half precision."""

from collections.abc import Callable

import pytest
import torch
from archzoo.layers.hyperbolic import (
    BallCurvature,
    ChangeBall,
    ClipTangent,
    FromBall,
    MidpointBatchNorm,
    MidpointPool,
    PoincareConv2d,
    PoincareLinear,
    PoincareMLR,
    PointActivation,
    ToBall,
    midpoint_batch_norm,
    midpoint_pool,
    mobius_add_tangents,
    poincare_conv2d,
    poincare_linear,
    poincare_mlr,
)
from archzoo.layers.hyperbolic._fast import fused_maps, fused_norm, fused_planes
from archzoo.zoo import create_model
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .hyperbolic_paths import HAND_WRITTEN, take

PATHS = [*HAND_WRITTEN, "definition"]


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Draw normals."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def ball() -> BallCurvature:
    return BallCurvature(0.3, learned=True)


class Sum(nn.Module):
    """Möbius addition of the tangents and half of them."""

    def forward(self, t: Tensor) -> Tensor:
        return mobius_add_tangents(t, t / 2, 0.3, dim=1)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: PoincareLinear(8, 6, curvature=ball()), (5, 8)),
    "linear without offset": (lambda: PoincareLinear(8, 6, bias=False), (5, 8)),
    "conv": (lambda: PoincareConv2d(4, 6, 3, curvature=ball()), (2, 4, 6, 5)),
    "conv of groups": (lambda: PoincareConv2d(4, 6, 3, groups=2), (2, 4, 6, 5)),
    "conv to velocities": (lambda: PoincareConv2d(4, 6, 3, output="velocity"), (2, 4, 6, 5)),
    "norm": (lambda: MidpointBatchNorm(4, curvature=ball()), (2, 4, 6, 5)),
    "norm of rows": (lambda: MidpointBatchNorm(4, momentum=None), (5, 4)),
    "norm of velocities": (lambda: MidpointBatchNorm(4, input="velocity"), (2, 4, 6, 5)),
    "norm on the last axis": (lambda: MidpointBatchNorm(4, dim=-1), (2, 3, 4)),
    "norm by the batch": (lambda: MidpointBatchNorm(4, track_running_stats=False), (5, 4)),
    "pool": (lambda: MidpointPool(curvature=ball()), (2, 4, 6, 5)),
    "classifier": (lambda: PoincareMLR(8, 6, curvature=ball(), clip=1.0), (5, 8)),
    "clip": (lambda: ClipTangent(1.0), (5, 8)),
    "to the ball": (lambda: ToBall(curvature=ball()), (5, 8)),
    "from the ball": (lambda: FromBall(curvature=ball()), (5, 8)),
    "activation": (lambda: PointActivation(nn.GELU(), curvature=ball()), (5, 8)),
    "another ball": (lambda: ChangeBall(ball(), 1.0, keep="shape"), (5, 8)),
    "sum": (Sum, (2, 4, 6, 5)),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_an_empty_batch_gives_an_empty_output_and_teaches_nothing(
    name, training, path, monkeypatch
):
    take(path, monkeypatch)
    build, shape = LAYERS[name]
    layer = build().train(training)
    width = layer(draw(*shape)).shape[1:]
    before = {key: value.clone() for key, value in layer.named_buffers()}
    t = draw(0, *shape[1:]).requires_grad_()
    out = layer(t)
    assert out.shape == (0, *width)
    for key, value in layer.named_buffers():
        assert torch.equal(value, before[key]), key
    inputs = [t, *layer.parameters()]
    for x, gradient in zip(inputs, torch.autograd.grad(out.sum(), inputs), strict=True):
        assert gradient.shape == x.shape
        assert not gradient.any()


@pytest.mark.parametrize("path", PATHS)
def test_a_single_point_of_a_training_batch_goes_to_the_learned_mean(path, monkeypatch):
    take(path, monkeypatch)
    layer = MidpointBatchNorm(4, curvature=0.3).double()
    with torch.no_grad():
        layer.mean.copy_(draw(4, seed=1))
    t = draw(1, 4, dtype=torch.float64).requires_grad_()
    out = layer(t)
    torch.testing.assert_close(out[0], layer.mean, rtol=0, atol=1e-9)
    assert float(layer.running_var) == pytest.approx(0.9)
    (gradient,) = torch.autograd.grad(out.sum(), t)
    assert gradient.abs().max() < 1e-6


C = 0.3
W, R = draw(6, 8), draw(6)
K = draw(6, 4, 3, 3)
REFUSED: dict[str, tuple[Callable[[], Tensor], str]] = {
    "linear": (lambda: PoincareLinear(8, 6)(draw(5, 7)), r"t has shape \(5, 7\), .*\(…, 8\)"),
    "linear of a number": (lambda: PoincareLinear(8, 6)(draw()), r"t has shape \(\), .*\(…, 8\)"),
    "weight": (lambda: poincare_linear(draw(5, 8), W[0], R, C), r"weight has shape \(8,\)"),
    "offset": (lambda: poincare_linear(draw(5, 8), W, R[:5], C), r"offset has shape \(5,\), .*6"),
    "conv": (
        lambda: PoincareConv2d(4, 6, 3)(draw(2, 5, 9, 9)),
        r"t has shape \(2, 5, 9, 9\), expected \(B, 4, H, W\)",
    ),
    "conv without a batch": (lambda: PoincareConv2d(4, 6, 3)(draw(4, 9, 9)), r"\(B, 4, H, W\)"),
    "conv of groups": (
        lambda: poincare_conv2d(draw(2, 4, 9, 9), K, R, C, groups=2),
        r"t has shape .*\(B, 8, H, W\)",
    ),
    "conv of groups that do not divide": (
        lambda: poincare_conv2d(draw(2, 16, 9, 9), K, R, C, groups=4),
        r"groups=4 must divide",
    ),
    "conv with a stride of 0": (
        lambda: poincare_conv2d(draw(2, 4, 9, 9), K, R, C, stride=0),
        r"stride must be at least 1, got \(0, 0\)",
    ),
    "conv with negative padding": (
        lambda: poincare_conv2d(draw(2, 4, 9, 9), K, R, C, padding=-1),
        r"padding must be at least 0, got \(-1, -1\)",
    ),
    "conv of a small image": (
        lambda: PoincareConv2d(4, 6, 3)(draw(2, 4, 2, 9)),
        r"t has shape \(2, 4, 2, 9\), too small for kernel \(3, 3\)",
    ),
    "norm": (
        lambda: MidpointBatchNorm(8)(draw(2, 16, 3, 3)),
        r"t has shape \(2, 16, 3, 3\), expected 8 channels on axis 1",
    ),
    "norm in evaluation": (
        lambda: MidpointBatchNorm(8).eval()(draw(2, 16)),
        r"expected 8 channels on axis 1",
    ),
    "norm of one axis": (lambda: MidpointBatchNorm(8)(draw(8)), r"at least 2 axes"),
    "norm on an axis that is not": (
        lambda: MidpointBatchNorm(8, dim=3)(draw(2, 8, 8)),
        r"channels on axis 3",
    ),
    "norm of integers": (
        lambda: MidpointBatchNorm(8)(torch.ones(2, 8, dtype=torch.int64)),
        r"dtype .*got torch.int64",
    ),
    "variances": (
        lambda: midpoint_batch_norm(draw(5, 6), R, draw(6).exp(), C),
        r"variance must be one number, got shape \(6,\)",
    ),
    "pool": (lambda: MidpointPool()(draw(2, 4, 5)), r"t has shape \(2, 4, 5\)"),
    "pool of nothing": (lambda: MidpointPool()(draw(2, 4, 0, 5)), r"something to average"),
    "pool over an axis that is not": (
        lambda: midpoint_pool(draw(2, 4), C, over=2),
        r"something to average",
    ),
    "classifier": (lambda: PoincareMLR(8, 6)(draw(5, 7)), r"t has shape \(5, 7\), .*\(…, 8\)"),
    "classifier's offsets": (lambda: poincare_mlr(draw(5, 8), W, R[:1], C), r"offset has shape"),
    "sum": (
        lambda: mobius_add_tangents(draw(5, 8), draw(5, 7), C),
        r"right has shape \(5, 7\), expected 8 channels on axis -1",
    ),
    "sum of rows and one": (
        lambda: mobius_add_tangents(draw(5, 8), draw(8), C),
        r"right has shape \(8,\), expected that of left, \(5, 8\)",
    ),
    "a curvature for each point": (
        lambda: poincare_linear(draw(5, 8), W, R, torch.full((5, 1), C)),
        r"curvature must be one number, got shape \(5, 1\)",
    ),
    "resnet without a batch": (
        lambda: create_model("poincare_resnet20")(draw(3, 32, 32)),
        r"t has shape \(3, 32, 32\), expected \(B, 3, H, W\)",
    ),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", REFUSED)
def test_another_shape_is_refused_in_one_line_on_every_path(name, path, monkeypatch):
    take(path, monkeypatch)
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", HAND_WRITTEN)
def test_a_transposed_batch_gives_what_its_copy_gives(path, monkeypatch):
    take(path, monkeypatch)
    layer = PoincareLinear(16, 4, curvature=ball(), init="normal")
    found = []
    for t in (draw(16, 5).mT, draw(16, 5).mT.contiguous()):
        t = t.detach().requires_grad_()
        out = layer(t)
        found.append([out, *torch.autograd.grad(out.square().sum(), [t, *layer.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("path", HAND_WRITTEN)
def test_a_curvature_for_each_point_is_taken_where_points_are_independent(path, monkeypatch):
    left, right = draw(3, 4, dtype=torch.float64), draw(3, 4, dtype=torch.float64, seed=1)
    curvature = torch.tensor([[0.1], [0.5], [2.0]], dtype=torch.float64)
    take(path, monkeypatch)
    found = mobius_add_tangents(left, right, curvature)
    for i in range(3):
        expected = mobius_add_tangents(left[i], right[i], float(curvature[i]))
        torch.testing.assert_close(found[i], expected)


MODELS = {"poincare_resnet_nano": (4, 3, 16, 16), "poincare_mlp_nano": (8, 64)}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_cast_to_half_precision_trains_or_is_refused(
    name, dtype, learned, path, monkeypatch
):
    take(path, monkeypatch)
    torch.manual_seed(0)
    model = create_model(name, learned_curvature=learned).to(dtype)
    x, y = draw(*MODELS[name], dtype=dtype), torch.arange(MODELS[name][0])
    if dtype == torch.float16 and "resnet" in name:
        with pytest.raises(ValueError, match="got float16.*cast to bfloat16 or use autocast"):
            model(x)
        return
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(b.isfinite().all() for b in model.buffers())
    assert model.eval()(x).isfinite().all()


@pytest.mark.parametrize("path", HAND_WRITTEN)
def test_a_backward_pass_inside_autocast_is_computed_as_the_forward_pass_is(path, monkeypatch):
    take(path, monkeypatch)
    layers = nn.Sequential(
        PoincareConv2d(4, 6, 3, output="velocity", init="normal"),
        MidpointBatchNorm(6, input="velocity"),
    )
    found = []
    for inside in (False, True):
        t = draw(2, 4, 6, 5).requires_grad_()
        out = layers(t).square().sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            found.append(torch.autograd.grad(out, [t, *layers.parameters()]))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_transformer_with_a_residual_of_the_ball_gives_one_gradient():
    model = create_model("vit_nano", residual="mobius").double()
    x = draw(2, 1, 8, 8, dtype=torch.float64).requires_grad_()
    inputs = [x, *model.parameters()]
    with sdpa_kernel(SDPBackend.MATH):  # whose second derivative torch has
        found = [
            torch.autograd.grad(model(x).square().sum(), inputs, create_graph=again)
            for again in (False, True)
        ]
        torch.autograd.grad(found[1][0].square().sum(), inputs, allow_unused=True)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_what_traces_sees_the_definition(monkeypatch):
    layers = nn.Sequential(PoincareConv2d(4, 6, 3, output="velocity"), MidpointBatchNorm(6)).eval()
    for module in (fused_maps, fused_norm, fused_planes):
        monkeypatch.setattr(module, "kernel_takes", lambda *given: pytest.fail("a kernel is asked"))
    t = draw(2, 4, 6, 5)
    with pytest.warns():  # of shapes that are checked, and of the way itself
        traced = torch.jit.trace(layers, t, check_trace=False)
    monkeypatch.undo()
    torch.testing.assert_close(traced(t), layers(t))
