"""Bounds around a sample hold for every point of its ball, and radii withstand attacks."""

import json
from typing import Any

import pytest
import torch
from archzoo.zoo import create_model
from archzoo.zoo.certify.certify_model import certify
from archzoo.zoo.certify.graph import Graph
from archzoo.zoo.certify.local import Ball, LocalBounds
from archzoo.zoo.certify.recording import RefusedError, graph_of
from torch import Tensor, nn

from .random_networks import Grammar, MaxMin

NORMS = ("l2", "linf")
FAST, SLOW, CHUNK = 40, 1000, 50


def draws(x: Tensor, eps: float, norm: str, count: int, seed: int = 0) -> Tensor:
    """Points of the balls (count, N, d), most of them on the edge; the first is the centre."""
    g = torch.Generator().manual_seed(seed)
    flat = x.flatten(1).double()
    moves = torch.randn(count, *flat.shape, generator=g, dtype=torch.float64)
    moves = moves.sign() if norm == "linf" else moves / moves.norm(dim=2, keepdim=True)
    size = torch.rand(count, 1, 1, generator=g, dtype=torch.float64).clamp_min(0.5) * 2 - 1
    size[0] = 0
    size[1 : count // 2] = 1
    return flat + eps * size * moves * (1 - 1e-12)


def walk(
    graph: Graph, x: Tensor, eps: float | Tensor, norm: str, widest: int = 2048
) -> LocalBounds:
    radius = torch.as_tensor(eps, dtype=torch.float64).expand(len(x))
    return LocalBounds(graph, Ball(x.double().flatten(1), radius, norm), widest=widest)


def units(graph: Graph) -> Tensor:
    return torch.eye(graph.nodes[graph.output].size, dtype=torch.float64)[None]


def check(graph: Graph, x: Tensor, eps: float, norm: str, widest: int, seed: int) -> None:
    """Compare the bounds of all nodes with what points of the ball show."""
    found = walk(graph, x, eps, norm, widest)
    eye = units(graph)
    low, high = found.lower(eye), -found.lower(-eye)
    points = draws(x, eps, norm, 120, seed)
    values = graph.values(points.flatten(0, 1).view(-1, *x.shape[1:]))
    parts = [v.view(len(points), len(x), -1) for v in values]
    assert (parts[graph.output] >= low).all()
    assert (parts[graph.output] <= high).all()
    for number, reach in found.reaches.items():
        slack = found.error[number][:, None] + 1e-300
        assert (parts[number] >= reach.low - slack).all()
        assert (parts[number] <= reach.high + slack).all()
        away = (parts[number] - reach.middle).norm(dim=2)
        assert (away <= reach.length * (1 + 1e-9) + slack[:, 0]).all()


def check_networks(seeds: range) -> None:
    checked = 0
    for seed in seeds:
        model, shape = Grammar(seed).network()
        x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
        try:
            graph = graph_of(model, x)
        except RefusedError:
            continue
        checked += 1
        for norm in NORMS:
            for eps, widest in ((1e-3, 2048), (0.1, 2048), (1.0, 2048), (0.1, 2)):
                check(graph, x, eps, norm, widest, seed)
    assert checked >= 0.9 * len(seeds)


@pytest.mark.long
def test_bounds_hold_at_every_point_of_a_ball():
    check_networks(range(FAST))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(FAST, FAST + SLOW, CHUNK))
def test_bounds_hold_at_every_point_of_a_ball_in_a_thousand_networks(start):
    check_networks(range(start, start + CHUNK))


NETWORKS = {
    "pool": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(16, 3),
    ),
    "overlap": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.MaxPool2d(3, 1, 1), nn.Flatten(), nn.Linear(108, 3)
    ),
    "sorts": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(128, 8), MaxMin(), nn.Linear(8, 5), MaxMin(), nn.Linear(5, 3)
    ),
    "norms": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(128, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 8),
        nn.LayerNorm((8,), 1e-3, bias=False), nn.Unflatten(1, (4, 2)), nn.GroupNorm(2, 4),
        nn.Flatten(), nn.Linear(8, 3),
    ),
    "softmax": lambda: nn.Sequential(nn.Flatten(), nn.Linear(128, 4), nn.Softmax(1)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_hold_for_images(name, norm, dtype):
    torch.manual_seed(0)
    model = NETWORKS[name]().to(dtype).eval()
    x = torch.randn(3, 2, 8, 8).to(dtype)
    graph = graph_of(model, x)
    for eps in (1e-4, 0.02, 0.5):
        check(graph, x, eps, norm, 2048, 1)


@pytest.mark.parametrize("name", ["mlp_nano", "resnet_nano", "poincare_mlp_nano"])
def test_bounds_hold_for_models_of_the_zoo(name):
    torch.manual_seed(0)
    options: dict[str, Any] = {}
    if "poincare" in name:
        options = {"geometry": "euclidean", "head": "linear", "residual": "skip_init"}
    if "resnet" in name:
        options = {"widths": (2, 4), "depths": (1, 1)}
    model = create_model(name, **options).eval()
    size = tuple(model.default_cfg["input_size"])
    x = torch.randn(2, *((1, 8, 8) if len(size) == 3 and size[0] == 1 else size))
    check(graph_of(model, x), x, 1e-3, "l2", 700, 1)


@pytest.mark.parametrize("norm", NORMS)
def test_one_linear_map_is_exact(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 6), nn.Linear(6, 4))
    x = torch.randn(5, 7)
    graph = graph_of(model, x)
    eps = torch.tensor([0.0, 1e-3, 0.1, 1.0, 100.0], dtype=torch.float64)
    found = walk(graph, x, eps, norm)
    double = model.double()
    matrix = double[1].weight @ double[0].weight
    dual = matrix.norm(dim=1) if norm == "l2" else matrix.abs().sum(1)
    exact = (double(x.double()) - eps[:, None] * dual).detach()
    torch.testing.assert_close(found.lower(units(graph)), exact, rtol=1e-8, atol=1e-8)
    assert (found.lower(units(graph)) <= exact + 1e-14).all()


def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network with layer norms and three classes that are learnt."""
    torch.manual_seed(0)
    y = torch.arange(60) % 3
    x = torch.randn(3, 6)[y] + 0.4 * torch.randn(60, 6)
    model = create_model("mlp_nano", in_features=6, num_classes=3, width=12, depth=2)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval(), x, y


@pytest.fixture(scope="module")
def learnt() -> tuple[nn.Module, Tensor, Tensor]:
    return trained()


@pytest.mark.parametrize("norm", NORMS)
def test_a_ball_of_no_size_has_the_value(learnt, norm):
    model, x, _ = learnt
    graph = graph_of(model, x)
    found = walk(graph, x, 0.0, norm)
    torch.testing.assert_close(found.lower(units(graph)), graph(x).detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_a_larger_ball_has_lower_bounds(learnt, norm):
    model, x, _ = learnt
    graph = graph_of(model, x)
    bounds = torch.stack([
        walk(graph, x, eps, norm).lower(units(graph)) for eps in (0.0, 1e-4, 1e-3, 1e-2, 0.1)
    ])  # fmt: skip
    # Lines are chosen for each ball: what is chosen in a larger one is rarely the better.
    assert (bounds.diff(dim=0) <= 1e-9).double().mean() > 0.99
    assert (bounds[-1] < bounds[0]).all()


def test_a_bound_does_not_depend_on_the_batch(learnt):
    model, x, _ = learnt
    graph = graph_of(model, x)
    found = walk(graph, x[:9], 0.02, "l2")
    together = found.lower(units(graph))
    for i in range(9):
        ball = Ball(x[i : i + 1].double(), torch.full((1,), 0.02, dtype=torch.float64), "l2")
        alone = LocalBounds(graph, ball).lower(units(graph))
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", NORMS)
def test_no_attack_succeeds_inside_a_local_radius(learnt, norm, dtype):
    model, x, y = learnt
    model = trained()[0].to(dtype)
    found = certify(
        model, x.to(dtype), y, method="local", norm=norm, eps=(0.01, 0.05), attack_steps=20,
        attack_restarts=2, estimate=False,
    )  # fmt: skip
    assert found.attack_violations == 0 and found.refuted is None and found.rigorous
    assert found.attacked_samples > 50 and found.relaxed is not None and found.relaxed.all()
    for eps, share in found.certified_accuracy.items():
        assert share <= found.attacked_accuracy[eps] <= found.clean_accuracy
    assert found.norm == norm and 0 < found.attack_margin < 1


def test_a_local_radius_is_no_smaller_than_the_global_one(learnt):
    model, x, y = learnt
    options = {"attack": False, "estimate": False}
    plain = certify(model, x, y, **options)
    local = certify(model, x, y, method="local", **options)
    assert (local.radius >= plain.radius).all() and plain.relaxed is None
    assert local.radius.median() > 3 * plain.radius.median()
    assert local.lipschitz == plain.lipschitz
    found = json.loads(json.dumps(local.to_dict()))
    assert found["norm"] == "l2" and len(found["relaxed"]) == len(x)
    assert "radii by local relaxation: 60" in str(local)


def test_a_linear_network_keeps_its_exact_radius():
    torch.manual_seed(0)
    model = nn.Linear(5, 2)
    x = torch.randn(6, 5)
    found = certify(model, x, method="local", attack=False, estimate=False)
    weight = model.weight.detach().double()
    gap = (weight[0] - weight[1]).norm()
    margin = (x.double() @ (weight[0] - weight[1]) + (model.bias[0] - model.bias[1]).double()).abs()
    torch.testing.assert_close(found.radius, (margin / gap).detach(), rtol=1e-7, atol=1e-9)
    cube = certify(model, x, method="local", norm="linf", attack=False, estimate=False)
    ratio = cube.radius / (margin / (weight[0] - weight[1]).abs().sum()).detach()
    # Bisection leaves a share of 0.02.
    assert (ratio <= 1 + 1e-9).all() and (ratio > 0.98).all()


def test_a_radius_is_found_where_the_gradient_has_nearly_vanished():
    model = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[20.0], [0.0]]))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    # The class changes at 0; the line along the gradient meets it 10^15 away.
    found = certify(model, torch.tensor([[1.0]]), method="local", attack=False, estimate=False)
    assert 0.01 < float(found.radius) < 1.0


def test_samples_without_a_finite_bound_have_no_radius_and_leave_the_others():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = graph_of(model, torch.randn(2, 3))
    x = torch.randn(2, 3)
    found = walk(graph, x, torch.tensor([torch.inf, 0.1]), "l2")
    both = found.lower(units(graph))
    assert (both[0] == -torch.inf).all()
    alone = walk(graph, x[1:], 0.1, "l2").lower(units(graph))
    torch.testing.assert_close(both[1:], alone, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "linf"}, "norm='linf' is for method='local'"),
        ({"norm": "l1", "method": "local"}, "norm must be"),
        ({"method": "crown"}, "'auto', 'product' or 'local'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        certify(nn.Linear(2, 2), torch.randn(2, 2), **options)


def test_a_certificate_around_samples_needs_samples():
    with pytest.raises(ValueError, match="give x"):
        certify(nn.Linear(2, 2), method="local")
