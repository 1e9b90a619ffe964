"""Hierarchies as data: closures, negatives as a function of the key, folds, WordNet's file."""

import json
from pathlib import Path

import pytest
import torch
from archzoo.train.data import Batches, RelationFold, data_sets, loader
from archzoo.train.data.relations import hold_out, transitive_closure
from archzoo.train.data.sets.trees import balanced_parents, random_parents
from archzoo.train.data.sets.wordnet import below, leave_out, read_nouns

# A diamond over a chain: 4 is below 3 and 2, both below 1, below 0.
DIAMOND = [[], [0], [1], [1], [3, 2]]


def pairs(relations):
    return {(u, v) for u, v in relations.tolist()}


def fold_of(parents, negatives=5, **options):
    relations = transitive_closure(parents)
    return RelationFold(relations, relations, len(parents), negatives, **options)


def fetch(fold, rounds=0):
    return fold.__getitems__([(rounds, i) for i in range(len(fold))])[0]


def synset(offset, words, *pointers):
    listed = " ".join(f"{word} 0" for word in words)
    pointed = " ".join(f"{symbol} {to:08d} n 0000" for symbol, to in pointers)
    count = f"{len(pointers):03d}"
    return f"{offset:08d} 05 n {len(words):02x} {listed} {count} {pointed} | a gloss\n"


@pytest.fixture
def nouns(tmp_path):
    """A folder with a small `data.noun`: mammals under an animal, one instance, a plant."""
    lines = [
        "  1 a licence\n",
        synset(10, ["animal"], ("~", 20)),
        synset(20, ["mammal", "mammalian"], ("@", 10), ("~", 30)),
        synset(30, ["dog"], ("@", 20), ("@", 35)),
        synset(35, ["pet"], ("@", 10)),
        synset(40, ["Lassie"], ("@i", 50)),
        synset(50, ["collie"], ("@", 30)),
        synset(60, ["tusker"], ("@", 20)),
        synset(70, ["plant"]),
    ]
    (tmp_path / "data.noun").write_text("".join(lines))
    return tmp_path


def test_the_closure_holds_every_node_with_each_of_its_ancestors_once():
    relations = transitive_closure(DIAMOND)
    assert pairs(relations) == {
        (1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2), (4, 3),
    }  # fmt: skip
    assert len(relations) == 9


def test_the_order_of_the_nodes_does_not_matter_and_a_long_chain_is_no_trouble():
    assert pairs(transitive_closure([[1], [2], []])) == {(0, 1), (0, 2), (1, 2)}
    assert len(transitive_closure([[i + 1] for i in range(1999)] + [[]])) == 1999 * 1000


def test_a_cycle_is_refused():
    with pytest.raises(ValueError, match="is its own ancestor; a hierarchy has no cycle"):
        transitive_closure([[1], [2], [0]])


def test_a_sample_is_a_relation_followed_by_nodes_that_are_no_neighbours():
    fold = fold_of(balanced_parents(3, 3))
    known = pairs(fold.known)
    for rounds in range(20):
        inputs, targets = fold.__getitems__([(rounds, i) for i in range(len(fold))])
        assert inputs.shape == (len(fold), 7) and inputs.dtype == torch.int64
        assert torch.equal(inputs[:, :2], fold.relations)
        assert not targets.any()
        for u, _, *negatives in inputs.tolist():
            assert all(v != u and (u, v) not in known and 0 <= v < 40 for v in negatives)


def test_negatives_are_uniform_among_what_is_left():
    fold = fold_of(DIAMOND, negatives=3000)
    inputs = fetch(fold)
    # Node 2 has the ancestors 0 and 1, so that 3 and 4 are left; a fair coin within 4 deviations.
    drawn = inputs[pairs_index(fold, (2, 1)), 2:]
    assert set(drawn.tolist()) == {3, 4}
    assert (drawn == 3).double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / 3000**0.5)
    # All are ancestors of node 4: then all but itself are drawn.
    assert set(inputs[pairs_index(fold, (4, 1)), 2:].tolist()) == {0, 1, 2, 3}


def pairs_index(fold, pair):
    return fold.relations.tolist().index(list(pair))


def test_a_sample_is_a_function_of_its_key():
    fold = fold_of(balanced_parents(3, 3))
    whole = fetch(fold, rounds=5)
    assert torch.equal(fold.__getitems__([(5, 7), (5, 2)])[0], whole[[7, 2]])
    assert not torch.equal(fetch(fold, rounds=6), whole)


# A machine with one core, and Python from 3.12 on, warn of workers as such.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.processes
def test_samples_do_not_depend_on_workers_or_batches():
    fold = data_sets.build("tree", depth=2).train
    taken = [
        torch.cat([x for x, _ in loader(fold, Batches(len(fold), size, seed=1), workers=workers)])
        for size, workers in ((7, 0), (4, 0), (7, 1))
    ]
    assert torch.equal(taken[0], taken[1]) and torch.equal(taken[0], taken[2])


def test_evaluation_draws_once_and_for_all():
    splits = data_sets.build("tree")
    for fold in (splits.validation, splits.test):
        assert torch.equal(fetch(fold, 1), fetch(fold, 2))
    assert not torch.equal(fetch(splits.validation), fetch(splits.test))
    assert torch.equal(splits.validation.relations, splits.train.relations)


@pytest.mark.parametrize("name", ["tree", "random_tree"])
def test_held_out_relations_are_disjoint_and_leave_every_node_one_to_learn_from(name):
    splits = data_sets.build(name, held_out=0.2)
    parts = [pairs(f.relations) for f in (splits.train, splits.validation, splits.test)]
    whole = pairs(data_sets.build(name).train.relations)
    assert set.union(*parts) == whole and sum(map(len, parts)) == len(whole)
    assert len(parts[1]) == len(parts[2]) == int(0.2 * len(whole)) // 2
    assert splits.train.relations.unique().tolist() == list(range(splits.num_classes))
    # Training does not know what was held out; evaluation does not call it false.
    assert pairs(splits.train.known) == parts[0]
    assert pairs(splits.validation.known) == pairs(splits.test.known) == whole


def test_a_share_that_would_strip_a_node_is_refused():
    relations = transitive_closure(balanced_parents(3, 2))
    with pytest.raises(ValueError, match=r"held_out=0.9 cannot be had: .* at most 0.\d+ of 21"):
        hold_out(relations, 13, 0.9)
    with pytest.raises(ValueError, match=r"held_out must lie in \[0, 1\), got -0.1"):
        data_sets.build("tree", held_out=-0.1)


@pytest.mark.parametrize(("branching", "depth"), [(1, 4), (2, 3), (3, 4)])
def test_a_balanced_tree_is_networkxs(branching, depth):
    networkx = pytest.importorskip("networkx")
    parents = balanced_parents(branching, depth)
    theirs = networkx.balanced_tree(branching, depth)
    ours = {(p, node) for node, above in enumerate(parents) for p in above}
    assert ours == {(min(e), max(e)) for e in theirs.edges}


def test_a_random_tree_hangs_every_node_on_an_earlier_one_and_follows_from_its_seed():
    parents = random_parents(500, 3)
    assert parents[0] == []
    assert all(len(above) == 1 and 0 <= above[0] < i for i, above in enumerate(parents) if i)
    assert parents == random_parents(500, 3) != random_parents(500, 4)
    # The mean depth of a random recursive tree is about ln N, here 5.6 with its spread of 2.
    assert 4 < len(transitive_closure(parents)) / 500 < 9


@pytest.mark.parametrize("name", ["tree", "random_tree"])
def test_a_tree_tells_what_it_is(name):
    splits = data_sets.build(name, negatives=4)
    assert (splits.kind, splits.shape) == (data_sets[name].kind, (6,)) == ("nodes", (6,))
    assert json.loads(json.dumps(splits.about)) == splits.about
    assert splits.about["nodes"] == splits.num_classes
    assert splits.about["sizes"] == {
        f: len(getattr(splits, f)) for f in ("train", "validation", "test")
    }


def test_a_synset_is_read_with_its_hypernyms_and_its_classes(nouns):
    names, parents = read_nouns(nouns / "data.noun")
    assert names[1] == "mammal.00000020"
    assert parents == [[], [0], [1, 3], [0], [5], [2], [1], []]


def test_the_mammals_are_the_mammal_and_all_below_it(nouns):
    names, parents = below("mammal", *read_nouns(nouns / "data.noun"))
    assert [n.partition(".")[0] for n in names] == ["mammal", "dog", "Lassie", "collie", "tusker"]
    assert parents == [[], [0], [3], [1], [0]]  # the dog is a pet no longer
    names, parents = leave_out(["tusker", "dog"], names, parents)
    assert len(names) == 4  # the dog has children and stays
    splits = data_sets.build("wordnet", root=str(nouns))
    assert pairs(splits.train.relations) == {(1, 0), (2, 0), (2, 1), (2, 3), (3, 0), (3, 1)}
    assert len(splits.about["file sha256"]) == 64
    assert data_sets.build("wordnet", root=str(nouns), subset="nouns").num_classes == 8


def test_the_real_mammals_and_nouns_are_those_of_the_literature():
    folder = Path(data_sets["wordnet"].options["root"].default)
    if not (folder / "data.noun").is_file():
        pytest.skip("needs Debian's package wordnet-base")
    for subset, nodes, relations in (("mammals", 1180, 6540), ("nouns", 82115, 743241)):
        splits = data_sets.build("wordnet", subset=subset)
        assert (splits.num_classes, len(splits.train)) == (nodes, relations)


def test_a_missing_file_names_the_folder_and_the_package(tmp_path):
    with pytest.raises(ValueError, match="data.noun is missing; .* wordnet-base has the file"):
        data_sets.build("wordnet", root=str(tmp_path))


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "data.noun").write_bytes(b"00001740 \xff\xfe")
    with pytest.raises(ValueError, match=r"data\.noun is damaged: 'utf-8' codec .*; take that of"):
        read_nouns(tmp_path / "data.noun")


def test_a_damaged_file_is_refused_by_line(nouns):
    path = nouns / "data.noun"
    text = path.read_text()
    path.write_text(text + "00000080 05 n 01 cat\n")
    with pytest.raises(ValueError, match="data.noun: line 10 is no synset in WordNet's format"):
        read_nouns(path)
    path.write_text(text.replace("@ 00000035", "@ 00000036"))
    with pytest.raises(ValueError, match=r"lacks the hypernyms \['00000036'\]"):
        read_nouns(path)
    path.write_text(text.replace("pet 0", "mammal 0"))
    with pytest.raises(ValueError, match="2 synsets have the first word 'mammal'; one is due"):
        data_sets.build("wordnet", root=str(nouns))
    path.write_text("  1 a licence\n")
    with pytest.raises(ValueError, match="holds no synset"):
        read_nouns(path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tree", {"branching": 0}, "branching and depth must be at least 1, got branching=0"),
        ("tree", {"branching": 10, "depth": 7}, "make more than 1,000,000 nodes"),
        ("tree", {"negatives": 0}, "negatives must be at least 1, got 0"),
        ("random_tree", {"num_nodes": 1}, r"num_nodes must lie in \[2, 1,000,000\], got 1"),
        ("wordnet", {"subset": "verbs"}, "subset must be Literal"),
    ],
)
def test_bad_options_are_refused_by_name(name, options, message):
    with pytest.raises(ValueError, match=message):
        data_sets.build(name, **options)


def test_bad_relations_are_refused():
    good = torch.tensor([[1, 0]])
    with pytest.raises(ValueError, match=r"nodes must lie in \[0, 2\), got 0 to 5"):
        RelationFold(torch.tensor([[5, 0]]), good, 2, 1)
    with pytest.raises(ValueError, match="two nodes and a relation, got 2 nodes and 0 relations"):
        RelationFold(good[:0], good, 2, 1)
