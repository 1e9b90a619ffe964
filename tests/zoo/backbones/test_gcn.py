"""A graph convolutional network: its two tasks, its graph as a part of it, what it refuses."""

import math

import pytest
import torch
from archzoo.layers.graphs import LinkHead, fastrp_table
from archzoo.layers.hyperbolic import BallCurvature, space_points
from archzoo.zoo import create_model, save_model
from archzoo.zoo.certify import certify

from ...close import assert_close_in_scale
from ..small_models import trained

EDGES = torch.tensor([[0, 1], [1, 2], [2, 3], [4, 5]])
NODES = {"num_nodes": 6, "num_edges": 4}
PAIRS = torch.tensor([[0, 1, 5], [4, 5, 2]])


def on_graph(features=None, **options):
    """Return a small network on the graph of six nodes, no parameter of which is zero."""
    width = 0 if features is None else features.shape[1]
    torch.manual_seed(0)
    model = create_model("gcn_nano", **NODES, in_features=width, **options)
    model.follow_graph(EDGES, features)
    return trained(model).eval()


def node_features():
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("features", [None, node_features()], ids=["table", "features"])
def test_a_node_looks_as_far_as_there_are_layers(features):
    model = on_graph(features, depth=1)
    before = model.encode()
    with torch.no_grad():
        if features is None:
            model.stem.weight[0] += 1
        else:
            model.features[0] += 1
    moved = (model.encode() - before).abs().sum(1) > 1e-6
    assert moved.tolist() == [True, True, False, False, False, False]


def test_numbers_of_nodes_do_not_matter():
    features, order = node_features(), torch.tensor([3, 0, 5, 1, 4, 2])
    one, two = on_graph(features), on_graph(features)
    moved = torch.empty_like(features)
    moved[order] = features
    two.follow_graph(order[EDGES], moved)
    nodes = torch.arange(6)
    # float32 sums in another order.
    torch.testing.assert_close(two(order[nodes]), one(nodes), rtol=1e-5, atol=1e-5)


def test_branches_without_a_norm_are_added_layers_of_kipf_and_welling():
    features = node_features()
    model = on_graph(features, norm="none")
    adjacency = torch.eye(6)
    for u, v in EDGES.tolist():
        adjacency[u, v] = adjacency[v, u] = 1
    d = adjacency.sum(1)
    mean = adjacency / (d[:, None] * d).sqrt()
    h = model.stem(features)
    for branch in model.trunk.branches:
        h = h + (mean @ branch.linear(h)).relu()
    torch.testing.assert_close(model.encode(), h, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(torch.arange(6)), model.head(h), rtol=1e-5, atol=1e-5)


def test_links_are_the_odds_of_distances():
    model = on_graph(num_classes=None)
    assert isinstance(model.head, LinkHead) and model.logits_are_odds
    assert model.num_classes == 0
    points = model.encode()
    squared = (points[PAIRS[:, :1]] - points[PAIRS[:, 1:]]).square().sum(-1)
    expected = (model.head.radius - squared) / model.head.log_temperature.exp()
    torch.testing.assert_close(model(PAIRS), expected)
    found = model.distances(PAIRS[:, 0]).gather(1, PAIRS[:, 1:])
    torch.testing.assert_close(found, squared.sqrt())
    assert model(PAIRS).shape == (2, 2)


def test_links_may_be_the_odds_of_inner_products():
    model = on_graph(num_classes=None, decoder="inner_product")
    points = model.encode()
    inner = (points[PAIRS[:, :1]] * points[PAIRS[:, 1:]]).sum(-1)
    expected = inner * model.head.log_scale.exp() + model.head.bias
    assert model.logits_are_odds
    torch.testing.assert_close(model(PAIRS), expected)
    with pytest.raises(ValueError, match="num_classes=None and decoder='distance'"):
        model.distances(PAIRS[:, 0])


@pytest.mark.parametrize("decoder", ["distance", "inner_product"])
def test_a_node_with_candidates_is_as_many_pairs(decoder):
    model = on_graph(num_classes=None, decoder=decoder)
    pairs = torch.stack([PAIRS[:, :1].expand(-1, 2), PAIRS[:, 1:]], -1)
    assert torch.equal(model(pairs), model(PAIRS))


def test_a_table_starts_from_the_first_graph_and_is_kept_with_the_next(tmp_path):
    torch.manual_seed(0)
    model = create_model("gcn_nano", **NODES, num_classes=None, init="fastrp").eval()
    drawn = model.stem.weight.clone()
    torch.manual_seed(1)
    model.follow_graph(EDGES)
    torch.manual_seed(1)
    table = fastrp_table(EDGES, 6, 16)
    assert torch.equal(model.stem.weight, table) and not torch.equal(table, drawn)
    model.follow_graph(EDGES.flip(0))
    assert torch.equal(model.stem.weight, table)
    # What was trained and saved is no first graph.
    loaded = create_model(f"local-dir:{save_model(trained(model), tmp_path)}").eval()
    kept = loaded.stem.weight.clone()
    loaded.follow_graph(EDGES)
    assert torch.equal(loaded.stem.weight, kept)
    none = create_model("gcn_nano", num_nodes=6, num_edges=0, init="fastrp")
    before = none.stem.weight.clone()
    none.follow_graph(EDGES[:0])
    assert torch.equal(none.stem.weight, before)


@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("features", [None, node_features()], ids=["table", "features"])
def test_a_saved_network_has_its_graph_with_it(features, num_classes, tmp_path):
    model = on_graph(features, num_classes=num_classes)
    loaded = create_model(f"local-dir:{save_model(model, tmp_path)}").eval()
    x = PAIRS if num_classes is None else PAIRS[:, 0]
    assert torch.equal(loaded(x), model(x))
    assert torch.equal(loaded.edges, EDGES)


def test_a_model_that_was_told_no_graph_has_one_without_edges():
    torch.manual_seed(0)
    bare = create_model("gcn_nano", **NODES).eval()
    torch.manual_seed(0)
    none = create_model("gcn_nano", num_nodes=6, num_edges=0).eval()
    nodes = torch.arange(6)
    torch.testing.assert_close(bare(nodes), none(nodes))


# Curved spaces.

CURVED = pytest.mark.parametrize("geometry", ["poincare", "lorentz"])


@CURVED
def test_links_in_a_curved_space_are_the_odds_of_its_distances(geometry):
    model = on_graph(num_classes=None, geometry=geometry, curvature=0.5).double()
    points = model.encode()
    if geometry == "poincare":
        points = space_points.from_tangent(points, 0.5)
    squared = space_points.distance(points[PAIRS[:, :1]], points[PAIRS[:, 1:]], 0.5).square()
    expected = (model.head.radius - squared) / model.head.log_temperature.exp()
    torch.testing.assert_close(model(PAIRS), expected, rtol=1e-10, atol=1e-10)
    found = model.distances(PAIRS[:, 0]).gather(1, PAIRS[:, 1:])
    torch.testing.assert_close(found, squared.sqrt(), rtol=1e-10, atol=1e-10)


@CURVED
@pytest.mark.parametrize("features", [None, node_features()], ids=["table", "features"])
def test_a_flat_network_loads_into_a_curved_space_and_is_its_limit(geometry, features):
    # Rows that sum to one, since a centre of mass is of shares; time columns weigh √c.
    options = {"normalise": "row", "norm": "none", "num_classes": None}
    flat = on_graph(features, **options).double()
    curved = on_graph(features, geometry=geometry, curvature=1e-20, **options).double()
    missing, unknown = curved.load_state_dict(flat.state_dict(), strict=False)
    assert not unknown
    assert all(key.endswith(("time_weight", "curvature._extra_state")) for key in missing)
    torch.testing.assert_close(curved.encode(), flat.encode(), rtol=1e-8, atol=1e-8)


def test_without_biases_tangents_of_the_ball_make_the_flat_network_whatever_the_curvature():
    options = {"norm": "none", "num_classes": None}
    flat = on_graph(**options).double()
    curved = on_graph(geometry="poincare", curvature=0.3, **options).double()
    curved.load_state_dict(flat.state_dict(), strict=False)
    for model in (flat, curved):
        for branch in model.trunk.branches:
            torch.nn.init.zeros_(branch.linear.bias)
    torch.testing.assert_close(curved.encode(), flat.encode(), rtol=1e-10, atol=1e-10)


@CURVED
@pytest.mark.parametrize("num_classes", [None, 3])
def test_the_curvature_learns_and_is_saved(geometry, num_classes, tmp_path):
    model = on_graph(
        num_classes=num_classes, geometry=geometry, learned_curvature=True, normalise="row"
    )
    x = PAIRS if num_classes is None else PAIRS[:, 0]
    model(x).sum().backward()
    (ball,) = {part for part in model.modules() if isinstance(part, BallCurvature)}
    assert ball.log_ratio.grad.abs() > 0
    loaded = create_model(f"local-dir:{save_model(model, tmp_path)}").eval()
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("aggregate", ["midpoint", "tangent"])
@CURVED
def test_points_are_averaged_as_they_are_asked_to_be(geometry, aggregate):
    model = on_graph(geometry=geometry, aggregate=aggregate, norm="none", activation="none")
    own = {"poincare": "tangent", "lorentz": "midpoint"}[geometry]
    other = on_graph(geometry=geometry, norm="none", activation="none")
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.encode(), model.encode()) == (aggregate == own)


@pytest.mark.parametrize("geometry", ["euclidean", "poincare", "lorentz"])
def test_half_precision_is_near_the_whole(geometry):
    model = on_graph(node_features(), geometry=geometry)
    nodes = torch.arange(6)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(nodes)
    half.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    whole = model(nodes)
    # Eight bits of mantissa, through two layers.
    assert (half.float() - whole).norm() < 0.05 * whole.norm()


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("geometry", ["euclidean", "poincare", "lorentz"])
def test_a_compiled_network_is_the_same(geometry, num_classes):
    model = on_graph(
        geometry=geometry, num_classes=num_classes, learned_curvature=geometry != "euclidean"
    )
    x = PAIRS if num_classes is None else PAIRS[:, 0]
    plain = model(x)
    plain.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    torch._dynamo.reset()
    found = torch.compile(model, fullgraph=True)(x)
    found.square().sum().backward()
    assert_close_in_scale(found, plain, 1e-5)
    for name, p in model.named_parameters():
        assert_close_in_scale(p.grad, gradients[name], 1e-4, name)


def test_a_graph_that_is_changed_in_place_is_the_one_that_counts():
    model = on_graph()
    nodes, before = torch.arange(6), on_graph()(torch.arange(6))
    torch.testing.assert_close(model(nodes), before)
    other = torch.tensor([[0, 5], [1, 2], [2, 3], [4, 5]])
    model.edges.copy_(other)
    fresh = on_graph()
    fresh.follow_graph(other)
    assert torch.equal(model(nodes), fresh(nodes)) and not torch.equal(model(nodes), before)


@pytest.mark.parametrize("spec", ["sst", "maestro", "sltrain"])
@pytest.mark.parametrize("geometry", ["euclidean", "poincare", "lorentz"])
def test_weights_may_be_of_low_rank(spec, geometry):
    model = create_model("gcn_nano", **NODES, num_classes=None, lowrank=spec, geometry=geometry)
    model.follow_graph(EDGES)
    assert model.lowrank is not None
    model(PAIRS).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("num_classes", [None, 2])
@pytest.mark.parametrize("geometry", ["euclidean", "poincare", "lorentz"])
def test_a_certificate_is_none_with_its_reason(geometry, num_classes):
    certificate = certify(on_graph(num_classes=num_classes, geometry=geometry))
    assert certificate.lipschitz == math.inf
    assert any("reads integers" in reason for reason in certificate.reasons)


@pytest.mark.parametrize(
    ("options", "x", "message"),
    [
        ({"num_classes": None}, PAIRS[:, 0], r"a node and its candidates .* got shape \(2,\)"),
        ({"num_classes": None}, PAIRS[:, :1], r"reads a node and its candidates .*\(2, 1\)"),
        ({"num_classes": 2}, PAIRS, r"reads nodes \(B,\), got shape \(2, 3\)"),
    ],
)
def test_an_input_of_the_other_task_is_refused(options, x, message):
    with pytest.raises(ValueError, match=message):
        on_graph(**options)(x)


def test_a_graph_of_another_size_is_refused():
    model = create_model("gcn_nano", **NODES)
    with pytest.raises(ValueError, match=r"built for edges of shape \(4, 2\), got \(3, 2\)"):
        model.follow_graph(EDGES[:3])
    with pytest.raises(ValueError, match=r"features of shape None, got \(6, 5\)"):
        model.follow_graph(EDGES, node_features())
    with pytest.raises(ValueError, match=r"edges must join nodes in \[0, 6\), got 0 to 9"):
        model.follow_graph(EDGES.masked_fill(EDGES == 5, 9))
    with pytest.raises(ValueError, match=r"each once, got 4 of which 3 differ"):
        model.follow_graph(torch.tensor([[0, 1], [1, 2], [1, 0], [4, 5]]))
    model.follow_graph(torch.tensor([[0, 0], [0, 0], [1, 2], [4, 5]]))
    create_model("gcn_nano", num_nodes=6).follow_graph(EDGES[:0])


def test_a_model_of_links_has_no_classifier_to_replace():
    model = create_model("gcn_nano", num_classes=None)
    with pytest.raises(ValueError, match="has no classifier to replace"):
        model.reset_classifier(3)
    with pytest.raises(ValueError, match="has no classifier to replace"):
        model.use_head(lambda i, o: torch.nn.Linear(i, o))
    with pytest.raises(ValueError, match="distances are of a model of links"):
        create_model("gcn_nano").distances(torch.tensor([0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_nodes": 1}, "num_nodes must be at least 2, got 1"),
        ({"num_edges": -1}, "num_edges must be at least 0, got -1"),
        ({"norm": "batch"}, "norm must be Literal.*got 'batch'"),
        ({"drop_rate": 1.0}, r"drop_rate must lie in \[0, 1\), got 1.0"),
        ({"normalise": "column"}, "normalise must be .*'column'"),
        ({"aggregate": "midpoint"}, "geometry='euclidean' has one mean, got aggregate='midpoint'"),
        ({"aggregate": "sum", "geometry": "lorentz"}, "aggregate must be .*'sum'"),
        ({"curvature": 1.0}, "geometry='euclidean' has no curvature, got curvature=1.0"),
        ({"num_classes": None, "head": "mlr"}, "head='mlr' classifies nodes, and num_classes=None"),
        ({"decoder": "cosine"}, "decoder must be Literal.*got 'cosine'"),
        ({"decoder": "inner_product", "geometry": "lorentz"}, "is of flat space, got geometry=lor"),
        ({"init": "fastrp", "in_features": 3}, "init=fastrp fills a table; in_features=3"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        create_model("gcn_nano", **options)
