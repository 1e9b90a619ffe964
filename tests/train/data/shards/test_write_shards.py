"""Writing token files: every token once, whole files only, nothing written over."""

import json

import numpy as np
import pytest
from archzoo.train.data import data_sets, write_shards
from archzoo.train.data.shards import write_bytes


def joined(files):
    return np.concatenate([np.load(file) for file in files]).tolist()


@pytest.mark.parametrize("shard_size", [1, 4, 7, 12, 100])
def test_the_files_hold_the_pieces_one_after_another(shard_size, tmp_path):
    pieces = [[1, 2, 3], [], np.arange(8), [9]]
    files = write_shards(pieces, tmp_path / "t", "train", vocab_size=300, shard_size=shard_size)
    assert joined(files) == [1, 2, 3, *range(8), 9]
    assert {len(np.load(file)) for file in files[:-1]} <= {shard_size}
    assert sorted(tmp_path.glob("t/*.npy")) == files
    listed = json.loads((tmp_path / "t" / "tokens.json").read_text())
    assert listed == {"vocab_size": 300, "shards": {f.name: len(np.load(f)) for f in files}}


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_the_type_is_the_narrowest_that_holds_the_vocabulary(vocab_size, dtype, tmp_path):
    (file,) = write_shards([[0, vocab_size - 1]], tmp_path, "train", vocab_size=vocab_size)
    assert np.load(file).dtype == dtype and joined([file]) == [0, vocab_size - 1]


WRONG = {
    "beyond": ([[1, 2], [3, 10]], {}, "the token 10 at 3 lies outside the vocabulary of 10"),
    "negative": ([[1, -2]], {}, "the token -2 at 1"),
    "none": ([[]], {}, "there is no token to write to train"),
    "floats": ([[0.5]], {}, "whole numbers in one row, got float64"),
    "table": ([[[1]]], {}, r"of shape \(1, 1\)"),
    "vocabulary": ([[1]], {"vocab_size": 0}, "got vocab_size=0"),
    "size": ([[1]], {"shard_size": 0}, "shard_size=0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_text_of_the_vocabulary_is_refused_and_not_listed(case, tmp_path):
    pieces, options, said = WRONG[case]
    with pytest.raises(ValueError, match=said):
        write_shards(pieces, tmp_path, "train", **{"vocab_size": 10, **options})
    assert not (tmp_path / "tokens.json").exists()


def test_a_folder_is_not_written_over_and_has_one_vocabulary(tmp_path):
    write_shards([[1]], tmp_path, "train", vocab_size=10)
    with pytest.raises(ValueError, match=r"holds files train-\*.npy already"):
        write_shards([[2]], tmp_path, "train", vocab_size=10)
    with pytest.raises(ValueError, match="a vocabulary of 10, not of 20"):
        write_shards([[2]], tmp_path, "test", vocab_size=20)
    write_shards([[2]], tmp_path, "test", vocab_size=10)
    assert len(json.loads((tmp_path / "tokens.json").read_text())["shards"]) == 2


def test_a_text_whose_writing_was_interrupted_is_not_read(tmp_path):
    def pieces():
        yield range(50)
        raise KeyboardInterrupt

    write_shards([range(50)], tmp_path, "validation", vocab_size=50)
    with pytest.raises(KeyboardInterrupt):
        write_shards(pieces(), tmp_path, "train", vocab_size=50, shard_size=20)
    assert len([*tmp_path.iterdir()]) == 4  # the list, a whole file, and two of the other text
    with pytest.raises(ValueError, match="train-00000.npy is not as tokens.json lists it"):
        data_sets.build("token_files", root=str(tmp_path), context_length=4)


@pytest.mark.parametrize("count", [3, 60])
def test_bytes_are_dealt_as_the_data_set_of_bytes_deals_them(count, tmp_path):
    source = tmp_path / "texts"
    source.mkdir()
    for i in range(count):
        (source / f"{i}.txt").write_bytes(bytes(range(i, i + 50)) * 3)
    sizes = write_bytes(source, tmp_path / "t", pattern="*.txt", shard_size=1000)
    read = data_sets.build("bytes", path=str(source), pattern="*.txt", context_length=4)
    mine = data_sets.build("token_files", root=str(tmp_path / "t"), context_length=4)
    assert sizes == read.about["sizes"] == mine.about["sizes"]
    assert mine.num_classes == 256
    for fold in ("validation", "test"):
        text = joined(sorted((tmp_path / "t").glob(f"{fold}-*.npy")))
        known = getattr(read, fold).tokens[1:].tolist()  # after the newline that stands before
        assert text == known


def test_too_little_text_writes_nothing(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(ValueError, match="too little text for a train fold"):
        write_bytes(tmp_path / "a", tmp_path / "t")
    with pytest.raises(ValueError, match="is no file and no folder"):
        write_bytes(tmp_path / "b", tmp_path / "t")
    assert not (tmp_path / "t").exists()
