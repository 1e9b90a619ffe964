"""What a low-rank run noted of its ranks and spectra."""

import json
from pathlib import Path
from typing import Any

from ..callbacks.lowrank_training import RANKS

__all__ = ["read_ranks"]


def read_ranks(run: Path) -> list[dict[str, Any]]:
    """Read what a run with `lowrank=` noted at each evaluation.

    Returns:
        Rows with `step`, `ranks` and `spectra`, the last two by name of the weight.

    Raises:
        ValueError: there is none, or the run had no evaluation yet.
    """
    path = run / RANKS
    if not path.is_file():
        raise ValueError(f"{run} holds no {RANKS}; name the folder of a run with lowrank=")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    if not rows:
        raise ValueError(f"{path} is empty; wait for the first evaluation")
    if not all(_is_whole(row) for row in rows):
        raise ValueError(f"{path} is damaged: a row has no step, ranks or spectra")
    return rows


def _is_whole(row: Any) -> bool:
    """Whether a row has a step, a rank by name, and singular values by name."""
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return False
    ranks, spectra = row.get("ranks"), row.get("spectra")
    if not isinstance(ranks, dict) or not isinstance(spectra, dict):
        return False
    values = [*ranks.values(), *(v for values in spectra.values() for v in values)]
    return all(isinstance(value, (int, float)) for value in values)
