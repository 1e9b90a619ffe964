"""Token files: three formats, and one line for each that is none of them."""

import pickle

import numpy as np
import pytest
from archzoo.train.data.shards.open_shard import open_shard

TOKENS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 255], dtype=np.uint16)


def llm_c(tokens, magic=20240520, version=1, told=None):
    """The bytes of a file of llm.c."""
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(tokens) if told is None else told
    return header.tobytes() + tokens.tobytes()


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<u4", "i4", "i8"])
def test_an_npy_file_says_its_type(dtype, tmp_path):
    np.save(tmp_path / "a.npy", TOKENS.astype(dtype))
    shard = open_shard(tmp_path / "a.npy")
    assert len(shard) == len(TOKENS)
    assert shard.read(2, 9).tolist() == TOKENS[2:].tolist()
    assert shard.read(2, 9).dtype == np.int64


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_a_bare_file_has_the_type_that_is_given(dtype, tmp_path):
    (tmp_path / "a.bin").write_bytes(TOKENS.astype(dtype).tobytes())
    assert open_shard(tmp_path / "a.bin", dtype).read(0, 9).tolist() == TOKENS.tolist()


@pytest.mark.parametrize(
    ("dtype", "magic", "version"), [("uint16", 20240520, 1), ("uint32", 20240801, 7)]
)
def test_a_header_of_llm_c_says_the_type_and_is_no_token(dtype, magic, version, tmp_path):
    (tmp_path / "a.bin").write_bytes(llm_c(TOKENS.astype(dtype), magic, version))
    shard = open_shard(tmp_path / "a.bin")
    assert (shard.tokens.dtype, shard.read(0, 99).tolist()) == (np.dtype(dtype), TOKENS.tolist())


def test_a_copy_of_a_shard_holds_the_name_and_maps_the_file_again(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(10**6, np.uint8))
    written = pickle.dumps(open_shard(tmp_path / "a.npy"))
    assert len(written) < 1000
    assert len(pickle.loads(written)) == 10**6


def npy(array):
    return lambda path: np.save(path, array, allow_pickle=False)


def raw(content):
    return lambda path: path.write_bytes(content)


def cut(path):
    np.save(path, TOKENS)
    path.write_bytes(path.read_bytes()[:-3])


def longer(path):
    np.save(path, TOKENS)
    path.write_bytes(path.read_bytes() + b"00")


def archive(path):
    np.savez(path.with_suffix(".npz"), TOKENS)
    path.with_suffix(".npz").rename(path)


WRONG = {
    "empty": ("a.bin", raw(b""), "uint16", "is empty"),
    "odd": ("a.bin", raw(b"abc"), "uint16", "3 bytes, which are no whole number of uint16 tokens"),
    "no type": ("a.bin", raw(b"abcd"), None, "does not say its type; give data.dtype"),
    "short header": ("a.bin", raw(b"a"), None, "does not say its type"),
    "cut header": (
        *("a.bin", raw(llm_c(TOKENS, told=10)), None),
        "was cut off: it has 1042 bytes and its header tells 1044",
    ),
    "long header": ("a.bin", raw(llm_c(TOKENS, told=8)), None, "goes on behind its end"),
    "no token": ("a.bin", raw(llm_c(TOKENS[:0])), None, "holds no tokens"),
    "other type": ("a.bin", raw(llm_c(TOKENS)), "uint8", "holds uint16 by its own word"),
    "cut npy": ("a.npy", cut, None, "is no whole .npy file"),
    "long npy": ("a.npy", longer, None, "goes on behind its end"),
    "no npy": ("a.npy", raw(b"tokens"), None, "is no whole .npy file"),
    "archive": ("a.npy", archive, None, "is no .npy file but another"),
    "empty npy": ("a.npy", npy(TOKENS[:0]), None, "holds no tokens|is no whole .npy file"),
    "floats": ("a.npy", npy(np.ones(3)), None, "holds float64 of shape"),
    "table": ("a.npy", npy(TOKENS.reshape(3, 3)), None, r"of shape \(3, 3\)"),
    "wide": ("a.npy", npy(TOKENS.astype(np.uint64)), None, "holds uint64"),
    "type twice": ("a.npy", npy(TOKENS), "uint32", "not data.dtype=uint32; leave it out"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_is_none_is_refused_in_one_line_by_name(case, tmp_path):
    name, write, dtype, said = WRONG[case]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=said) as caught:
        open_shard(tmp_path / name, dtype)
    assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing.bin cannot be read: No such file"):
        open_shard(tmp_path / "nothing.bin", "uint8")
