"""Proteins drawn at random, and families of mutated copies of them."""

import random
from pathlib import Path

__all__ = ["LETTERS", "families", "mutated", "protein", "write_table"]

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def protein(source: random.Random, length: int = 120) -> str:
    """Draw letters evenly."""
    return "".join(source.choices(LETTERS, k=length))


def mutated(letters: str, source: random.Random, share: float = 0.1) -> str:
    """Draw a share of the letters anew."""
    return "".join(source.choice(LETTERS) if source.random() < share else c for c in letters)


def families(count: int, size: int, seed: int = 0) -> list[list[str]]:
    """Draw families of homologues, none like another."""
    source = random.Random(seed)
    found = []
    for _ in range(count):
        first = protein(source)
        found.append([first] + [mutated(first, source) for _ in range(size - 1)])
    return found


def write_table(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Write classes and sequences as a table with a header, the first two columns."""
    path.write_text("kind,sequence\n" + "".join(f"{kind},{letters}\n" for kind, letters in rows))
    return path
