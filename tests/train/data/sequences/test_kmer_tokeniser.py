"""k-mers: as many as letters allow, told apart, hashed where they are too many, refused by name."""

import itertools

import numpy as np
import pytest
from archzoo.train.data.sequences.kmer_tokeniser import SPECIAL, UNKNOWN, KmerTokeniser


@pytest.mark.parametrize("k", range(1, 7))
@pytest.mark.parametrize(("alphabet", "letters"), [("dna", "ACGT"), ("protein", "ACDY")])
def test_every_place_but_the_last_begins_a_token_and_different_words_differ(alphabet, letters, k):
    tokeniser = KmerTokeniser(alphabet, k, buckets=20**6)
    words = ["".join(word) for word in itertools.product(letters, repeat=k)]
    tokens = [tokeniser.encode(word) for word in words]
    assert all(len(each) == 1 for each in tokens)
    assert len({int(each[0]) for each in tokens}) == len(words)
    text = "".join(words)[:50]
    if len(text) >= k:
        whole = tokeniser.encode(text)
        assert len(whole) == len(text) - k + 1
        alone = [tokeniser.encode(text[i : i + k])[0] for i in range(len(whole))]
        assert whole.tolist() == [*map(int, alone)]


@pytest.mark.parametrize(
    ("alphabet", "k", "words"),
    [("dna", 1, 4), ("dna", 6, 4096), ("protein", 1, 20), ("protein", 3, 8000), ("bytes", 1, 256)],
)
def test_the_vocabulary_is_every_word_and_three_more(alphabet, k, words):
    tokeniser = KmerTokeniser(alphabet, k)
    assert tokeniser.vocab_size == SPECIAL + words
    rng = np.random.default_rng(0)
    letters = {"dna": "ACGT", "protein": "ACDEFGHIKLMNPQRSTVWY"}.get(alphabet)
    text = "".join(rng.choice([*(letters or "xyz \n")], size=5000))
    tokens = tokeniser.encode(text)
    assert tokens.dtype == np.int32
    assert tokens.min() >= SPECIAL and tokens.max() < tokeniser.vocab_size


def test_too_many_words_are_hashed_evenly_into_the_buckets():
    tokeniser = KmerTokeniser("protein", 5, buckets=64)
    rng = np.random.default_rng(0)
    text = "".join(rng.choice([*"ACDEFGHIKLMNPQRSTVWY"], size=64_000))
    tokens = tokeniser.encode(text)
    counts = np.bincount(tokens - SPECIAL, minlength=64)
    # Each of 64 buckets expects 1,000 with a deviation of some 31: seven of them.
    assert len(counts) == 64 and counts.min() > 780 and counts.max() < 1220
    assert np.array_equal(tokens, tokeniser.encode(text.lower()))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_letter_that_stands_for_several_makes_its_words_unknown(k):
    tokens = KmerTokeniser("dna", k).encode("ACGTNACGT")
    unknown = [i for i in range(len(tokens)) if i <= 4 < i + k]
    assert np.flatnonzero(tokens == UNKNOWN).tolist() == unknown


def test_rna_reads_as_dna_and_a_stop_ends_a_protein():
    dna = KmerTokeniser("dna", 2)
    assert np.array_equal(dna.encode("acgu"), dna.encode("ACGT"))
    protein = KmerTokeniser()
    assert np.array_equal(protein.encode("MKV*"), protein.encode("MKV"))


@pytest.mark.parametrize("text", ["MKV*--", "MKV--*", "-M.KV*", "mkv*"])
def test_a_stop_ends_a_protein_whatever_gaps_are_around_it(text):
    tokeniser = KmerTokeniser(gaps="remove")
    assert tokeniser.letters(text, "one") == "MKV"


def test_a_letter_stays_one_letter():
    tokens = KmerTokeniser(unknown="mark").encode("MßKſV")
    assert len(tokens) == 5 and np.flatnonzero(tokens == UNKNOWN).tolist() == [1, 3]


def test_bytes_are_those_of_the_text():
    tokens = KmerTokeniser("bytes").encode("aß-\n")
    assert (tokens - SPECIAL).tolist() == [*"aß-\n".encode()]


def test_a_tokeniser_comes_back_from_what_a_model_keeps():
    tokeniser = KmerTokeniser("dna", 4, 100, "remove", "mark")
    assert KmerTokeniser.of(tokeniser.as_json()) == tokeniser


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MK-VL", "seq1 has a gap, '-' at letter 3; .*data.gaps=remove"),
        ("MK.VL", "seq1 has a gap, '.' at letter 3"),
        ("MK1VL", "seq1 has '1' at letter 3, which is no letter of protein; .*data.unknown=mark"),
        ("MKßVLé", "which is no letter of protein"),
        ("MKλVL", "which is no letter of protein"),
        ("", "seq1 has 0 letters, less than k=2"),
        ("M", "seq1 has 1 letters, less than k=2; .*smaller data.k"),
    ],
)
def test_letters_that_cannot_be_read_are_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as refused:
        KmerTokeniser("protein", 2).encode(text, "seq1")
    assert "\n" not in str(refused.value)


def test_gaps_may_be_left_out_and_strange_letters_marked():
    plain = KmerTokeniser("protein", 2)
    loose = KmerTokeniser("protein", 2, gaps="remove", unknown="mark")
    assert np.array_equal(loose.encode("M-K..V"), plain.encode("MKV"))
    assert loose.encode("MK1V").tolist() == [plain.encode("MK")[0], UNKNOWN, UNKNOWN]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphabet": "rna"}, "alphabet must be protein, dna or bytes, got 'rna'"),
        ({"k": 0}, r"k must lie in \[1, 6\], got 0"),
        ({"k": 7}, r"k must lie in \[1, 6\], got 7"),
        ({"alphabet": "bytes", "k": 2}, "k=2 is of letters"),
        ({"buckets": 0}, "buckets must be at least 1, got 0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        KmerTokeniser(**options)
