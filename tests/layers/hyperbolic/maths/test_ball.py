"""The Poincaré ball and the hyperboloid: laws of the geometry, and geoopt as the oracle."""

import warnings

import pytest
import torch
from archzoo.layers.hyperbolic import lorentz, poincare
from archzoo.layers.hyperbolic.maths import ball, radial
from torch.autograd import gradcheck, gradgradcheck

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import geoopt

DIM = 5
CURVATURES = [0.1, 1.0, 2.7]


def points(count: int, curvature: float, seed: int = 0, furthest: float = 0.95) -> torch.Tensor:
    """Draw float64 points of the ball with radii up to a share of its own."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(count, DIM, generator=generator, dtype=torch.float64)
    radii = furthest * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return directions / directions.norm(dim=-1, keepdim=True) * radii / curvature**0.5


def vectors(count: int, seed: int) -> torch.Tensor:
    """Draw float64 tangent vectors."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, DIM, generator=generator, dtype=torch.float64)


def oracle(curvature: float) -> geoopt.PoincareBall:
    """Return geoopt's ball in float64, made from a tensor: a float it would round to float32."""
    return geoopt.PoincareBall(c=torch.tensor(curvature, dtype=torch.float64))


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-10) -> None:
    """Compare in float64; 1e-10 leaves six digits of rounding for radii of 0.95."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["sinhc", "asinhc", "tanhc", "atanhc"])
def test_a_radial_function_is_its_closed_form_and_smooth_across_the_series(name):
    closed = {"sinhc": "sinh", "asinhc": "asinh", "tanhc": "tanh", "atanhc": "atanh"}[name]
    radius = torch.tensor([0.02, 0.0999, 0.1001, 0.3, 0.9], dtype=torch.float64)
    expected = getattr(torch, closed)(radius) / radius
    close(getattr(radial, name)(radius.square()), expected, 1e-14)
    square = torch.tensor([0.0, 1e-9, 0.0099, 0.0101, 0.5], dtype=torch.float64, requires_grad=True)
    assert gradcheck(getattr(radial, name), square, eps=1e-7, atol=1e-6)
    (slope,) = torch.autograd.grad(getattr(radial, name)(square).sum(), square, create_graph=True)
    third = {"sinhc": 1 / 6, "asinhc": -1 / 6, "tanhc": -1 / 3, "atanhc": 1 / 3}[name]
    assert slope[0].item() == pytest.approx(third, abs=1e-15)
    (bend,) = torch.autograd.grad(slope.sum(), square)
    assert bend.isfinite().all()


@pytest.mark.parametrize("curvature", CURVATURES)
class TestPoincare:
    """Every function against geoopt, float64."""

    def test_maps_at_the_origin_agree(self, curvature):
        x, t, theirs = points(32, curvature), vectors(32, 1), oracle(curvature)
        close(poincare.expmap0(t, curvature), theirs.expmap0(t, project=False))
        close(poincare.logmap0(x, curvature), theirs.logmap0(x))

    def test_maps_at_a_point_agree(self, curvature):
        x, y, v = points(32, curvature), points(32, curvature, 1), 0.3 * vectors(32, 2)
        theirs = oracle(curvature)
        close(poincare.expmap(x, v, curvature), theirs.expmap(x, v, project=False), 1e-9)
        close(poincare.logmap(x, y, curvature), theirs.logmap(x, y), 1e-9)

    def test_addition_gyration_and_transport_agree(self, curvature):
        x, y, v = points(32, curvature), points(32, curvature, 1), vectors(32, 2)
        theirs = oracle(curvature)
        close(poincare.mobius_add(x, y, curvature), theirs.mobius_add(x, y, project=False))
        close(poincare.gyration(x, y, v, curvature), theirs.gyration(x, y, v), 1e-9)
        close(poincare.parallel_transport(x, y, v, curvature), theirs.transp(x, y, v), 1e-9)

    def test_scaling_and_distances_agree(self, curvature):
        x, y, theirs = points(32, curvature), points(32, curvature, 1), oracle(curvature)
        factor = torch.tensor(0.7, dtype=torch.float64)
        close(
            poincare.mobius_scale(x, factor, curvature),
            theirs.mobius_scalar_mul(factor, x, project=False),
        )
        close(poincare.distance(x, y, curvature), theirs.dist(x, y), 1e-9)
        close(poincare.distance0(x, curvature), theirs.dist0(x), 1e-9)

    def test_midpoints_agree(self, curvature):
        x, theirs = points(12, curvature), oracle(curvature)
        weights = torch.rand(12, dtype=torch.float64)
        close(poincare.midpoint(x, curvature), theirs.weighted_midpoint(x), 1e-9)
        close(
            poincare.midpoint(x, curvature, weights[:, None]),
            theirs.weighted_midpoint(x, weights),
            1e-9,
        )

    def test_hyperplane_distances_agree(self, curvature):
        x, normal = points(16, curvature), vectors(3, 4)
        offset = torch.tensor([0.3, 0.0, -0.5], dtype=torch.float64)
        unit = normal / normal.norm(dim=-1, keepdim=True)
        through = poincare.expmap0(offset[:, None] * unit, curvature)
        theirs = oracle(curvature).dist2plane(x[:, None], through, unit, signed=True)
        expected = 2 * normal.norm(dim=-1) * theirs
        close(poincare.hyperplane_distance(x, normal, offset, curvature), expected, 1e-9)

    def test_logarithm_inverts_the_exponential(self, curvature):
        x, y, v = points(32, curvature), points(32, curvature, 1), 0.3 * vectors(32, 2)
        close(poincare.logmap0(poincare.expmap0(v, curvature), curvature), v)
        close(poincare.logmap(x, poincare.expmap(x, v, curvature), curvature), v, 1e-8)
        close(poincare.expmap(x, poincare.logmap(x, y, curvature), curvature), y, 1e-8)

    def test_addition_cancels_on_the_left_and_keeps_norms(self, curvature):
        x, y = points(32, curvature), points(32, curvature, 1)
        zero = torch.zeros_like(x)
        both = poincare.mobius_add(x, y, curvature)
        close(poincare.mobius_add(-x, both, curvature), y, 1e-9)
        close(poincare.mobius_add(zero, x, curvature), x)
        close(poincare.mobius_add(-x, x, curvature), zero)
        swapped = poincare.mobius_add(y, x, curvature)
        close(both.norm(dim=-1), swapped.norm(dim=-1))
        assert (both - swapped).abs().max() > 1e-2

    def test_translations_are_isometries_and_triangles_close(self, curvature):
        a, x, y = (points(32, curvature, seed) for seed in range(3))
        moved = [poincare.mobius_add(a, p, curvature) for p in (x, y)]
        direct = poincare.distance(x, y, curvature)
        close(poincare.distance(*moved, curvature), direct, 1e-8)
        detour = poincare.distance(x, a, curvature) + poincare.distance(a, y, curvature)
        assert (direct <= detour + 1e-12).all()

    def test_a_midpoint_is_between_and_moves_with_translations(self, curvature):
        a, x, y = (points(1, curvature, seed)[0] for seed in range(3))
        pair = torch.stack([x, y])
        middle = poincare.midpoint(pair, curvature)
        halves = [poincare.distance(p, middle, curvature) for p in (x, y)]
        close(halves[0], halves[1], 1e-9)
        close(2 * halves[0], poincare.distance(x, y, curvature), 1e-9)
        moved = poincare.midpoint(poincare.mobius_add(a, pair, curvature), curvature)
        close(moved, poincare.mobius_add(a, middle, curvature), 1e-9)
        close(poincare.midpoint(torch.stack([x, -x]), curvature), torch.zeros_like(x))
        close(poincare.midpoint(x.expand(7, -1), curvature), x)

    def test_the_hyperboloid_is_the_same_space(self, curvature):
        x, y = points(32, curvature), points(32, curvature, 1)
        far, near = (lorentz.from_poincare(p, curvature) for p in (x, y))
        square = lorentz.minkowski(far, far)
        close(square, torch.full_like(square, -1 / curvature), 1e-9)
        close(lorentz.to_poincare(far, curvature), x)
        close(lorentz.distance(far, near, curvature), poincare.distance(x, y, curvature), 1e-9)
        close(lorentz.logmap0(far, curvature), 2 * poincare.logmap0(x, curvature))
        close(
            lorentz.to_poincare(lorentz.midpoint(far, curvature), curvature),
            poincare.midpoint(x, curvature),
        )

    def test_the_hyperboloid_has_its_own_laws(self, curvature):
        x, y = (lorentz.from_poincare(points(32, curvature, s), curvature) for s in (0, 1))
        v = lorentz.logmap(x, y, curvature)
        close(lorentz.minkowski(x, v), torch.zeros(32, 1, dtype=torch.float64), 1e-8)
        close(lorentz.expmap(x, v, curvature), y, 1e-8)
        length = lorentz.minkowski(v, v).squeeze(-1)
        close(length, lorentz.squared_distance(x, y, curvature), 1e-8)
        carried = lorentz.parallel_transport(x, y, v, curvature)
        close(lorentz.minkowski(carried, carried).squeeze(-1), length, 1e-8)
        close(carried, -lorentz.logmap(y, x, curvature), 1e-8)
        space = vectors(32, 3)
        close(lorentz.logmap0(lorentz.expmap0(space, curvature), curvature), space)
        theirs = geoopt.Lorentz(k=torch.tensor(1 / curvature, dtype=torch.float64))
        close(lorentz.distance(x, y, curvature), theirs.dist(x, y), 1e-7)

    def test_gradients_are_right_with_respect_to_points_and_curvature(self, curvature):
        x, y = (points(2, curvature, seed, 0.8).requires_grad_() for seed in (0, 1))
        c = torch.tensor(curvature, dtype=torch.float64, requires_grad=True)
        for function in (
            poincare.mobius_add,
            poincare.squared_distance,
            poincare.logmap,
            poincare.expmap,
        ):
            assert gradcheck(function, (x, y, c), atol=1e-6)
        assert gradcheck(poincare.midpoint, (x, c), atol=1e-6)
        assert gradgradcheck(poincare.squared_distance, (x, y, c), atol=1e-5)


def test_flat_space_is_the_limit_of_small_curvature():
    x, y, c = points(8, 1.0), points(8, 1.0, 1), 1e-9
    close(poincare.mobius_add(x, y, c), x + y, 1e-7)
    close(poincare.distance(x, y, c), 2 * (x - y).norm(dim=-1), 1e-7)
    close(poincare.midpoint(x, c), x.mean(0), 1e-7)
    close(poincare.expmap(x, y, c), x + y, 1e-7)
    close(poincare.parallel_transport(x, y, y, c), y, 1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("radius", [0.0, 0.999])
def test_gradients_are_finite_at_the_origin_and_near_the_boundary(dtype, radius):
    x = torch.zeros(4, DIM, dtype=dtype)
    x[:, 0] = radius
    for function in (
        lambda p: poincare.logmap0(p, 1.0),
        lambda p: poincare.expmap0(p, 1.0),
        lambda p: poincare.mobius_add(p, p.detach(), 1.0),
        lambda p: poincare.distance(p, p.detach(), 1.0),
        lambda p: poincare.distance0(p, 1.0),
        lambda p: poincare.midpoint(p, 1.0),
        lambda p: poincare.logmap(p, 0.1 * p.detach() + 0.01, 1.0),
        lambda p: poincare.parallel_transport(p, 0.5 * p, p, 1.0),
    ):
        point = x.clone().requires_grad_()
        out = function(point)
        assert out.isfinite().all()
        (gradient,) = torch.autograd.grad(out.sum(), point)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", ball.MARGINS)
def test_points_stay_in_the_ball_through_a_thousand_random_steps(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(64, DIM, dtype=dtype)
    for _ in range(1000):
        step = torch.randn(64, DIM, generator=generator).to(dtype)
        x = poincare.mobius_add(x, poincare.expmap0(step, 1.0), 1.0)
        ball.check_points(x, 1.0)
        assert x.dtype == dtype
    assert poincare.logmap0(x, 1.0).isfinite().all()


@pytest.mark.parametrize("dtype", ball.MARGINS)
def test_a_margin_is_the_furthest_norm_and_an_argument(dtype):
    t = 1e4 * torch.ones(1, DIM, dtype=torch.float64).to(dtype)
    for margin in (None, 0.25):
        norm = poincare.expmap0(t, 4.0, margin=margin).double().norm().item()
        expected = 0.5 * (1 - (ball.default_margin(dtype) if margin is None else margin))
        assert norm == pytest.approx(expected, rel=2 * torch.finfo(dtype).eps)


def test_half_precision_is_computed_in_float32_under_autocast_too():
    x, y = points(16, 1.0).float(), points(16, 1.0, 1).float()
    normal = vectors(3, 1).float()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = poincare.hyperplane_distance(x, normal, torch.zeros(3), 1.0)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(
        mixed, poincare.hyperplane_distance(x, normal, torch.zeros(3), 1.0), rtol=0, atol=0
    )
    half = poincare.distance(x.bfloat16(), y.bfloat16(), 1.0)
    wide = poincare.distance(x.bfloat16().float(), y.bfloat16().float(), 1.0)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, wide.bfloat16(), rtol=0, atol=0)


def test_distances_keep_their_digits_near_the_boundary():
    # 12 units from the origin: 1 − ‖x‖² is 2.5e-5, of which float32 knows 2 digits and a half.
    x = poincare.expmap0(torch.tensor([[6.0, 0.0], [0.0, 6.0]], dtype=torch.float64), 1.0)
    exact = poincare.distance(x[0], x[1], 1.0)
    rounded = x.float()
    held = poincare.distance(rounded[0].double(), rounded[1].double(), 1.0)
    found = poincare.distance(rounded[0], rounded[1], 1.0)
    assert found.item() == pytest.approx(held.item(), rel=1e-3)
    assert found.item() == pytest.approx(exact.item(), rel=2e-3)


@pytest.mark.parametrize("over", [0, 1, (0, 1), (1, 2)])
def test_a_midpoint_is_taken_over_any_axes(over):
    x = points(24, 1.0).view(2, 3, 4, DIM)
    axes = (over,) if isinstance(over, int) else over
    assert poincare.midpoint(x, 1.0, over=over).shape == x.mean(axes).shape
    images = x.permute(0, 3, 1, 2)
    axis = {0: 0, 1: 2, 2: 3}
    found = poincare.midpoint(images, 1.0, over=tuple(axis[a] for a in axes), dim=1)
    expected = poincare.midpoint(x, 1.0, over=over)
    where = 1 if 0 not in axes else 0
    close(found, expected.movedim(-1, where), 1e-14)


@pytest.mark.compiles
def test_functions_compile_whole():
    x, y = points(8, 1.0).float(), points(8, 1.0, 1).float()

    def chain(x, y):
        z = poincare.mobius_add(x, y, 1.0)
        z = poincare.expmap(z, poincare.logmap(z, x, 1.0) / 2, 1.0)
        return poincare.distance(z, poincare.midpoint(torch.stack([x, y]), 1.0), 1.0)

    compiled = torch.compile(chain, fullgraph=True)
    torch.testing.assert_close(compiled(x, y), chain(x, y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("curvature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_curvature_that_is_not_positive_is_refused(curvature):
    with pytest.raises(ValueError, match="curvature must be a positive number"):
        poincare.expmap0(torch.zeros(1, 2), curvature)


def test_points_outside_the_ball_and_other_dtypes_are_refused():
    inside = torch.tensor([[0.5, 0.0]])
    ball.check_points(inside, 1.0)
    with pytest.raises(ValueError, match="1 points lie outside the ball of radius 1/√c"):
        ball.check_points(torch.tensor([[0.5, 0.0], [0.9, 0.9]]), 1.0)
    with pytest.raises(ValueError, match="hold NaN in 1 places"):
        ball.check_points(torch.tensor([[torch.nan, 0.0]]), 1.0)
    with pytest.raises(ValueError, match="must be of dtype"):
        poincare.expmap0(torch.zeros(1, 2, dtype=torch.int64), 1.0)
