"""What a model keeps of the data that it was trained on, and whether it is that of others."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import nn

__all__ = ["conventions_of", "different_convention"]

READ = {
    "label_names": "the list of classes",
    "mean": "the mean of pixels",
    "std": "the deviation of pixels",
    "encoder": "the encoder of a table's rows",
    "tokeniser": "the tokeniser of sequences",
}
"""How samples become numbers, and numbers classes. Sizes of images are no part of it."""
LONGEST = 60

LENIENT = ("gaps", "unknown")
"""What a tokeniser refuses, which changes no token of what it reads."""


def conventions_of(model: nn.Module) -> dict[str, Any]:
    """What a model keeps of the data that it was trained on."""
    return cast("dict[str, Any]", getattr(model, "conventions", {}))


def different_convention(
    one: Mapping[str, Any], other: Mapping[str, Any], keys: Iterable[str] = tuple(READ)
) -> str | None:
    """Say by what two ways of reading data differ first, with both values where they are short.

    What only one of them has is no difference.

    Args:
        one: Of a model, or of `Splits`.
        other: The same.
        keys: Which of the facts in `READ` are compared.
    """
    for key in keys:
        pair: list[Any] = [facts.get(key) for facts in (one, other)]
        if key == "tokeniser" and None not in pair:
            pair = _differing(*pair)
        if None not in pair and not _same(*pair):
            told = [json.dumps(value) for value in pair]
            short = all(len(text) <= LONGEST for text in told)
            return f"{READ[key]} differs" + (f", {told[0]} and {told[1]}" if short else "")
    return None


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What two tokenisers cut otherwise, of each."""
    keys = [
        key
        for key in dict.fromkeys((*one, *other))
        if key not in LENIENT and one.get(key) != other.get(key)
    ]
    return [{key: facts.get(key) for key in keys} for facts in (one, other)]


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same, as they are or after they were written and read."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6)  # float32 on the way
    return one == other
