"""Text: whole files are dealt once and for all, and every byte belongs to one fold."""

import hashlib

import pytest
from archzoo.train.data import data_sets
from archzoo.train.data.corpus import read_standard_library, split_files, split_texts

FOLDS = ("train", "validation", "test")


def write_files(root, count=200):
    for i in range(count):
        folder = root / f"part{i % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"{i}.py").write_text(f"file {i}\n" * (i % 5 + 1))


def build(path, **options):
    return data_sets.build("bytes", path=str(path), context_length=8, **options)


def test_every_byte_of_a_folder_is_in_one_fold(tmp_path):
    write_files(tmp_path)
    about = build(tmp_path).about
    assert about["files"] == 200
    assert sum(about["sizes"].values()) == sum(p.stat().st_size for p in tmp_path.rglob("*.py"))
    assert about == build(tmp_path).about


def test_a_file_keeps_its_fold_whatever_the_others():
    files = {f"{i}.py": f"<{i}>".encode() for i in range(300)}
    whole = split_files(files)
    half = split_files({name: text for i, (name, text) in enumerate(files.items()) if i % 2})
    for fold in FOLDS:
        assert set(half[fold].split(b"<")) <= set(whole[fold].split(b"<"))
    # Five standard deviations of a binomial of 300 and 1/20.
    assert all(abs(whole[fold].count(b"<") - 15) < 19 for fold in FOLDS[1:])


def test_a_single_file_is_cut_in_order(tmp_path):
    text = bytes(range(256)) * 4
    assert b"".join(split_texts({"a": text}).values()) == text
    (tmp_path / "a.txt").write_bytes(text)
    splits = build(tmp_path / "a.txt")
    assert splits.about["sizes"] == {"train": 921, "validation": 51, "test": 52}
    assert splits.about["sha256"]["train"] == hashlib.sha256(text[:921]).hexdigest()
    assert splits.kind == "tokens"
    assert splits.shape == (8,)
    assert splits.num_classes == 256
    _, targets = splits.test.__getitems__([(0, i) for i in range(len(splits.test))])
    assert targets[targets != -100].tolist() == list(text[-52:])


def test_the_pattern_says_which_files(tmp_path):
    write_files(tmp_path)
    (tmp_path / "notes.md").write_text("notes\n")
    assert build(tmp_path).about["files"] == 200
    assert build(tmp_path, pattern="*").about["files"] == 201
    with pytest.raises(ValueError, match=r"holds no file named '\*.rs'; give data.pattern"):
        build(tmp_path, pattern="*.rs")


def test_the_standard_library_comes_without_its_tests():
    files = read_standard_library()
    assert "argparse.py" in files
    assert "json/decoder.py" in files
    folders = {part for path in files for part in path.split("/")[:-1]}
    assert not folders & {"test", "tests", "site-packages"}


def test_the_default_text_is_the_standard_library():
    splits = data_sets.build("bytes")
    assert splits.shape == (256,)
    assert splits.about["python"].startswith("3.")
    assert len(splits.train) * 256 > 10 * len(splits.test) * 256 > 0


def test_too_little_text_names_the_fold_and_the_option(tmp_path):
    (tmp_path / "a.py").write_text("x")
    (tmp_path / "b.py").write_text("y")
    with pytest.raises(ValueError, match=r"bytes, \w+: context_length=8 is too long"):
        build(tmp_path)
