"""`data=token_files`: which file is for what, and a run that goes on."""

import numpy as np
import pytest
from archzoo.train.commands.__main__ import main
from archzoo.train.data import data_sets
from archzoo.train.errors import RunError, RunStopped
from archzoo.train.run import run

from ..small_runs import configure, equal_weights

FOLDS = ("train", "validation", "test")


def write(folder, **sizes):
    """Bare files of the sizes, whose tokens count on from file to file."""
    first = 0
    for name, size in sizes.items():
        tokens = np.arange(first, first + size, dtype=np.uint16)
        (folder / f"{name}.bin").write_bytes(tokens.tobytes())
        first += size
    return folder


def build(root, **options):
    given = {"dtype": "uint16", "vocab_size": 5000, "context_length": 4, **options}
    return data_sets.build("token_files", root=str(root), **given)


def places(splits):
    """Files and tokens of every fold."""
    return {
        fold: [
            (span.shard.path.stem, span.start, span.stop) for span in getattr(splits, fold).spans
        ]
        for fold in FOLDS
    }


def test_held_out_files_are_known_by_their_names(tmp_path):
    write(tmp_path, fineweb_train_000001=90, interval=80, fineweb_val_000000=50, my_test_1=40)
    assert places(build(tmp_path)) == {
        "train": [("fineweb_train_000001", 0, 90), ("interval", 0, 80)],
        "validation": [("fineweb_val_000000", 0, 50)],
        "test": [("my_test_1", 0, 40)],
    }


def test_half_of_the_validation_files_tests_where_no_file_does(tmp_path):
    write(tmp_path, train=90, val=50)
    found = places(build(tmp_path))
    assert found["train"] == [("train", 0, 90)]
    assert (found["validation"], found["test"]) == ([("val", 0, 25)], [("val", 25, 50)])


def test_the_end_of_the_training_files_is_held_out_where_no_file_is(tmp_path):
    write(tmp_path, a=100, b=30)
    assert places(build(tmp_path, held_out=0.2)) == {
        "train": [("a", 0, 78)],
        "validation": [("a", 78, 100), ("b", 0, 4)],
        "test": [("b", 4, 30)],
    }
    one = build(tmp_path / "a.bin", held_out=0.2)
    assert places(one)["train"] == [("a", 0, 60)]
    write(tmp_path, test=40)
    assert places(build(tmp_path, held_out=0.2))["validation"] == [("b", 4, 30)]


def test_an_evaluation_reads_no_more_than_is_asked_for(tmp_path):
    write(tmp_path, train=90, val=50, test=60)
    splits = build(tmp_path, evaluated_tokens=20)
    assert splits.about["sizes"] == {"train": 90, "validation": 20, "test": 20}
    assert len(splits.validation) == 5


def test_another_content_is_told_by_its_digest_and_another_place_is_not(tmp_path):
    (tmp_path / "moved").mkdir()
    before = build(write(tmp_path, train=90, val=50)).about["sha256"]
    assert build(write(tmp_path / "moved", train=90, val=50)).about["sha256"] == before
    tokens = np.arange(90, dtype=np.uint16)
    tokens[40] = 7
    (tmp_path / "train.bin").write_bytes(tokens.tobytes())
    after = build(tmp_path).about["sha256"]
    assert {fold for fold in FOLDS if before[fold] != after[fold]} == {"train"}


WRONG = {
    "nothing": ({}, {}, r"not found in .*: there is no file \*.npy or \*.bin; archzoo tokenize"),
    "vocabulary": ({"a": 500}, {"vocab_size": None}, "holds no tokens.json; give data.vocab_size"),
    "no vocabulary": ({"a": 500}, {"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
    "held out": ({"a": 500}, {"held_out": 0.5}, r"held_out must lie in \(0, 0.5\), got 0.5"),
    "evaluated": ({"a": 500}, {"evaluated_tokens": 4}, "more than context_length=4, got 4"),
    "short": ({"train": 5, "val": 50}, {}, "token_files, train: context_length=4 is too long"),
    "no train": ({"val": 50}, {}, "token_files, train: context_length=4 .* at most 0 tokens"),
    "list": ({"a": 500}, {"listing": "[]"}, "tokens.json cannot be read"),
    "numbers": ({"a": 500}, {"listing": '{"vocab_size": "a", "shards": {}}'}, "no whole numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_read_is_told_in_one_line(case, tmp_path):
    sizes, options, said = WRONG[case]
    write(tmp_path, **sizes)
    if "listing" in options:
        (tmp_path / "tokens.json").write_text(options["listing"])
        options = {}
    with pytest.raises(ValueError, match=said) as caught:
        build(tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match="ends in neither .npy nor .bin"):
        build(tmp_path / "a.txt")


GPT = [
    *("model=gpt_nano", "model.depth=1", "data=token_files", "data.context_length=8", "~recipe"),
    *("trainer.epochs=null", "trainer.steps=6", "trainer.batch_size=4", "trainer.evaluate_every=3"),
    *("trainer.progress=false", "optim=adamw", "callbacks=[none]", "logger=[none]"),
]


@pytest.fixture
def tokens(tmp_path, capsys):
    text = tmp_path / "text"
    text.write_bytes(bytes(range(256)) * 8)
    main(["tokenize", str(text), str(tmp_path / "tokens"), "shard_size=700"])
    told = capsys.readouterr().out
    assert told == f"{tmp_path / 'tokens'}: 1,843 train, 102 validation, 103 test\n"
    return f"data.root={tmp_path / 'tokens'}"


@pytest.mark.long
@pytest.mark.parametrize("order", ["shuffled", "random", "sequential"])
def test_a_run_that_goes_on_reads_what_it_would_have_read(order, tokens, tmp_path, monkeypatch):
    def train(name, *more):
        return run(
            configure(tokens, f"data.order={order}", *more, folder=tmp_path / name, base=GPT)
        )

    train("whole")
    from archzoo.train.data.shards import ShardFold

    read, reads = ShardFold.__getitems__, []

    def stop(self, keys):
        reads.append(keys)
        if len(reads) == 9 and not (tmp_path / "again").exists():
            (tmp_path / "again").touch()
            raise RunStopped("here")
        return read(self, keys)

    monkeypatch.setattr(ShardFold, "__getitems__", stop)
    with pytest.raises(RunStopped):
        train("halves", "trainer.checkpoint_every=1")
    train("halves", "trainer.checkpoint_every=1", f"resume={tmp_path / 'halves'}")
    assert equal_weights(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.long
def test_the_vocabulary_is_checked_against_the_model_and_against_the_tokens(tokens, tmp_path):
    with pytest.raises(RunError, match=r"model.vocab_size=99, but data token_files has 256"):
        run(configure(tokens, "model.vocab_size=99", folder=tmp_path / "a", base=GPT))
    said = r"step 0: .*train-0000\d.npy has the token \d+ at \d+, outside the vocabulary of 99"
    with pytest.raises(RunError, match=said):
        run(configure(tokens, "data.vocab_size=99", folder=tmp_path / "b", base=GPT))
