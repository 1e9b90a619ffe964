"""What every data set promises that is made here, from no file of the user's."""

import json

import pytest
import torch
from archzoo.train.data import data_sets

MADE_HERE = [n for n in data_sets.names() if not {"root", "path"} & set(data_sets[n].options)]
FOLDS = ("train", "validation", "test")
every = pytest.mark.parametrize("name", MADE_HERE)
# A tree is learned by heart: all of its nodes are in every fold. Its relations, and those that are
# held out of a graph, have laws of their own.
SAMPLES = [name for name in MADE_HERE if data_sets[name].kind != "nodes"]


@every
def test_a_sample_is_a_function_of_its_key(name):
    one, two = data_sets.build(name), data_sets.build(name)
    for fold in FOLDS:
        keys = [(draw, index) for draw in (0, 3) for index in (2, 0, 1)]
        together = getattr(one, fold).__getitems__(keys)
        for place, key in enumerate(keys):
            alone = getattr(two, fold).__getitems__([key])
            for batch, sample in zip(together, alone, strict=True):
                assert len(batch) == len(keys)
                assert torch.equal(batch[place], sample[0])


@every
def test_what_is_told_of_the_data_is_true(name):
    entry, splits = data_sets[name], data_sets.build(name)
    assert splits.kind == entry.kind
    assert entry.about.get("shape", splits.shape) == splits.shape
    assert entry.about.get("num_classes", splits.num_classes) == splits.num_classes
    assert json.loads(json.dumps(splits.about)) == splits.about
    for fold in FOLDS:
        samples = getattr(splits, fold)
        inputs, targets = samples.__getitems__([(0, i) for i in range(min(len(samples), 50))])
        if splits.kind != "nodes":  # a node's candidates are drawn anew
            assert inputs.shape[1:] == splits.shape
        assert targets.dtype == torch.int64
        assert targets.min() >= 0 and targets.max() < splits.num_classes


@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_of_what_is_reported_is_learned_from(name):
    splits = data_sets.build(name)
    rows = {}
    for fold in FOLDS:
        samples = getattr(splits, fold)
        inputs, _ = samples.__getitems__([(0, i) for i in range(len(samples))])
        rows[fold] = {row.numpy().tobytes() for row in inputs}
    assert not rows["test"] & (rows["train"] | rows["validation"])
    assert not rows["train"] & rows["validation"]


def test_some_data_sets_are_made_here():
    assert {"digits", "tree"} <= {*MADE_HERE}
