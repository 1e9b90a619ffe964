"""Runs in parts, each on another number of processes; `test_world_sizes.py` starts it.

Numbers are float64, so that what differs but for rounding shows. Every process writes down which
samples it was given.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from archzoo.train import run as running
from archzoo.train.data import data_sets
from archzoo.train.data.data_set import Key
from archzoo.train.engine import loop
from archzoo.train.errors import RunStopped

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.train.small_runs import configure  # noqa: E402


@dataclass
class Noting:
    """A fold in float64 that notes the keys of its samples."""

    fold: Any
    given: list[Key]

    def __len__(self) -> int:
        return len(self.fold)

    def __getitems__(self, keys: list[Key]) -> tuple[torch.Tensor, torch.Tensor]:
        self.given += keys
        inputs, targets = self.fold.__getitems__(keys)
        return (inputs.double() if inputs.is_floating_point() else inputs), targets


@contextlib.contextmanager
def in_float64(given: list[Key]) -> Iterator[None]:
    """Read data and build models in float64, and note the samples of the training fold."""
    build = data_sets.build

    def noting(name: str, **options: Any) -> Any:
        splits = build(name, **options)
        folds = {n: Noting(getattr(splits, n), []) for n in ("validation", "test")}
        return replace(splits, train=Noting(splits.train, given), **folds)

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(data_sets, "build", noting):
            yield
    finally:
        torch.set_default_dtype(before)


class After:
    """A request to stop that comes after a number of steps."""

    def __init__(self, steps: int | None) -> None:
        self.left = steps

    @property
    def signal(self) -> str | None:
        """SIGUSR1, once the steps are done; it is asked for once a step."""
        if self.left is None:
            return None
        self.left -= 1
        return None if self.left else "SIGUSR1"


def main(jobs: list[tuple[str, int | None, list[str]]]) -> None:
    """Do a part of each run: so many steps from where it stands, or all that are left."""
    rank = os.environ.get("RANK", "0")
    for folder, steps, overrides in jobs:
        given: list[Key] = []
        stopping = patch.object(
            loop, "stop_request", lambda _, n=steps: contextlib.nullcontext(After(n))
        )
        # Stopped or not is told by the result, which is there or is not.
        with in_float64(given), stopping, contextlib.suppress(RunStopped):
            running.run(configure(*overrides, "resume=auto", folder=Path(folder)))
        world = os.environ.get("WORLD_SIZE", "1")
        Path(f"{folder}-{world}-{rank}.json").write_text(json.dumps(given))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
