"""Tangents of any finite size have a direction, which layers read at their cap."""

import pytest
import torch
from archzoo.layers.hyperbolic import (
    ClipTangent,
    MidpointBatchNorm,
    MidpointPool,
    PoincareConv2d,
    PoincareLinear,
    PoincareMLR,
    clip_tangent,
    poincare,
    velocity_to_tangent,
)
from archzoo.layers.hyperbolic.maths import ball
from archzoo.layers.hyperbolic.mobius_addition import mobius_add_tangents
from torch import Tensor, nn

from ..hyperbolic_paths import HAND_WRITTEN, take


class Sum(nn.Module):
    """The Möbius sum of a tangent with a fixed one, from either side."""

    def __init__(self, left: bool) -> None:
        super().__init__()
        self.left = left

    def forward(self, t: Tensor) -> Tensor:
        other = torch.linspace(-0.4, 0.5, t.numel(), dtype=t.dtype).view_as(t)
        pair = (t, other) if self.left else (other, t)
        return mobius_add_tangents(*pair, 0.7, dim=1)


IMAGE = (2, 6, 4, 4)
# Each with the shape that it takes.
LAYERS = {
    "linear": (lambda: PoincareLinear(6, 4, curvature=0.7), (5, 6)),
    "linear, velocity": (lambda: PoincareLinear(6, 4, curvature=0.7, output="velocity"), (5, 6)),
    "linear, angle": (lambda: PoincareLinear(6, 4, curvature=0.7, scale="angle"), (5, 6)),
    "linear, largest": (lambda: PoincareLinear(6, 4, curvature=0.7, largest=6.0), (5, 6)),
    "conv": (lambda: PoincareConv2d(6, 4, 3, padding=1, curvature=0.7, init="normal"), IMAGE),
    "conv, strides": (lambda: PoincareConv2d(6, 4, 1, stride=2, curvature=0.7), IMAGE),
    "conv, groups": (lambda: PoincareConv2d(6, 4, 3, groups=2, curvature=0.7), IMAGE),
    "norm": (lambda: MidpointBatchNorm(6, curvature=0.7), IMAGE),
    "norm, rows": (lambda: MidpointBatchNorm(6, curvature=0.7), (5, 6)),
    "pool": (lambda: MidpointPool(curvature=0.7), IMAGE),
    "head": (lambda: PoincareMLR(6, 4, curvature=0.7), (5, 6)),
    "head, clip": (lambda: PoincareMLR(6, 4, curvature=0.7, clip=2.0), (5, 6)),
    "clip": (lambda: ClipTangent(2.0), (5, 6)),
    "sum, left": (lambda: Sum(left=True), IMAGE),
    "sum, right": (lambda: Sum(left=False), IMAGE),
}
SIZES = [
    *((torch.float32, size) for size in (1e10, 1e15, 1e19, 1e25, 1e38)),
    *((torch.float64, size) for size in (1e19, 1e150, 1e300)),
]


def directions(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    torch.manual_seed(3)
    return nn.functional.normalize(torch.randn(shape, dtype=torch.float64), dim=1).to(dtype)


def run(layer: nn.Module, t: Tensor) -> list[Tensor]:
    t = t.detach().requires_grad_()
    out = layer(t)
    weights = torch.linspace(1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), [t, *layer.parameters()])]


@pytest.mark.parametrize(("dtype", "size"), SIZES, ids=lambda value: str(value))
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("path", ["definition", *HAND_WRITTEN])
def test_a_huge_tangent_is_that_of_its_direction_at_the_cap(
    path: str,
    name: str,
    dtype: torch.dtype,
    size: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take(path, monkeypatch)
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make().to(dtype)
    t = directions(shape, dtype)
    huge, far = run(layer, size * t), run(layer, 1e5 * t)
    assert all(x.isfinite().all() for x in huge)
    # Gradients by the input shrink as the input grows; those by parameters stay.
    huge[1], far[1] = huge[1].to(torch.float64) * size, far[1].to(torch.float64) * 1e5
    digits = 1e-3 if dtype == torch.float32 else 1e-8
    for found, expected in zip(huge, far, strict=True):
        scale = max(float(expected.abs().max()), 1e-30)
        torch.testing.assert_close(found / scale, expected / scale, rtol=digits, atol=digits)
    assert huge[0].flatten(1).any(1).all()


@pytest.mark.parametrize("path", ["definition", *HAND_WRITTEN])
def test_pixels_beside_a_huge_one_stay_what_they_are(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(path, monkeypatch)
    layer = PoincareConv2d(6, 4, 2, curvature=0.7)
    t = directions((1, 6, 4, 4), torch.float32)
    expected = layer(t)
    t[:, :, 0, 0] *= 1e30
    found = layer(t)
    torch.testing.assert_close(found[:, :, 1:], expected[:, :, 1:], rtol=0, atol=0)
    assert found.isfinite().all() and found[:, :, 0, 0].norm() > 1


@pytest.mark.parametrize("entry", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "pool"])
@pytest.mark.parametrize("path", ["definition", *HAND_WRITTEN])
def test_what_is_no_number_is_passed_on(
    path: str, name: str, entry: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(path, monkeypatch)
    make, shape = LAYERS[name]
    t = directions(shape, torch.float32)
    t[0] = entry
    assert not make()(t)[0].isfinite().any()


@pytest.mark.parametrize(("dtype", "size"), SIZES, ids=lambda value: str(value))
def test_velocities_have_tangents_at_any_size(dtype: torch.dtype, size: float) -> None:
    direction = directions((5, 6), dtype).double()
    found = velocity_to_tangent((size * direction).to(dtype), 0.25)
    angle = torch.tensor(size, dtype=torch.float64).log() + torch.tensor(2.0).log()
    torch.testing.assert_close(found.double(), angle * direction, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("radius", [1e-3, 2.0, 1e15, 1e30])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e12, 1e16, 1e20, 1e38])
def test_clipped_tangents_are_as_long_as_the_radius_or_as_they_were(
    size: float, radius: float
) -> None:
    t = size * directions((5, 6), torch.float32)
    found = clip_tangent(t, radius).double().norm(dim=-1)
    expected = t.double().norm(dim=-1).clamp_max(radius)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_origin_added_and_no_step_leave_a_point_to_the_last_digit(dtype: torch.dtype) -> None:
    sizes = torch.tensor([1e-20, 1e-3, 0.3, 0.7, 0.99, 0.9999], dtype=dtype)
    x = sizes[:, None, None] * directions((5, 6), dtype)
    origin = torch.zeros_like(x)
    for found in (poincare.mobius_add(x, origin, 1.0), poincare.expmap(x, origin, 1.0)):
        torch.testing.assert_close(found, x, rtol=0, atol=0)


@pytest.mark.parametrize("length", [0.3, 0.999, 1.0, 3.0, 1e30])
@pytest.mark.parametrize("name", ["mobius_add", "logmap", "expmap", "parallel_transport"])
def test_a_look_at_points_changes_no_digit(
    name: str, length: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = directions((5, 6), torch.float32)
    x, y = length * unit, length * unit.roll(1, 0)
    given = (x, y, unit) if name == "parallel_transport" else (x, y)
    function = getattr(poincare, name)

    def both() -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in given]
        out = function(*leaves, 1.0)
        return [out, *torch.autograd.grad(out.sum(), leaves)]

    looked = both()
    monkeypatch.setattr(ball, "is_seen_within", lambda *_: False)
    for found, expected in zip(looked, both(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
