"""The karate club, the disease, and what of a graph training may know."""

from collections import Counter

import pytest
import torch
from archzoo.train.data import data_sets
from archzoo.train.data.graphs import NodeFold
from archzoo.train.data.sets.disease import ill_nodes, spreading_tree

LINKS = ["karate_links", "disease_links"]
NODES = ["karate", "disease"]


def pairs(relations):
    return {(u, v) for u, v in relations.tolist()}


def fetch(fold, rounds=0):
    return fold.__getitems__([(rounds, i) for i in range(len(fold))])[0]


@pytest.mark.parametrize("name", LINKS)
def test_training_knows_the_edges_of_its_own_fold_alone(name):
    splits = data_sets.build(name)
    train, validation, test = (
        pairs(fold.relations) for fold in (splits.train, splits.validation, splits.test)
    )
    known = pairs(splits.graph.edges)
    assert known | {(v, u) for u, v in known} == train
    assert all(u < v for u, v in known)
    assert not train & validation and not train & test and not validation & test
    # Both directions of an edge are in one fold.
    for part in (train, validation, test):
        assert part == {(v, u) for u, v in part}
    assert pairs(splits.train.known) == train


@pytest.mark.parametrize("name", LINKS)
def test_evaluation_calls_no_edge_of_any_fold_false(name):
    splits = data_sets.build(name)
    true = set.union(*(pairs(f.relations) for f in (splits.train, splits.validation, splits.test)))
    for fold in (splits.validation, splits.test):
        for u, _, *negatives in fetch(fold).tolist():
            assert not {(u, v) for v in negatives} & true


def test_training_draws_a_held_out_edge_as_often_as_any_pair():
    # Neither always, which would teach them to be false, nor never, which would tell them apart.
    splits = data_sets.build("karate_links", negatives=50)
    train = pairs(splits.train.relations)
    held = pairs(splits.validation.relations) | pairs(splits.test.relations)
    drawn = [(u, v) for r in range(5) for u, _, *vs in fetch(splits.train, r).tolist() for v in vs]
    assert not set(drawn) & train
    of, neighbours = Counter(u for u, _ in drawn), Counter(u for u, _ in train)
    expected = sum(of[u] / (33 - neighbours[u]) for u, _ in held)
    # Some thousand draws, so a tenth is several standard deviations.
    assert sum(pair in held for pair in drawn) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", LINKS)
def test_another_split_holds_out_other_edges(name):
    one, two = (data_sets.build(name, split=split) for split in (0, 1))
    assert pairs(one.test.relations) != pairs(two.test.relations)
    whole = [pairs(torch.cat([f.relations for f in (s.train, s.validation, s.test)]))
             for s in (one, two)]  # fmt: skip
    assert whole[0] == whole[1]
    with pytest.raises(ValueError, match="split must be at least 0, got -1"):
        data_sets.build(name, split=-1)


def test_hierarchies_give_their_training_relations_as_a_graph():
    splits = data_sets.build("tree", held_out=0.2)
    expected = {(min(p), max(p)) for p in pairs(splits.train.relations)}
    assert pairs(splits.graph.edges) == expected and splits.graph.features is None


@pytest.mark.parametrize("name", NODES)
def test_five_splits_test_every_node_once(name):
    tested = torch.cat([data_sets.build(name, split=i).test.nodes for i in range(5)])
    splits = data_sets.build(name)
    assert tested.sort().values.tolist() == list(range(splits.graph.num_nodes))
    parts = [set(f.nodes.tolist()) for f in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == splits.graph.num_nodes


def test_a_fold_goes_over_its_nodes_as_often_as_it_is_told():
    fold = NodeFold(torch.tensor([7, 3]), torch.tensor([0, 1]), passes=3)
    assert len(fold) == 6
    nodes, labels = fold.__getitems__([(0, i) for i in range(6)])
    assert nodes.tolist() == [7, 3] * 3 and labels.tolist() == [0, 1] * 3
    with pytest.raises(ValueError, match="passes must be at least 1, got 0"):
        data_sets.build("karate", passes=0)
    with pytest.raises(ValueError, match="labels must be as many as nodes, 2: 1"):
        NodeFold(torch.tensor([7, 3]), torch.tensor([0]))


def test_the_club_is_zacharys():
    splits = data_sets.build("karate")
    assert splits.num_classes == 2 and len(splits.graph.edges) == 78
    degree = splits.graph.edges.flatten().bincount()
    assert (int(degree[0]), int(degree[33])) == (16, 17)  # the two who fell out
    folds = (splits.train, splits.validation, splits.test)
    halves = {int(n): int(h) for f in folds for n, h in zip(f.nodes, f.labels, strict=True)}
    assert (halves[0], halves[33]) == (0, 1) and sum(halves.values()) == 17


# The disease.


def test_a_tree_has_leaves_of_one_depth_and_children_of_a_range():
    parents = spreading_tree((2, 6), 3, 0)
    children = parents.bincount(minlength=len(parents) + 1)
    depth = [0]
    for parent in parents.tolist():
        depth.append(depth[parent] + 1)
    for node, count in enumerate(children.tolist()):
        assert (2 <= count <= 6) if depth[node] < 3 else count == 0
    assert torch.equal(parents, spreading_tree((2, 6), 3, 0))
    assert len(parents) != len(spreading_tree((2, 6), 3, 1)) or not torch.equal(
        parents, spreading_tree((2, 6), 3, 1)
    )


def test_no_child_of_a_healthy_node_is_ill_and_the_first_level_is():
    parents = spreading_tree((2, 6), 5, 0)
    ill = ill_nodes(parents, torch.zeros(len(parents) + 1, 4), 0.6, 1.0, 0)
    assert ill[0] and ill[1:][parents == 0].all()
    assert not ill[1:][~ill[parents]].any()


def test_the_rate_is_that_of_the_children_of_ill_nodes_and_features_move_it():
    parents = spreading_tree((3, 3), 7, 0)
    for shift in (0.0, 1.0):
        features = torch.full((len(parents) + 1, 4), shift / 2)  # Σ x / √F = shift
        ill = ill_nodes(parents, features, 0.6, 1.5, 0)
        below = ill[parents] & (parents != 0)
        rate = float(ill[1:][below].double().mean())
        expected = torch.tensor(0.6).logit().add(1.5 * shift).sigmoid().item()
        # Four standard deviations.
        spread = (expected * (1 - expected) / int(below.sum())) ** 0.5
        assert rate == pytest.approx(expected, abs=4 * spread)


def test_a_fifth_of_the_nodes_is_ill_as_in_the_published_files():
    shares = []
    for seed in range(5):
        about = data_sets.build("disease", seed=seed).about
        shares.append(about["ill"] / about["nodes"])
    assert 0.12 < sum(shares) / 5 < 0.28


def test_features_are_standard_normals():
    features = data_sets.build("disease", features=20).graph.features
    count = features.numel()
    assert features.dtype == torch.float32 and features.isfinite().all()
    assert float(features.mean()) == pytest.approx(0, abs=4 / count**0.5)
    assert float(features.var()) == pytest.approx(1, abs=4 * (2 / count) ** 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branching": (0, 2)}, r"branching must be the least and most children, got \[0, 2\]"),
        ({"branching": (3,)}, r"branching must be the least and most children, got \[3\]"),
        ({"depth": 0}, "depth must be at least 1 and seed 0, got depth=0, seed=0"),
        ({"branching": (9, 9), "depth": 8}, "make more than 100,000 nodes"),
        ({"rate": 1.0}, r"rate must lie in \(0, 1\), got 1.0"),
        ({"features": 0}, "features must be at least 1, got 0"),
        ({"split": 5}, r"split must lie in \[0, 4\], got 5"),
    ],
)
def test_a_disease_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        data_sets.build("disease", **options)
