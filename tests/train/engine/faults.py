"""Runs that fail on one process, each somewhere else; `test_together.py` starts it on two.

Several follow each other in one pair of processes, as the points of a sweep do, since a pair takes
longer to start than they to run. What each process was told goes into a file of its own.
"""

import contextlib
import dataclasses
import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from archzoo.train import assemble
from archzoo.train import run as running
from archzoo.train.callbacks import Callback
from archzoo.train.data import ArrayFold, data_sets
from archzoo.train.engine import loop, metrics
from archzoo.train.engine.saved import best_weights, checkpoint_file

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.train.small_runs import configure  # noqa: E402

RANK = int(os.environ.get("RANK", 0))


def failing(owner: Any, name: str, error: Exception, ranks: tuple[int, ...], call: int = 1) -> Any:
    """Let a function fail on some processes, from a call on."""
    function, calls = getattr(owner, name), []

    def wrapped(*given: Any, **named: Any) -> Any:
        calls.append(name)
        if RANK in ranks and len(calls) >= call:
            raise error
        return function(*given, **named)

    return patch.object(owner, name, wrapped)


def not_a_number() -> Any:
    """Let the loss of one step on one process be NaN."""
    calls = []

    def poisoned(*given: Any) -> torch.Tensor:
        calls.append(1)
        factor = math.nan if RANK == 1 and len(calls) == 8 else 1.0
        return metrics.cross_entropy(*given) * factor

    return patch.object(loop, "loss_for", lambda model: poisoned)


def one_sample() -> Any:
    """Let the validation fold be smaller than the processes are many."""
    build = data_sets.build

    def smaller(name: str, **options: Any) -> Any:
        splits = build(name, **options)
        whole = splits.validation
        return dataclasses.replace(
            splits, validation=ArrayFold(whole.inputs[:1], whole.targets[:1])
        )

    return patch.object(data_sets, "build", smaller)


FULL = OSError(errno.ENOSPC, "No space left on device")
FAULTS: dict[str, Callable[[], Any]] = {
    "none": contextlib.nullcontext,
    "time": contextlib.nullcontext,
    "data": lambda: failing(ArrayFold, "__getitems__", ValueError("a.png: no image"), (1,), 14),
    "callback": lambda: failing(Callback, "loss", KeyError("mine"), (1,), 8),
    "callback of both": lambda: failing(Callback, "loss", KeyError("mine"), (0, 1), 8),
    "nan": not_a_number,
    "evaluation": lambda: failing(metrics, "evaluating", RuntimeError("no memory"), (1,), 2),
    "checkpoint": lambda: failing(checkpoint_file, "content_digest", FULL, (0,), 2),
    "best weights": lambda: failing(best_weights, "save_weights", FULL, (0,), 2),
    "model": lambda: failing(assemble, "build_model", MemoryError("too large"), (1,)),
    "fold": one_sample,
    "end": lambda: failing(Callback, "end", KeyError("mine"), (1,)),
}


def main(jobs: list[tuple[str, str]]) -> None:
    """Do runs, each with its fault and its way to be parallel."""
    for fault, parallel in jobs:
        place, told, began = Path(f"{fault}-{parallel}"), None, time.monotonic()
        # A loss of margins has no state, so that sharded models take it, too.
        more = ["callbacks=[margin_loss]", f"trainer.parallel={parallel}", "trainer.device=cpu"]
        more += ["trainer.max_time=0"] * (fault == "time")
        try:
            with FAULTS[fault]():
                running.run(configure(*more, folder=place))
        except Exception as error:
            told = type(error).__name__, str(error), getattr(error, "said", None)
        assert not torch.distributed.is_initialized()
        about = {"told": told, "seconds": time.monotonic() - began, "folder": place.exists()}
        Path(f"{fault}-{parallel}-{RANK}.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
