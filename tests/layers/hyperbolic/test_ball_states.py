"""What a cast, a state dict and its loading do to points and to curvatures."""

import copy
import io
import math

import geoopt
import pytest
import torch
from archzoo.layers.hyperbolic import (
    MARGINS,
    BallCurvature,
    MidpointBatchNorm,
    MidpointPool,
    PoincareConv2d,
    PoincareEmbedding,
    PoincareLinear,
    PoincareMLR,
    poincare,
)
from archzoo.layers.hyperbolic.geoopt_bridge.ball_manifold import Ball
from archzoo.layers.hyperbolic.maths.ball import as_number
from archzoo.layers.residual import GyroAttnRes, Mobius, Site
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional as F

NARROWER = [
    (torch.float64, torch.float32),
    (torch.float64, torch.bfloat16),
    (torch.float64, torch.float16),
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float16),
]
ROUTES = ["to", "load", "assign", "load then to", "meta"]


def tree(dtype: torch.dtype, c: float, count: int = 60) -> PoincareEmbedding:
    """A table whose points reach to the margin of its dtype, a third of them all the way."""
    table = PoincareEmbedding(count, 3, curvature=c, dtype=dtype)
    g = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(count, 3, generator=g, dtype=torch.float64), dim=-1)
    sizes = torch.linspace(0.1, 16.0, count, dtype=torch.float64)[:, None] / c**0.5
    with torch.no_grad():
        rounded = poincare.expmap0(sizes * directions, c).to(dtype)
        table.points.copy_(table.points.manifold.projx(rounded))
    return table


def moved(table: PoincareEmbedding, route: str, dtype: torch.dtype) -> PoincareEmbedding:
    """Bring a table to a dtype by one of the ways that torch has."""
    fresh = PoincareEmbedding(*table.points.shape, curvature=table.curvature, dtype=dtype)
    if route == "to":
        return copy.deepcopy(table).to(dtype)
    if route == "load":
        fresh.load_state_dict(table.state_dict())
    elif route == "assign":
        state = {k: v.to(dtype) if k == "points" else v for k, v in table.state_dict().items()}
        fresh.load_state_dict(state, assign=True)
    elif route == "load then to":
        wide = PoincareEmbedding(*table.points.shape, curvature=3.0, dtype=table.points.dtype)
        wide.load_state_dict(table.state_dict())
        return wide.to(dtype)
    else:
        with torch.device("meta"):
            fresh = PoincareEmbedding(*table.points.shape, curvature=table.curvature, dtype=dtype)
        fresh = fresh.to_empty(device="cpu")
        fresh.load_state_dict(table.state_dict())
    return fresh


@pytest.mark.parametrize("c", [0.3, 1.0])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("wide", "narrow"), NARROWER, ids=str)
def test_a_table_in_a_narrower_dtype_stays_in_the_ball_and_keeps_distances(wide, narrow, route, c):
    table = tree(wide, c)
    found = moved(table, route, narrow)
    assert found.points.dtype == narrow
    assert isinstance(found.points, geoopt.ManifoldParameter)
    assert isinstance(found.points.manifold, Ball)
    assert found.points.manifold.curvature == found.curvature == c
    assert found.points.requires_grad
    furthest = 1 - MARGINS[narrow] / 2
    assert (found.points.detach().double().norm(dim=-1) * c**0.5).max() < furthest
    # Against the same points, held at what the dtype reads and nothing else rounded.
    exact = poincare.expmap0(poincare.logmap0(table.points.double(), c), c, margin=MARGINS[narrow])
    expected = poincare.distance(exact[:, None], exact, c)
    nodes = torch.arange(len(exact))
    x = found(nodes)
    distances = poincare.distance(x[:, None], x, c)
    off = (distances.double() - expected).abs()
    # Rounding moves a point at the margin by some ε/margin, and it may stay at half the margin,
    # log 2 further out, at either end.
    assert off.max() * c**0.5 < 2 * math.log(2) + 4 * torch.finfo(narrow).eps / MARGINS[narrow]
    apart = ~torch.eye(len(exact), dtype=torch.bool)
    assert (distances[apart] > 0).all()
    (gradient,) = torch.autograd.grad(distances.sum(), found.points)
    # float16 ends at 65504, where slopes at the rim do not.
    assert gradient.isfinite().all() if narrow != torch.float16 else not gradient.isnan().any()


@pytest.mark.parametrize("dtype", MARGINS)
def test_a_table_is_loaded_and_moved_bit_for_bit_in_its_own_dtype(dtype):
    table = tree(dtype, 0.7)
    for route in ROUTES:
        assert torch.equal(moved(table, route, dtype).points, table.points), route


def test_a_table_of_plain_numbers_outside_the_ball_is_held_and_the_tensor_left_alone():
    given = torch.tensor([[3.0, 4.0], [0.1, 0.2]])
    table = PoincareEmbedding(2, 2)
    state = {**table.state_dict(), "points": given}
    for assign in (False, True):
        table.load_state_dict(state, assign=assign)
        expected = torch.tensor([[0.6, 0.8], [0.1, 0.2]])
        torch.testing.assert_close(table.points.detach(), expected, rtol=2e-5, atol=0)
        assert torch.equal(given, torch.tensor([[3.0, 4.0], [0.1, 0.2]]))


def test_assigned_points_that_need_no_move_are_the_tensor_itself():
    given = torch.tensor([[0.3, 0.4], [0.1, 0.2]])
    table = PoincareEmbedding(2, 2)
    table.load_state_dict({**table.state_dict(), "points": given}, assign=True)
    assert table.points.data_ptr() == given.data_ptr()
    theirs = geoopt.ManifoldParameter(given.clone(), manifold=geoopt.PoincareBall())
    table.load_state_dict({**table.state_dict(), "points": theirs}, assign=True)
    assert isinstance(table.points.manifold, Ball)
    assert isinstance(theirs.manifold, geoopt.PoincareBall)


def test_an_optimiser_still_moves_a_table_that_was_loaded():
    table = PoincareEmbedding(60, 3)
    optimizer = geoopt.optim.RiemannianSGD(table.parameters(), lr=0.1)
    table.load_state_dict(tree(torch.float64, 0.3).state_dict())
    before = table.points.detach().clone()
    poincare.distance0(table.points, table.curvature).sum().backward()
    optimizer.step()
    assert not torch.equal(before, table.points)
    assert (table.points.detach().norm(dim=-1) * 0.3**0.5).max() < 1 - 5e-6


def test_points_that_stay_outside_have_gradients_that_a_plain_optimiser_can_use():
    table = PoincareEmbedding(2, 2)
    with torch.no_grad():
        table.points.copy_(torch.tensor([[1.2, 0.0], [0.0, 0.3]]))
    far = poincare.distance(*table.points, 1.0)
    assert far.isfinite() and far > 12
    far.backward()
    assert table.points.grad.isfinite().all()
    assert table.points.grad[0, 0] > 0  # a step down goes towards the ball


OWNERS = {
    "BallCurvature": lambda c: c,
    "PoincareLinear": lambda c: PoincareLinear(4, 4, curvature=c, init="normal"),
    "PoincareConv2d": lambda c: PoincareConv2d(4, 4, 3, curvature=c, init="normal"),
    "PoincareMLR": lambda c: PoincareMLR(4, 4, curvature=c),
    "MidpointBatchNorm": lambda c: MidpointBatchNorm(4, curvature=c),
    "MidpointPool": lambda c: MidpointPool(curvature=c),
    "Mobius": lambda c: Mobius(4, [Site("mlp", 0)], curvature=c),
    "GyroAttnRes": lambda c: GyroAttnRes(4, [Site("mlp", 0)], curvature=c),
    "a network": lambda c: nn.Sequential(
        PoincareLinear(4, 4, curvature=c), MidpointBatchNorm(4, curvature=c), nn.ReLU(),
        PoincareMLR(4, 3, curvature=c),
    ),
}  # fmt: skip


def balls(module: nn.Module) -> list[BallCurvature]:
    """All curvatures of a module."""
    return [part for part in module.modules() if isinstance(part, BallCurvature)]


def through_bytes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Write and read a state as `torch.save` does, with nothing but tensors in it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("name", OWNERS)
def test_a_state_is_loaded_into_the_ball_it_was_saved_from(name, learned):
    saved = OWNERS[name](BallCurvature(0.1, learned=learned))
    for ball in balls(saved):
        if ball.log_ratio is not None:
            nn.init.constant_(ball.log_ratio, 0.146)
    built = OWNERS[name](BallCurvature(0.7, learned=learned))
    built.load_state_dict(through_bytes(saved.state_dict()))
    expected = 0.1 * torch.tensor(0.146).exp().item() if learned else 0.1
    assert balls(built)
    for ball in balls(built):
        assert as_number(ball()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_cast_does_not_round_the_curvature_of_a_state(dtype):
    layer = PoincareLinear(4, 4, curvature=0.1157).to(dtype)
    built = PoincareLinear(4, 4, curvature=0.9)
    built.load_state_dict(layer.state_dict())
    assert built.curvature() == 0.1157


def test_safetensors_keep_the_curvature(tmp_path):
    saved, built = (OWNERS["a network"](BallCurvature(c, learned=True)) for c in (0.1157, 0.7))
    save_model(saved, str(tmp_path / "weights"))
    load_model(built, str(tmp_path / "weights"))
    x = torch.randn(5, 4)
    assert torch.equal(built.eval()(x), saved.eval()(x))


@pytest.mark.parametrize("name", [n for n in OWNERS if n != "BallCurvature"])
def test_a_state_without_curvature_is_refused_unless_keys_may_be_missing(name):
    built = OWNERS[name](BallCurvature(0.7))
    old = {k: v for k, v in built.state_dict().items() if not k.endswith("_extra_state")}
    with pytest.raises(RuntimeError, match=r"Missing key.*curvature\._extra_state"):
        built.load_state_dict(old)
    report = built.load_state_dict(old, strict=False)
    assert len(report.missing_keys) == len(set(built.state_dict()) - set(old))
    assert all(ball() == 0.7 for ball in balls(built))
    kept = {k: v for k, v in built.state_dict().items() if k.endswith("_extra_state")}
    built.load_state_dict({**kept, **old})


@pytest.mark.parametrize("state", [torch.tensor(-1.0), torch.tensor([1.0, 2.0]), "0.3", None])
def test_a_curvature_state_that_is_no_positive_number_is_refused(state):
    with pytest.raises(ValueError, match="state of a curvature must be one positive number"):
        BallCurvature(1.0).load_state_dict({"_extra_state": state})
