"""Pairs drawn evenly from all that are no known relation."""

import pytest
import torch
from archzoo.train.data import data_sets
from archzoo.train.data.graphs import EvenPairFold
from archzoo.zoo import create_model

KNOWN = torch.tensor([[0, 1], [1, 0], [2, 4], [4, 2], [3, 1]])


def fetch(fold, rounds=0):
    return fold.__getitems__([(rounds, i) for i in range(len(fold))])


def test_a_sample_is_a_true_pair_and_negatives_that_are_none():
    fold = EvenPairFold(KNOWN[:4], KNOWN, 5, 300)
    pairs, targets = fetch(fold)
    assert pairs.shape == (4, *fold.sample_shape) == (4, 301, 2)
    assert torch.equal(pairs[:, 0], KNOWN[:4]) and not targets.any()
    drawn = {tuple(pair) for pair in pairs[:, 1:].flatten(0, 1).tolist()}
    everything = {(u, v) for u in range(5) for v in range(5) if u != v}
    assert drawn == everything - {tuple(pair) for pair in KNOWN.tolist()}


def test_every_pair_that_is_left_is_as_likely():
    fold = EvenPairFold(KNOWN, KNOWN, 5, 3000)
    counts = (fetch(fold)[0][:, 1:].flatten(0, 1) @ torch.tensor([5, 1])).bincount()
    counts = counts[counts > 0]
    assert len(counts) == 15 and int(counts.sum()) == 15_000
    assert ((counts - 1000).abs() < 5 * 31).all()  # standard deviation of a count


def test_training_draws_anew_and_evaluation_does_not():
    one, other = EvenPairFold(KNOWN, KNOWN, 5, 20), EvenPairFold(KNOWN, KNOWN, 5, 20, draw=1)
    assert not torch.equal(fetch(one, 0)[0], fetch(one, 1)[0])
    assert torch.equal(fetch(one, 1)[0], fetch(one, 1)[0])
    assert torch.equal(fetch(other, 0)[0], fetch(other, 1)[0])


def test_a_graph_of_all_pairs_has_no_negative():
    whole = torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="every pair of nodes is a known relation"):
        EvenPairFold(whole, whole, 2, 1)


def test_a_file_of_edges_gives_pairs_to_a_graph_network_and_no_other_model(tmp_path):
    file = tmp_path / "ring.tsv"
    file.write_text("".join(f"{u}\t{(u + step) % 20}\n" for u in range(20) for step in (1, 2)))
    splits = data_sets.build("graph_links", path=str(file), even_pairs=True, negatives=3)
    assert splits.shape == (4, 2)
    x, _ = fetch(splits.test)
    known = {tuple(pair) for pair in splits.test.known.tolist()}
    assert not known & {tuple(pair) for pair in x[:, 1:].flatten(0, 1).tolist()}
    model = create_model("gcn_nano", num_classes=None, **splits.graph.sizes())
    assert model(x).shape == (len(x), 4)
    with pytest.raises(ValueError, match="a node and its candidates, got shape"):
        create_model("poincare_embedding", num_nodes=20)(x)
