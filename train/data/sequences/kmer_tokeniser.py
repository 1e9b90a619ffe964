"""Tokens of a sequence: the k letters that begin at each place, or its bytes.

Overlapping k-mers, as in DNABERT (Ji et al. 2021) and in LoRA-BERT (arXiv:2411.08073). A letter
that stands for several, such as N of DNA or X of proteins, makes every k-mer with it the token
`UNKNOWN`.
"""

# Shape letters: L letters, T = L − k + 1 tokens.

import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ....zoo.backbones.encoder import PADDING
from .setting_error import SettingError

__all__ = ["MASK", "SPECIAL", "UNKNOWN", "Alphabet", "KmerTokeniser"]

Alphabet = Literal["protein", "dna", "bytes"]

MASK, UNKNOWN = PADDING + 1, PADDING + 2
SPECIAL = UNKNOWN + 1
"""The first token that is a k-mer."""

LETTERS = {"protein": "ACDEFGHIKLMNPQRSTVWY", "dna": "ACGT"}
AMBIGUOUS = {"protein": "BJOUXZ", "dna": "NRYSWKMBDHV"}
GAPS = "-."
CAPITALS = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
"""One letter for one: `str.upper` makes two of some, such as ß."""

FACTOR = 0x9E3779B97F4A7C15  # odd, near 2^64 over the golden ratio: Knuth's multiplicative hash


@dataclass(frozen=True)
class KmerTokeniser:
    """Letters to tokens.

    Args:
        alphabet: 20 amino acids, 4 bases (U is T), or the 256 bytes.
        k: Letters of a token, in [1, 6]; 1 for bytes.
        buckets: Most different k-mers; more are hashed to as many.
        gaps: Whether `-` and `.`, as alignments have them, are refused or left out.
        unknown: Whether letters of no alphabet are refused or become `UNKNOWN`.

    Raises:
        ValueError: one of them is out of range.
    """

    alphabet: Alphabet = "protein"
    k: int = 1
    buckets: int = 8192
    gaps: Literal["refuse", "remove"] = "refuse"
    unknown: Literal["refuse", "mark"] = "refuse"

    def __post_init__(self) -> None:
        """Refuse what makes no tokens."""
        if self.alphabet not in (*LETTERS, "bytes"):
            raise ValueError(f"alphabet must be protein, dna or bytes, got {self.alphabet!r}")
        if not 1 <= self.k <= 6:
            raise ValueError(f"k must lie in [1, 6], got {self.k}")
        if self.alphabet == "bytes" and self.k > 1:
            raise ValueError(f"k={self.k} is of letters; bytes are tokens themselves, say k=1")
        if self.buckets < 1:
            raise ValueError(f"buckets must be at least 1, got {self.buckets}")

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "KmerTokeniser":
        """Make the tokeniser that `as_json` wrote."""
        return cls(**facts)

    def as_json(self) -> dict[str, Any]:
        """What a trained model keeps of its tokens."""
        return asdict(self)

    @property
    def words(self) -> int:
        """Different k-mers; the buckets, where there are more."""
        if self.alphabet == "bytes":
            return 256
        return min(len(LETTERS[self.alphabet]) ** self.k, self.buckets)

    @property
    def vocab_size(self) -> int:
        """Tokens: the k-mers, and the padding, the mask and the unknown one before them."""
        return SPECIAL + self.words

    def letters(self, text: str, name: str) -> str:
        """Return a sequence as it is compared: in capitals, without gaps or a stop at its end.

        To be done once: bytes that are cleaned again are other ones.

        Raises:
            ValueError: nothing is left, or gaps that are refused.
        """
        if self.alphabet == "bytes":
            clean = text.encode().decode("latin-1")  # a letter of it is a byte
        else:
            clean = text.translate(CAPITALS)
            clean = clean.replace("U", "T") if self.alphabet == "dna" else clean
            gap = next((i for i, letter in enumerate(clean) if letter in GAPS), None)
            if gap is not None and self.gaps == "refuse":
                plain = (
                    f"{name} has a gap, {clean[gap]!r} at letter {gap + 1}; give sequences that "
                    f"are not aligned"
                )
                raise SettingError(f"{plain}, or say data.gaps=remove", plain)
            # Gaps first: an aligned protein has them behind its stop.
            clean = clean.translate(dict.fromkeys(map(ord, GAPS))).rstrip("*")
        if len(clean) < self.k:
            plain = f"{name} has {len(clean)} letters, less than k={self.k}; leave it out"
            raise SettingError(f"{plain}, or say a smaller data.k", plain)
        return clean

    def encode(self, text: str, name: str = "the sequence") -> np.ndarray:
        """Return the tokens of a sequence as it stands in a file, int32, shape (T,).

        Args:
            text: Its letters.
            name: What it is called in a message.

        Raises:
            ValueError: fewer letters than k, gaps or letters that are refused.
        """
        return self.tokens(self.letters(text, name), name)

    def tokens(self, clean: str, name: str) -> np.ndarray:
        """Return the tokens of a sequence that `letters` returned, int32, shape (T,).

        Raises:
            ValueError: letters that are refused.
        """
        raw = np.frombuffer(clean.encode("latin-1", errors="replace"), dtype=np.uint8)
        if self.alphabet == "bytes":
            return raw.astype(np.int32) + SPECIAL
        known = LETTERS[self.alphabet]
        table = np.full(256, -2)
        table[[ord(letter) for letter in AMBIGUOUS[self.alphabet]]] = -1
        table[[ord(letter) for letter in known]] = np.arange(len(known))
        numbers = table[raw]
        strange = np.flatnonzero(numbers == -2)
        if len(strange) and self.unknown == "refuse":
            place = int(strange[0])
            plain = (
                f"{name} has {clean[place]!r} at letter {place + 1}, which is no letter of "
                f"{self.alphabet}; mend it"
            )
            raise SettingError(f"{plain}, or say data.unknown=mark or another data.alphabet", plain)
        windows = np.lib.stride_tricks.sliding_window_view(numbers, self.k)
        values = windows @ (len(known) ** np.arange(self.k)[::-1])
        if len(known) ** self.k > self.buckets:
            mixed = values.astype(np.uint64) * np.uint64(FACTOR)  # wraps at 2^64
            values = ((mixed >> np.uint64(32)) % np.uint64(self.buckets)).astype(np.int64)
        return np.where((windows < 0).any(1), UNKNOWN, values + SPECIAL).astype(np.int32)
