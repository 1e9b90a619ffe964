"""Points of the ball as parameters: steps are geoopt's, and no step leaves the ball."""

import copy
import subprocess
import sys
from pathlib import Path

import geoopt
import pytest
import torch
from archzoo.layers.decay import decay_exclusions
from archzoo.layers.hyperbolic import MARGINS, poincare
from archzoo.layers.hyperbolic.embedding import PoincareEmbedding, distance_logits
from archzoo.layers.hyperbolic.geoopt_bridge.ball_manifold import Ball
from torch.nn import functional as F

C = 0.7
CLOSE = {"rtol": 1e-10, "atol": 1e-12}  # float64, some tens of roundings


def draw(*shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)


def points(*shape, seed=0, reach=0.9):
    """Points of the ball of curvature −C, up to `reach` of the radius."""
    x = draw(*shape, seed=seed)
    radii = torch.rand(*shape[:-1], 1, generator=torch.Generator().manual_seed(seed + 1))
    return reach * radii.double() / C**0.5 * F.normalize(x, dim=-1)


def oracle():
    return geoopt.PoincareBall(torch.tensor(C, dtype=torch.float64))


def norms(embedding):
    return embedding.points.detach().double().norm(dim=-1) * embedding.curvature**0.5


def test_the_logits_are_minus_the_distances_of_the_first_to_the_others():
    x = points(5, 4, 3)
    expected = -oracle().dist(x[:, :1], x[:, 1:])
    torch.testing.assert_close(distance_logits(x, C), expected, **CLOSE)


def test_cross_entropy_with_the_first_target_is_the_loss_of_the_paper():
    x = points(5, 4, 3)
    near = torch.exp(-oracle().dist(x[:, :1], x[:, 1:]))
    expected = -(near[:, 0] / near.sum(1)).log().mean()
    found = F.cross_entropy(distance_logits(x, C), torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(found, expected, **CLOSE)


def test_the_gradient_of_the_logits_is_the_gradient():
    x = points(2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: distance_logits(x, C), x)


@pytest.mark.parametrize("call", ["dist", "inner", "egrad2rgrad", "retr", "expmap", "transp"])
def test_the_manifold_is_geoopts_away_from_its_margin(call):
    ours, theirs = Ball(C), oracle()
    x, y, u, v = points(6, 3), points(6, 3, seed=5), 0.05 * draw(6, 3), 0.1 * draw(6, 3, seed=2)
    given = {"dist": (x, y), "inner": (x, u, v), "transp": (x, y, v)}.get(call, (x, u))
    shape = {"keepdim": True} if call == "inner" else {}  # geoopt's comes out (6, 6) without
    found, expected = (getattr(ball, call)(*given, **shape) for ball in (ours, theirs))
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("name", ["RiemannianSGD", "RiemannianAdam"])
def test_a_step_is_geoopts_on_its_own_ball(name):
    ours = PoincareEmbedding(6, 3, curvature=C, dtype=torch.float64)
    theirs = geoopt.ManifoldParameter(points(6, 3), manifold=oracle())
    ours.points.data.copy_(theirs.data)
    steps = [getattr(geoopt.optim, name)([p], lr=0.03) for p in (ours.points, theirs)]
    for i in range(5):
        for parameter, optimizer in zip((ours.points, theirs), steps, strict=True):
            optimizer.zero_grad()
            (parameter * draw(6, 3, seed=i)).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.points.data, theirs.data, **CLOSE)


def test_a_point_is_looked_up_by_its_number():
    embedding = PoincareEmbedding(6, 3)
    nodes = torch.tensor([[0, 5], [3, 3]])
    assert torch.equal(embedding(nodes), embedding.points.detach()[nodes])


@pytest.mark.parametrize("curvature", [1e-3, 1.0, 1e3])
def test_points_start_within_the_range_in_units_of_the_radius(curvature):
    embedding = PoincareEmbedding(4000, 3, curvature=curvature, init_range=1e-2)
    scaled = embedding.points.detach() * curvature**0.5
    assert scaled.abs().max() <= 1e-2 * (1 + 1e-6)
    # The standard deviation of a uniform number, known from 12,000 draws to about 1 %.
    assert scaled.std().item() == pytest.approx(1e-2 / 3**0.5, rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["RiemannianSGD", "RiemannianAdam"])
def test_points_stay_in_the_ball_through_a_thousand_random_steps(name, dtype):
    embedding = PoincareEmbedding(20, 3, curvature=C, dtype=dtype)
    optimizer = getattr(geoopt.optim, name)(embedding.parameters(), lr=1.0)
    g = torch.Generator().manual_seed(0)
    for step in range(1000):
        # Gradients of all sizes, and towards the boundary half of the time.
        size = 10.0 ** (step % 7 - 2)
        noise = torch.randn(20, 3, generator=g, dtype=torch.float64) * size
        pull = -size * F.normalize(embedding.points.detach().double(), dim=-1)
        embedding.points.grad = (noise + (step // 50 % 2) * 3 * pull).to(dtype)
        optimizer.step()
        assert norms(embedding).max() < 1
        assert embedding.points.isfinite().all()
    # Some went beyond where geoopt's own ball would have held them. One rounding of each
    # coordinate is allowed above the margin.
    margin, rounding = MARGINS[dtype], torch.finfo(dtype).eps
    assert 1 - max(4e-3, 2 * margin) < norms(embedding).max() < 1 - margin + 2 * rounding


@pytest.mark.parametrize("apart", [1e-4, 1e-2, 1.0])
def test_transport_keeps_its_digits_between_points_near_the_boundary(apart):
    x = poincare.expmap0(5.5 * F.normalize(draw(50, 3), dim=-1), 1.0)
    tangent = apart * F.normalize(draw(50, 3, seed=1), dim=-1) / poincare.conformal_factor(x, 1.0)
    y, v = poincare.expmap(x, tangent, 1.0), draw(50, 3, seed=2)
    exact = Ball().transp(x.float().double(), y.float().double(), v.float().double())
    found = Ball().transp(x.float(), y.float(), v.float()).double()
    # Room to the boundary is 3e-5 here, known in float32 to a part in 500.
    assert ((found - exact).norm(dim=-1) < 0.02 * exact.norm(dim=-1)).all()


@pytest.mark.parametrize(
    ("dtype", "reach", "spacing"), [(torch.float32, 12.2, 3e-3), (torch.float64, 21.4, 6e-8)]
)
def test_the_reach_and_the_spacing_of_points_are_as_documented(dtype, reach, spacing):
    embedding = PoincareEmbedding(1, 1, dtype=dtype)
    with torch.no_grad():
        embedding.points.fill_(1.0).copy_(embedding.points.manifold.projx(embedding.points))
    far = embedding.points.detach()[0]
    assert poincare.distance0(far, 1.0).item() == pytest.approx(reach, abs=0.05)
    gap = poincare.distance(far, far.nextafter(torch.zeros_like(far)), 1.0)
    # A number is rounded by at most half the gap to its neighbour.
    assert gap.item() / 2 == pytest.approx(spacing, rel=0.1)


def test_copies_casts_and_loading_keep_the_manifold():
    embedding = PoincareEmbedding(6, 3, curvature=C)
    with torch.device("meta"):
        empty = PoincareEmbedding(6, 3, curvature=C)
    assert empty.points.is_meta
    loaded = PoincareEmbedding(6, 3, curvature=C)
    loaded.load_state_dict(embedding.state_dict())
    far = copy.deepcopy(embedding)
    far.points.data.copy_(far.points.manifold.projx(torch.ones(6, 3) * 9))
    for other in (
        copy.deepcopy(far), copy.deepcopy(embedding).double(), empty.to_empty(device="cpu"), loaded
    ):  # fmt: skip
        assert isinstance(other.points, geoopt.ManifoldParameter)
        assert isinstance(other.points.manifold, Ball)
        assert other.points.manifold.curvature == C
    assert torch.equal(copy.deepcopy(far).points, far.points)
    assert torch.equal(loaded.points, embedding.points)
    assert not isinstance(embedding.state_dict()["points"], geoopt.ManifoldParameter)


def test_weight_decay_leaves_the_points_alone():
    assert decay_exclusions(PoincareEmbedding(6, 3)) == {"points"}


@pytest.mark.compiles
def test_the_compiler_takes_the_lookup_and_the_distances_whole():
    embedding = PoincareEmbedding(6, 3, curvature=C, init_range=0.3)
    nodes = torch.tensor([[0, 5, 1], [3, 2, 4]])

    def logits(nodes):
        return distance_logits(embedding(nodes), C)

    expected = logits(nodes)
    compiled = torch.compile(logits, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(nodes), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.processes
def test_importing_the_layers_does_not_import_geoopt():
    code = (
        "import sys, types\n"
        "package = types.ModuleType('archzoo')\n"
        f"package.__path__ = [{str(Path(__file__).parents[3])!r}]\n"
        "sys.modules['archzoo'] = package\n"
        "import archzoo.layers.hyperbolic.embedding\n"
        "assert 'geoopt' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_embeddings": 0}, "num_embeddings must be at least 1, got 0"),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1, got 0"),
        ({"curvature": -1.0}, "curvature must be a positive number c"),
        ({"init_range": 0.0}, r"init_range must lie in \(0, 1/√embedding_dim\)"),
        ({"init_range": 0.6}, "so that every point starts in the ball, got 0.6"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        PoincareEmbedding(**{"num_embeddings": 6, "embedding_dim": 3, **options})
