"""The data sets of sequences: homologues on one side, every class in all folds, errors a line."""

import itertools
import json
import logging
import random

import pytest
import torch
from archzoo.train.data import data_sets
from archzoo.train.data.sequences.kmer_tokeniser import KmerTokeniser

from .protein_families import families, mutated, protein, write_table

FOLDS = ("train", "validation", "test")


def rows(families_of_a_class=20, size=3, kinds=2):
    """Return classes and sequences of families, each of one class."""
    found = families(families_of_a_class * kinds, size)
    return [(f"kind{i % kinds}", letters) for i, each in enumerate(found) for letters in each]


def build(name, path, **options):
    return data_sets.build(name, root=str(path), **options)


def tokens_of(fold):
    sequences = getattr(fold, "sequences", fold)
    return [
        tuple(sequences.tokens[start : start + size].tolist())
        for start, size in zip(sequences.starts.tolist(), sequences.sizes.tolist(), strict=True)
    ]


@pytest.mark.parametrize("split", range(5))
def test_no_homologue_of_what_is_tested_is_learned_from(split, tmp_path):
    given = rows()
    random.Random(0).shuffle(given)
    splits = build("sequences", write_table(tmp_path / "a.csv", given), split=split)
    whole = families(40, 3)
    family = {
        tuple(KmerTokeniser().encode(letters).tolist()): number
        for number, each in enumerate(whole)
        for letters in each
    }
    sides = [{family[each] for each in tokens_of(getattr(splits, name))} for name in FOLDS]
    assert all(sides) and not any(a & b for a, b in itertools.combinations(sides, 2))
    assert sum(splits.about["sizes"].values()) == len(given)
    assert splits.about["clusters"] == 40 and splits.about["largest_cluster"] == 3
    assert json.loads(json.dumps(splits.about)) == splits.about


def test_a_declared_cluster_goes_before_what_letters_say(tmp_path):
    source = random.Random(3)
    text = "kind,sequence,family\n"
    for i in range(60):
        text += f"kind{i % 2},{protein(source)},{i // 6}\n"
    path = tmp_path / "a.csv"
    path.write_text(text)
    splits = build("sequences", path, cluster="family")
    assert splits.about["clusters"] == 10
    found = build("sequences", path)
    assert found.about["clusters"] == 60


def test_both_data_sets_have_the_same_folds_and_the_masked_one_no_classes(tmp_path):
    path = write_table(tmp_path / "a.csv", rows())
    one, two = build("sequences", path, k=2), build("masked_sequences", path, k=2)
    for name in FOLDS:
        assert tokens_of(getattr(one, name)) == tokens_of(getattr(two, name))
    assert one.about["sha256"] == two.about["sha256"]
    assert (one.kind, one.num_classes, one.vocab_size) == ("sequence", 2, 403)
    assert (two.kind, two.num_classes, two.vocab_size) == ("masked", 403, 403)
    assert "classes" not in two.about and two.about["hidden"] == {"share": 0.15, "span": 2}
    assert one.conventions()["tokeniser"]["k"] == 2


def test_a_sample_is_a_function_of_its_key_and_its_window_moves_in_training_alone(tmp_path):
    splits = build("sequences", write_table(tmp_path / "a.csv", rows()), crop=16, context_length=64)
    fold = splits.train
    keys = [(draw, index) for draw in (0, 3) for index in (2, 0, 1)]
    together, targets = fold.__getitems__(keys)
    assert together.shape == (6, 16)
    for place, key in enumerate(keys):
        inputs, target = fold.__getitems__([key])
        assert torch.equal(inputs[0], together[place]) and target[0] == targets[place]
    assert not torch.equal(together[:3], together[3:])
    whole = tokens_of(fold)[2]
    assert tuple(together[0].tolist()) in [whole[i : i + 16] for i in range(len(whole) - 15)]
    starts = {tuple(fold.__getitems__([(draw, 2)])[0][0].tolist()) for draw in range(600)}
    assert len(starts) == len(whole) - 15  # the first and the last window among them
    first, again = (splits.test.__getitems__([(draw, 0)])[0] for draw in (0, 1))
    assert torch.equal(first, again) and first.shape == (1, 64)
    assert tuple(first[0].tolist()) == tokens_of(splits.test)[0][:64]


def test_a_repeated_sequence_is_taken_once_and_said(tmp_path, caplog):
    given = rows()
    path = write_table(tmp_path / "a.csv", [*given, given[0], given[5]])
    with caplog.at_level(logging.WARNING, "archzoo"):
        splits = build("sequences", path)
    assert sum(splits.about["sizes"].values()) == len(given)
    assert caplog.messages == ["2 sequences are there again and taken once"]


def lone():
    return [*rows(), ("rare", protein(random.Random(9)))]


def one_cluster():
    source = random.Random(9)
    first = protein(source)
    return [*rows(), *(("rare", mutated(first, source)) for _ in range(5))]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            [*rows(), ("kind1", rows()[0][1])],
            "the label 'kind1', and the same sequence, .*'kind0",
        ),
        (
            lone(),
            "class 'rare' has 1 sequence and none for the .* fold; 5 clusters that",
        ),
        (one_cluster(), "class 'rare' has 5 sequences and none for the"),
        ([("kind0", letters) for _, letters in rows()], "has one class, 'kind0'; at least two"),
        (rows(1, 2), "has 2 clusters .* leaves the .* fold empty; give at least 10 clusters"),
        (
            [*rows(), ("kind0", "MKV-LLA")],
            "a.csv:122 has a gap, '-' at letter 4; .*data.gaps=re",
        ),
        (
            [*rows(), ("kind0", "MK5")],
            "a.csv:122 has '5' at letter 3, which is no letter of",
        ),
        (
            [(f"p{i}", letters) for i, (_, letters) in enumerate(rows())],
            "a.csv: column 'kind' has a value of its own in every row, .*; say data.target=",
        ),
        ([*rows(), ("kind0", "*")], "a.csv:122 has 0 letters, less than k=1"),
    ],
    ids=[
        "two classes",
        "one sequence",
        "one cluster",
        "one class",
        "few",
        "gap",
        "letter",
        "own class",
        "empty",
    ],
)
def test_what_cannot_be_dealt_is_one_line(given, message, tmp_path):
    with pytest.raises(ValueError, match=message) as refused:
        build("sequences", write_table(tmp_path / "a.csv", given))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_length": 0}, "context_length must be at least 1, got 0"),
        ({"crop": 0}, "crop must be at least 1, got 0"),
        ({"similarity": 0.0}, r"similarity must lie in \(0, 1\], got 0.0"),
        ({"split": 5}, r"split must lie in \[0, 4\], got 5"),
        ({"k": 9}, r"k must lie in \[1, 6\], got 9"),
        ({"span": 0}, "span must be at least 1, got 0"),
        ({"masked": 1.0}, r"masked must lie in \(0, 1\), got 1.0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_by_name(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        build("masked_sequences", write_table(tmp_path / "a.csv", rows()), **options)


def test_files_without_classes_are_filled_all_the_same(tmp_path):
    path = tmp_path / "a.fasta"
    path.write_text("".join(f">{i}\n{letters}\n" for i, (_, letters) in enumerate(rows())))
    splits = build("masked_sequences", path, target="")
    assert all(len(getattr(splits, name)) for name in FOLDS)
    with pytest.raises(ValueError, match=r"says no class; .*, or say data.target= \(empty\)"):
        build("masked_sequences", path)
    with pytest.raises(ValueError, match="says no class; .*, or say data.target=KEY"):
        build("sequences", path)


@pytest.mark.parametrize("size", [5, 6, 9])
@pytest.mark.parametrize("split", range(5))
def test_a_class_of_five_clusters_is_in_every_fold(size, split, tmp_path):
    source = random.Random(4)
    given = [(f"kind{i % 30:02}", protein(source)) for i in range(30 * size)]
    splits = build("sequences", write_table(tmp_path / "a.csv", given), split=split)
    assert all(len(getattr(splits, name).targets.unique()) == 30 for name in FOLDS)


def test_bytes_are_the_same_tokens_in_training_and_in_a_file_of_ones_own(tmp_path):
    source = random.Random(5)
    given = [(f"kind{i % 2}", protein(source, 30) + "é") for i in range(40)]
    splits = build("sequences", write_table(tmp_path / "a.csv", given), alphabet="bytes")
    expected = {tuple(KmerTokeniser("bytes").encode(letters).tolist()) for _, letters in given}
    assert {each for name in FOLDS for each in tokens_of(getattr(splits, name))} == expected


def test_many_sequences_too_short_to_be_compared_are_said(tmp_path, caplog):
    source = random.Random(6)
    given = [(f"kind{i % 2}", protein(source, 6)) for i in range(40)]
    with caplog.at_level(logging.WARNING, "archzoo"):
        build("sequences", write_table(tmp_path / "a.csv", given))
    (told,) = caplog.messages
    assert told.startswith("40 of 40 sequences have 6 letters or fewer, too few for 2 words of 6")
    caplog.clear()
    build("sequences", write_table(tmp_path / "b.csv", rows()))
    assert not caplog.messages


@pytest.mark.parametrize("name", ["sequences", "masked_sequences"])
def test_both_strands_of_a_gene_are_on_one_side(name, tmp_path):
    source = random.Random(7)
    pair = str.maketrans("ACGT", "TGCA")
    genes = ["".join(source.choices("ACGT", k=60)) for _ in range(40)]
    given = [(f"kind{i % 2}", g) for i, g in enumerate(genes)]
    given += [(f"kind{i % 2}", g.translate(pair)[::-1]) for i, g in enumerate(genes)]
    splits = build(name, write_table(tmp_path / "a.csv", given), alphabet="dna")
    assert splits.about["clusters"] == 40 and splits.about["largest_cluster"] == 2
