"""Checkpoints: everything a run needs to go on as if it had never stopped, in one file.

It is the same file whatever wrote it (`named_states`), so a run may go on with another number of
processes. What each of these has of its own is kept in a list, by rank.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.counter_random import counter_key
from ..errors import RunError
from .loggers import CSVLogger
from .named_states import load_states, model_state, optimizer_state
from .process import World
from .run_state import RunState
from .saved.checkpoint_file import read_newest, write_checkpoint
from .saved.resume import decisive

__all__ = [
    "generator_states",
    "load_run",
    "own_sum",
    "restore_generators",
    "save_run",
    "seed_generators",
]


def save_run(run: RunState) -> None:
    """Write a checkpoint of a run's step; every process must call it."""
    keep = run.config.keep_checkpoints
    best_steps = [*run.best_weights.steps, run.best_step][-keep:]
    state = {
        "model": model_state(run.model),
        "optimizer": optimizer_state(run.model, run.optimizer),
        "scaler": run.scaler.state_dict(),
        "callbacks": [callback.state_dict() for callback in run.callbacks],
        "called": [type(callback).__name__ for callback in run.callbacks],
        "generators": run.world.gather(generator_states()),
        "config": decisive(run.folder.running),
        "logged": _logged(run),
        "step": run.step,
        "reported": run.reported,
        "best": run.best,
        "best_step": run.best_step,
        "best_steps": best_steps,
        "window": [run.world.gather(float(run.window[0])), run.window[1]],
    }
    if run.world.leader:
        write_checkpoint(run.folder.checkpoint, state, keep)
    run.best_weights.prune(best_steps, keep, run.step)


def load_run(run: RunState, path: Path) -> list[str]:
    """Bring a run to where the newest whole checkpoint was written.

    Returns:
        What was wrong with newer ones, and with files of rows, a sentence each.

    Raises:
        RunError: it is missing, damaged, or of another model, optimiser or set of callbacks.
    """
    state, damaged = read_newest(path, run.folder.running)
    called = [type(callback).__name__ for callback in run.callbacks]
    written = state.get("called", called)  # not there before they had names
    if written != called or len(state["callbacks"]) != len(called):
        raise RunError(
            f"{path} was written with callbacks {_names(written)}, this run has {_names(called)}; "
            f"resume with the same callbacks= and lowrank="
        )
    for callback, kept in zip(run.callbacks, state["callbacks"], strict=True):
        callback.check_state_dict(kept)
    load_states(run.model, run.optimizer, state)
    for callback, kept in zip(run.callbacks, state["callbacks"], strict=True):
        callback.load_state_dict(kept)
    run.scaler.load_state_dict(state["scaler"])
    run.step, run.best = state["step"], state["best"]
    # Files of earlier versions were written after their step was reported, and had one best file.
    run.reported, run.best_step = state.get("reported", True), state.get("best_step", 0)
    keep = run.config.keep_checkpoints
    run.best_weights.prune(state.get("best_steps", ()), keep, run.step)
    run.window = [own_sum(state["window"][0], run.world), state["window"][1]]
    if len(state["generators"]) == run.world.size:
        restore_generators(state["generators"][run.world.rank])
    else:
        # Of another number of processes there is no state to go back to. The step is in the seed,
        # so that dropout does not draw again what it drew at the beginning.
        seed_generators(counter_key(torch.initial_seed(), run.step) % 2**32)
    first = run.step + run.reported
    for logger in run.loggers:
        run.folder.guard(lambda each=logger: each.resume(first))
    kept, found = state.get("logged", {}), _logged(run)
    changed = [name for name in found if kept.get(name, found[name]) != found[name]]
    return [f"passed over: {what}" for what in damaged] + [
        f"{name} holds other rows before step {run.step} than were written, or has lost some"
        for name in changed
    ]


def _logged(run: RunState) -> dict[str, str]:
    """Digests of the files of rows that the loggers wrote."""
    files = (logger for logger in run.loggers if isinstance(logger, CSVLogger))
    return {logger.path.name: logger.digest for logger in files}


def own_sum(sums: list[float] | Tensor, world: World) -> Tensor:
    """The sum of losses of this process; of another number of processes, the mean of theirs."""
    if isinstance(sums, Tensor):  # earlier versions wrote the mean
        sums = [float(sums)]
    own = sums[world.rank] if len(sums) == world.size else sum(sums) / len(sums)
    return torch.tensor(own, device=world.device)


def _names(called: list[str]) -> str:
    return ", ".join(called) or "(none)"


def seed_generators(seed: int) -> None:
    """Seed every global generator; the loop draws from torch's, a callback may from the others."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def generator_states() -> dict[str, Any]:
    """Return the states of all global random generators, as tensors and plain values."""
    kind, key, *rest = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(np.asarray(key, dtype=np.int64)), *rest],
        "python": [version, list(internal), gauss],
    }


def restore_generators(state: dict[str, Any]) -> None:
    """Restore what `generator_states` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, key, *rest = state["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
