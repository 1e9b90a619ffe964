"""Laws of every function of points, in every dtype: inside, on the margin, outside, at no number.

A function is known by the names of its parameters, so one that is added is tested as it stands.
"""

import inspect
import itertools
import math

import pytest
import torch
from archzoo.layers.hyperbolic import MARGINS, lorentz, poincare, project
from archzoo.layers.hyperbolic.maths import coordinates
from torch import Tensor

DTYPES = list(MARGINS)
DIM = 3
FUNCTIONS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": (module, getattr(module, name))
    for module, names in (
        (poincare, poincare.__all__),
        (lorentz, lorentz.__all__),
        (coordinates, ["ball_to_velocity", "velocity_to_ball"]),
    )
    for name in names
    if inspect.isfunction(getattr(module, name))
}
NOT_POINTS = {"t", "v", "s", "velocity", "normal", "offset", "weights", "factor"}

# Norms in units of the radius; at the margin and beyond it depend on the dtype.
PLACES = ["origin", "tiny", "inside", "margin", "rounded out", "rim", "outside", "far out", "huge"]
SIZES = {"zero": 0.0, "tiny": 1e-30, "one": 1.0, "large": 1e4, "huge": 1e36}


def norm(place: str, dtype: torch.dtype) -> float:
    """Return the norm of a point of the unit ball at a place."""
    margin, largest = MARGINS[dtype], torch.finfo(dtype).max
    return {
        "origin": 0.0,
        "tiny": 1e-30,
        "inside": 0.5,
        "margin": 1 - margin,
        "rounded out": 1 - 0.6 * margin,
        "rim": 1.0,
        "outside": 1.5,
        "far out": 1e4,
        "huge": min(1e36, largest / 4),
    }[place]


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Draw float64 normals."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape: int, seed: int = 0) -> Tensor:
    """Draw directions; the first is an axis, whose norm is exactly one."""
    x = torch.nn.functional.normalize(draw(*shape, seed=seed), dim=-1)
    x[0] = torch.eye(shape[-1], dtype=torch.float64)[0]
    return x


def points(place: str, dtype: torch.dtype, c: float = 1.0, seed: int = 0) -> Tensor:
    """Points of the ball of curvature −c at a place, rounded to a dtype and nothing else."""
    return (unit(4, DIM, seed=seed) * norm(place, dtype) / c**0.5).to(dtype)


def arguments(
    module, function, place: str, size: str, dtype: torch.dtype, c: float
) -> list[Tensor | float]:
    """Return what a function takes, by the names of its parameters."""
    length = min(SIZES[size], torch.finfo(dtype).max / 4)
    other = points("inside", dtype, c, seed=1)
    made = {
        "x": points(place, dtype, c),
        "y": other,
        "t": length * unit(4, DIM, seed=2),
        "s": length * unit(4, DIM, seed=2),
        "velocity": length * unit(4, DIM, seed=2),
        "normal": length * unit(2, DIM, seed=3),
        "offset": torch.tensor([0.3, -0.2]),
        "factor": torch.tensor(length),
        "weights": None,
        "curvature": c,
    }
    if module is lorentz:
        made |= {
            "x": lorentz.from_poincare(made["x"], c),
            "y": lorentz.from_poincare(other, c),
        }
        if function.__name__ == "from_poincare":
            made["x"] = points(place, dtype, c)
        made["v"] = length * torch.nn.functional.pad(unit(4, DIM, seed=2), (1, 0))
    else:
        made["v"] = length * unit(4, DIM, seed=2)
    names = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return [value.to(dtype) if isinstance(value := made[n], Tensor) else value for n in names]


def called(function, given: list) -> tuple[Tensor, list[Tensor]]:
    """Call a function and return its value and the gradients of all its tensors."""
    inputs = [x.detach().requires_grad_() if isinstance(x, Tensor) else x for x in given]
    out = function(*inputs)
    wanted = [x for x in inputs if isinstance(x, Tensor)]
    return out, list(torch.autograd.grad(out.sum(), wanted))


def check_finite(name: str, dtype: torch.dtype, place: str, size: str, c: float) -> None:
    """Check values and gradients; what a function is linear in stays of ordinary length."""
    module, function = FUNCTIONS[name]
    linear = function.__name__ in LINEAR
    given = arguments(module, function, place, "one" if linear else size, dtype, c)
    out, gradients = called(function, given)
    assert out.dtype == dtype
    assert out.isfinite().all()
    for gradient in gradients:
        # float16 ends at 65504, where the slopes of the rim do not: too large, but no NaN.
        assert gradient.isfinite().all() if dtype != torch.float16 else not gradient.isnan().any()


LINEAR = {"gyration", "parallel_transport", "hyperplane_distance"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_finite_for_any_finite_input(name, dtype):
    for place in PLACES:
        check_finite(name, dtype, place, "one", 1.0)
    for size in SIZES:
        check_finite(name, dtype, "rim", size, 2.7)


@pytest.mark.slow
@pytest.mark.parametrize("c", [0.1, 1.0, 2.7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_finite_over_the_whole_grid(name, dtype, c):
    for place, size in itertools.product(PLACES, SIZES):
        check_finite(name, dtype, place, size, c)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_number_stays_none(name, dtype):
    module, function = FUNCTIONS[name]
    given = arguments(module, function, "inside", "one", dtype, 1.0)
    for i, value in enumerate(given):
        if not isinstance(value, Tensor):
            continue
        broken = value.clone()
        broken.flatten()[-1] = torch.nan
        out = function(*given[:i], broken, *given[i + 1 :])
        assert out.isnan().any(), f"argument {i}"
        # A row is a point; a midpoint has no rows, and a normal is every row's.
        if function.__name__ != "midpoint" and value.dim() and len(value) == 4:
            assert out[:3].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["expmap", "expmap0", "midpoint", "mobius_add", "mobius_scale"])
def test_a_result_that_is_a_point_lies_within_the_margin(name, dtype):
    function = getattr(poincare, name)
    # A rounding of each coordinate, and one of the norm.
    furthest = 1 - MARGINS[dtype] + 2 * torch.finfo(dtype).eps
    for place, size, c in itertools.product(PLACES, SIZES, (0.1, 2.7)):
        out = function(*arguments(poincare, function, place, size, dtype, c))
        assert (out.double().norm(dim=-1) * c**0.5).max() <= furthest


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", ["rounded out", "rim", "outside", "far out", "huge"])
def test_a_point_beyond_the_margin_is_as_far_as_one_on_it(place, dtype):
    for c in (0.1, 1.0, 2.7):
        x, y = points(place, dtype, c).requires_grad_(), points("inside", dtype, c, seed=1)
        held = project(x.double(), c, margin=MARGINS[dtype]).to(dtype).detach()
        reach = 2 * math.atanh(1 - MARGINS[dtype]) / c**0.5
        # The room left at the margin is known to a rounding of 1, some per cent of it.
        rounding = 2 * torch.finfo(dtype).eps / MARGINS[dtype] + torch.finfo(dtype).eps * reach
        for found, least in (
            (poincare.distance0(x, c), reach),
            (poincare.distance(x, y, c), poincare.distance(held, y, c).double()),
            (2 * poincare.logmap0(x, c).norm(dim=-1), reach),
            (poincare.distance(x[:1], -x[:1], c), reach),
        ):
            assert (found.double() >= least - 2 * rounding / c**0.5).all()
            assert found.isfinite().all()
            (gradient,) = torch.autograd.grad(found.sum(), x)
            assert not gradient.isnan().any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [60.0, 1e4, 1e30, None])
def test_a_huge_tangent_goes_to_the_rim_in_its_direction(size, dtype):
    largest = torch.finfo(dtype).max / 4
    directions = unit(4, DIM, seed=2)
    t = (directions * min(largest, size or largest)).to(dtype)
    rim = (1 - MARGINS[dtype]) * directions
    rounding = 4 * torch.finfo(dtype).eps
    for found in (
        poincare.expmap0(t, 1.0),
        poincare.expmap(torch.zeros_like(t), t, 1.0),
        coordinates.velocity_to_ball(t, 1.0) if size is None else poincare.expmap0(t, 1.0),
        lorentz.to_poincare(lorentz.expmap0(t, 1.0), 1.0),
        project(t, 1.0),
    ):
        torch.testing.assert_close(found.double(), rim, rtol=0, atol=rounding)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("c", [0.1, 1.0, 2.7])
def test_lengths_and_round_trips_agree_up_to_the_margin(c, dtype):
    margin, eps = MARGINS[dtype], torch.finfo(dtype).eps
    reach = 2 * math.atanh(1 - margin) / c**0.5
    radii = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None, None] * reach / 2
    # All pairs of nine distances and four directions, in opposite ones too.
    directions = torch.cat([unit(4, DIM), -unit(4, DIM)])
    table = poincare.expmap0((radii * directions).flatten(0, 1), c, margin=margin).to(dtype)
    x, y = table[:, None], table[None]
    far, log = poincare.distance(x, y, c), poincare.logmap(x, y, c)
    lengths = poincare.conformal_factor(x, c).squeeze(-1) * log.norm(dim=-1)
    room = eps / margin  # what a rounding of 1 is of the room at the margin
    torch.testing.assert_close(lengths, far, rtol=room, atol=8 * eps)
    from_origin = 2 * poincare.logmap0(table, c).norm(dim=-1)
    torch.testing.assert_close(from_origin, poincare.distance0(table, c), rtol=room, atol=8 * eps)
    # A place near the rim is known to a rounding of its room, and a direction to some ε, which the
    # way magnifies by sinh ρ.
    back = poincare.expmap(x.expand_as(log), log, c)
    missed = c**0.5 * poincare.distance(back, y.expand_as(back), c)
    assert (missed < 16 * room + 2 * (16 * eps * (c**0.5 * far).sinh()).asinh()).all()
    moved = poincare.mobius_add(-x, poincare.mobius_add(x, y, c), c)
    inner = poincare.distance0(poincare.mobius_add(x, y, c), c) < reach - 1 / c**0.5
    assert poincare.distance(moved, y.expand_as(moved), c)[inner].max() * c**0.5 < 16 * room
