"""Clusters: of homologues, whatever their order, none like another; folds of whole ones."""

import itertools
import random
import tracemalloc

import numpy as np
import pytest
from archzoo.train.data.sequences.cluster_split import PARTS, SPLITS, cluster_folds
from archzoo.train.data.sequences.similarity_clusters import (
    FEWEST,
    shared_words,
    similarity_clusters,
)

from .protein_families import families, protein

WORD, SHARE = 6, 0.03


def words(letters):
    return {letters[i : i + WORD] for i in range(len(letters) - WORD + 1)}


def drawn(count=12, size=4):
    """Return sequences of families, shuffled, and the family of each."""
    whole = families(count, size)
    rows = [(letters, family) for family, each in enumerate(whole) for letters in each]
    random.Random(1).shuffle(rows)
    return [letters for letters, _ in rows], np.array([family for _, family in rows])


def partition(clusters):
    return {frozenset(np.flatnonzero(clusters == each).tolist()) for each in np.unique(clusters)}


def test_common_words_are_counted_as_sets_count_them():
    sequences, _ = drawn(4, 3)
    sequences += ["A" * 40, "A" * 9, "MKV", ""]
    first, second, common, counts = shared_words(sequences, WORD)
    own = [words(each) for each in sequences]
    assert counts.tolist() == [len(each) for each in own]
    found = {(int(a), int(b)): int(c) for a, b, c in zip(first, second, common, strict=True)}
    pairs = itertools.combinations(range(len(own)), 2)
    assert found == {(a, b): len(own[a] & own[b]) for a, b in pairs if own[a] & own[b]}


def test_clusters_are_the_families_that_were_planted():
    sequences, family = drawn()
    assert partition(similarity_clusters(sequences, WORD, SHARE)) == partition(family)


def test_no_two_sequences_of_different_clusters_are_similar():
    sequences, _ = drawn(8, 5)
    source = random.Random(2)
    # A chain: each half is the other's neighbour, and the ends are not alike.
    chain = [protein(source, 60) for _ in range(4)]
    sequences += [a + b for a, b in itertools.pairwise(chain)]
    clusters = similarity_clusters(sequences, WORD, SHARE)
    assert len(set(clusters[-3:].tolist())) == 1
    for a, b in itertools.combinations(range(len(sequences)), 2):
        one, two = words(sequences[a]), words(sequences[b])
        needed = max(FEWEST, SHARE * min(len(one), len(two)))
        assert clusters[a] == clusters[b] or len(one & two) < needed


def test_the_order_of_a_file_moves_no_sequence_to_another_cluster_or_fold():
    sequences, family = drawn()
    order = np.random.default_rng(0).permutation(len(sequences))
    moved = [sequences[i] for i in order]
    one = similarity_clusters(sequences, WORD, SHARE)
    two = similarity_clusters(moved, WORD, SHARE)
    assert partition(one[order]) == partition(two)
    targets = family % 3
    folds = cluster_folds(sequences, targets, one, 0)
    others = cluster_folds(moved, targets[order], two, 0)
    for name, rows in folds.items():
        assert {sequences[i] for i in rows} == {moved[i] for i in others[name]}


def test_equal_sequences_without_a_word_are_of_one_cluster_and_others_are_not():
    clusters = similarity_clusters(["MKV", "MKL", "MKV", ""], WORD, SHARE)
    assert clusters.tolist() == [0, 1, 0, 3]
    assert len(similarity_clusters([], WORD, SHARE)) == 0


def test_folds_hold_whole_clusters_and_the_splits_test_every_sequence_once():
    sequences, family = drawn(60, 3)
    targets = family % 2
    tested = []
    for split in range(SPLITS):
        folds = cluster_folds(sequences, targets, family, split)
        rows = np.concatenate(list(folds.values()))
        assert sorted(rows.tolist()) == [*range(len(sequences))]
        sides = [set(family[own].tolist()) for own in folds.values()]
        assert not any(a & b for a, b in itertools.combinations(sides, 2))
        tested += folds["test"].tolist()
        for name, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
            for number in (0, 1):
                count = int((targets[folds[name]] == number).sum())
                # Parts differ by a cluster of three at most, and a fold has up to seven of ten.
                assert abs(count - share * (targets == number).sum()) <= 3 * share * PARTS
    assert sorted(tested) == [*range(len(sequences))]


@pytest.mark.parametrize(
    ("classes", "size"), [(900, 1), (200, 4), (30, 8), (100, 11), (60, 15), (20, 99), (10, 150)]
)
def test_folds_have_their_shares_whatever_the_size_of_classes(classes, size):
    targets = np.repeat(np.arange(classes), size)
    sequences = [f"s{i}" for i in range(len(targets))]
    folds = cluster_folds(sequences, targets, np.arange(len(targets)), 0)
    for name, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        assert abs(len(folds[name]) / len(targets) - share) < 0.03


def test_as_many_classes_as_sequences_are_dealt_without_a_table_of_both():
    count = 20_000
    targets = np.arange(count)
    tracemalloc.start()
    folds = cluster_folds([f"s{i}" for i in range(count)], targets, targets, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000  # a table of eight bytes each would have 3.2 GB
    assert len(folds["test"]) == pytest.approx(0.2 * count, abs=10)


def test_a_word_of_dna_is_that_of_the_other_strand():
    source = random.Random(3)
    one = "".join(source.choices("ACGTN", k=200))
    other = one.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    for strands, expected in ((True, [0, 0]), (False, [0, 1])):
        assert similarity_clusters([one, other], 13, SHARE, strands=strands).tolist() == expected
    _, _, common, counts = shared_words([one, other], 13, strands=True)
    assert common.tolist() == [counts[0]] and counts[0] == counts[1]


@pytest.mark.parametrize("split", [-1, 5])
def test_a_split_that_there_is_not_is_refused(split):
    with pytest.raises(ValueError, match=rf"split must lie in \[0, 4\], got {split}"):
        cluster_folds(["M"], np.array([0]), np.array([0]), split)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"similarity must lie in \(0, 1\]"):
        similarity_clusters(["MKV"], WORD, share)


def test_a_repeat_that_all_sequences_have_is_refused_before_its_pairs_are_made(monkeypatch):
    module = "archzoo.train.data.sequences.similarity_clusters"
    monkeypatch.setattr(f"{module}.MOST_PAIRS", 1000)
    sequences = ["MKVLLA" + letters for (letters,) in families(60, 1)]
    with pytest.raises(ValueError, match="the most frequent in 60 of them: .*data.cluster=…"):
        similarity_clusters(sequences, WORD, SHARE)
    assert len(similarity_clusters(sequences[:40], WORD, SHARE)) == 40


def test_a_word_too_long_to_be_numbered_is_refused():
    with pytest.raises(ValueError, match="a word of 40 of 4 letters"):
        similarity_clusters(["ACGT" * 20], 40, SHARE)
