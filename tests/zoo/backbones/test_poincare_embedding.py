"""A table of points as a model: its logits are distances, its loss is the paper's."""

import pytest
import torch
from archzoo.layers.hyperbolic import poincare
from archzoo.zoo import create_model
from torch.nn import functional as F

from ..small_models import build, trained

X = torch.tensor([[0, 1, 2, 3], [4, 12, 4, 0]])


@pytest.mark.parametrize("geometry", ["poincare", "euclidean"])
def test_the_logits_are_minus_what_the_distances_say(geometry):
    model = trained(build("poincare_embedding_nano", geometry=geometry, precision="float64"))
    found = model.distances(X[:, 0]).gather(1, X[:, 1:])
    expected = -(found if geometry == "poincare" else found.square())
    torch.testing.assert_close(model(X), expected, rtol=1e-10, atol=1e-12)
    # A node is at no distance from itself.
    assert model(X)[1, 1] == 0.0


def test_the_ball_has_the_curvature_it_was_given():
    model = trained(build("poincare_embedding_nano", curvature=0.5))
    points = model.points.detach()
    expected = poincare.distance(points[:, None], points, 0.5)
    torch.testing.assert_close(model.distances(torch.arange(13)), expected)


def test_flat_space_is_the_ball_of_no_curvature_up_to_the_factor_of_its_metric():
    # d = 2‖x − y‖ at the origin for every c, and everywhere as c goes to 0.
    flat = trained(build("poincare_embedding_nano", geometry="euclidean", precision="float64"))
    ball = build("poincare_embedding_nano", curvature=1e-10, precision="float64")
    with torch.no_grad():
        ball.points.copy_(flat.points)
    nodes = torch.arange(13)
    torch.testing.assert_close(ball.distances(nodes), 2 * flat.distances(nodes), rtol=1e-8, atol=0)


def test_descent_brings_a_tree_in_order():
    from archzoo.train.data import data_sets
    from archzoo.train.measures.reconstruction import reconstruction
    from geoopt.optim import RiemannianSGD

    splits = data_sets.build("tree", branching=3, depth=2)
    model = build("poincare_embedding_nano")
    optimizer = RiemannianSGD(model.parameters(), lr=1.0)
    fold = splits.train
    before = reconstruction(model.distances, fold.relations, fold.known, 13)
    for step in range(300):
        optimizer.zero_grad()
        inputs, targets = fold.__getitems__([(step, i) for i in range(len(fold))])
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    after = reconstruction(model.distances, fold.relations, fold.known, 13)
    # By chance a neighbour has half of about eleven non-neighbours before it.
    assert before["mean_rank"] > 3 and after["mean_rank"] < 1.3
    assert after["map"] > 0.9 > before["map"]
    # The root comes to lie nearest to the middle.
    assert model.points.norm(dim=1).argmin() == 0


def test_there_is_no_classifier_to_replace():
    model = build("poincare_embedding_nano")
    assert model.num_classes == model.default_cfg["num_classes"] == 0
    with pytest.raises(ValueError, match="NodeEmbedding ranks candidates and has no classifier"):
        model.reset_classifier(3)
    features = model.forward_features(X)
    assert torch.equal(model.forward_head(features, pre_logits=True), features)
    assert features.shape == (*X.shape, model.num_features)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_nodes": 1}, "num_nodes must be at least 2, got 1"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"curvature": 0.0}, "curvature must be a positive number"),
        ({"geometry": "lorentz"}, "geometry must be Literal"),
        ({"geometry": "euclidean", "curvature": 2.0}, "geometry=euclidean has no curvature"),
        ({"precision": "bfloat16"}, "precision must be Literal"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        create_model("poincare_embedding_nano", **options)


def test_a_node_without_candidates_is_refused():
    with pytest.raises(ValueError, match=r"a node and its candidates, got shape \(2, 1\)"):
        build("poincare_embedding_nano")(X[:, :1])
