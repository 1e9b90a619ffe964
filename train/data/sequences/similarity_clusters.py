"""Clusters of similar sequences, so that no homologue of what is learned is tested.

Two sequences are similar if they have in common a share of the words of the one that has fewer, a
word being w letters in a row; a cluster is a connected component of the similar ones. So sequences
of two clusters are never similar, whatever their order. At identity p two homologues have about p^w
of their words in common: 3 % is 56 % of the letters at w = 6. Two sequences that share one word
alone are not similar: of random proteins of 300 letters one pair in 700 does. So the share is that
of sequences with 67 words or more; shorter ones need more of theirs, and those with one word or
none are similar to nothing but their equals.

Differs from CD-HIT (Li and Godzik 2006) and Linclust (Steinegger and Söding 2018): no alignment,
and components in place of the neighbours of a representative, of which two may be near each other.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["FEWEST", "WORDS", "shared_words", "similarity_clusters"]

WORDS = {"protein": 6, "dna": 13, "bytes": 6}
"""Letters of a word by alphabet, so that random sequences have hardly one in common."""

FEWEST = 2
"""Words that similar sequences share at least."""

MOST_PAIRS = 100_000_000
"""Pairs of sequences and a common word, eight bytes each, that are looked at."""


COMPLEMENT = np.arange(256, dtype=np.uint8)
"""The byte of the base that pairs with that of another, or with any of several."""

COMPLEMENT[[*b"ACGTRYSWKMBDHVN"]] = [*b"TGCAYRSWMKVHDBN"]


def similarity_clusters(
    sequences: Sequence[str], word: int, share: float, *, strands: bool = False
) -> np.ndarray:
    """Number the cluster of each sequence by its first member, int64 (N,).

    Args:
        sequences: Their letters, Latin-1.
        word: w, at least 1.
        share: Of the words of the sequence with fewer, in (0, 1].
        strands: As in `shared_words`.

    Raises:
        ValueError: share outside (0, 1], or as `shared_words`.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"similarity must lie in (0, 1], got {share}")
    first, second, common, counts = shared_words(sequences, word, strands=strands)
    needed = np.maximum(FEWEST, share * np.minimum(counts[first], counts[second]))
    alike = common >= needed
    first, second = first[alike], second[alike]
    same: dict[str, int] = {}
    found = np.array([same.setdefault(s, i) for i, s in enumerate(sequences)], dtype=np.int64)
    while True:  # each cluster takes the least number of its neighbours, until none is less
        before = found.copy()
        least = np.minimum(found[first], found[second])
        np.minimum.at(found, found[first], least)
        np.minimum.at(found, found[second], least)
        np.minimum.at(found, first, least)
        np.minimum.at(found, second, least)
        found = found[found]
        if np.array_equal(found, before):
            return found


def shared_words(
    sequences: Sequence[str], word: int, *, strands: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Count the different words that sequences have in common.

    Args:
        sequences: Their letters, Latin-1.
        word: Letters of a word.
        strands: Whether letters are of DNA, where a word and its reverse complement are one.

    Returns:
        Numbers of the two sequences and the count of each pair that has any in common, and the
        number of words of every sequence.

    Raises:
        ValueError: word < 1 or too long for numbers of 63 bits, or so many sequences with a word in
            common, such as a repeat of DNA, that their pairs are too many.
    """
    raw = [np.frombuffer(s.encode("latin-1", errors="replace"), dtype=np.uint8) for s in sequences]
    letters = np.unique(np.concatenate([*raw, np.zeros(0, dtype=np.uint8)]))
    if strands:
        letters = np.union1d(letters, COMPLEMENT[letters])
    if word < 1 or len(letters) ** word >= 2**63:
        raise ValueError(f"a word of {word} of {len(letters)} letters must lie in [1, 63 bits)")
    scale = len(letters) ** np.arange(word)

    def numbered(each: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(np.searchsorted(letters, each), word)
        return windows @ scale

    own = []
    for each in raw:
        if len(each) < word:
            own.append(np.zeros(0, dtype=np.int64))
            continue
        values = numbered(each)
        if strands:
            values = np.minimum(values, numbered(COMPLEMENT[each][::-1])[::-1])
        own.append(np.unique(values))
    counts = np.array([len(each) for each in own], dtype=np.int64)
    words = np.concatenate([*own, np.zeros(0, dtype=np.int64)])
    owner = np.repeat(np.arange(len(own)), counts)
    order = np.argsort(words, kind="stable")  # owners of a word stay in ascending order
    words, owner = words[order], owner[order]
    sizes = np.unique(words, return_counts=True)[1]
    if (many := int((sizes * (sizes - 1) // 2).sum())) > MOST_PAIRS:
        raise ValueError(
            f"{len(own)} sequences have {many:,} times a word in common, the most frequent in "
            f"{int(sizes.max())} of them: too often to be compared; give clusters by data.cluster=…"
        )
    pairs = [np.zeros(0, dtype=np.int64)]
    place, step = np.arange(len(words)), 1
    while len(place):
        place = place[place + step < len(words)]
        place = place[words[place] == words[place + step]]
        pairs.append(owner[place] * len(own) + owner[place + step])
        step += 1
    both, common = np.unique(np.concatenate(pairs), return_counts=True)
    return both // max(1, len(own)), both % max(1, len(own)), common, counts
