"""Checkpoints: everything a run needs to go on as if it had never stopped, in one file.

A file is written beside its final name, flushed and renamed, and holds a digest of its content; it
is read with `weights_only=True`, so it can hold tensors, numbers and strings and never code. The
newest is `last.pt`, those before it `last-1.pt`, …; a run goes on from the newest whole one. It is
the same file whatever wrote it: shards are gathered and the optimiser's state has the parameters'
names, so a run may go on in one process, under DDP or under FSDP, and with any number of processes.
"""

from __future__ import annotations

import os
import pickle
import random
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...zoo.share.atomic_write import replacing
from ...zoo.share.content_digest import content_digest
from ..errors import RunError
from .loggers import CSVLogger
from .process import World, is_sharded
from .resume import conflict, decisive

if TYPE_CHECKING:
    from .loop import Trainer

__all__ = [
    "checkpoints",
    "generator_states",
    "load_run",
    "load_states",
    "model_state",
    "optimizer_state",
    "read_checkpoint",
    "read_newest",
    "restore_generators",
    "save_run",
    "write_checkpoint",
]

# What three thousand damaged files made torch.load raise, and what a bad argument inside one would.
DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)
DIGEST = "digest"


def write_checkpoint(path: Path, state: Mapping[str, Any], keep: int = 1) -> None:
    """Write a checkpoint atomically.

    Args:
        path: The file.
        state: Nested mappings and sequences of tensors and plain values.
        keep: How many checkpoints stay, this one included: those before it are renamed.

    Raises:
        RunError: the disk refused; the file that was there is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        arrived = path.with_name(f"arrived{path.suffix}")
        with replacing(arrived) as temporary, open(temporary, "wb") as file:
            torch.save({**state, DIGEST: content_digest(state)}, file)
        _number_anew(path, keep)
        os.replace(arrived, path)
    except (OSError, RuntimeError) as error:
        # torch's zip writer turns a failed write into a RuntimeError that hides the cause.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        kept = "the checkpoint before it is intact" if path.exists() else "none was there before"
        raise RunError(
            f"could not write {path}: {cause}; {kept}. Make room and go on with resume=auto"
        ) from error


def _number_anew(path: Path, keep: int) -> None:
    """Count the checkpoints before a new one up by one, and leave no more than fit beside it."""
    for number, file in reversed(list(enumerate(checkpoints(path), 1))):
        if number < keep:
            file.rename(path.with_name(f"{path.stem}-{number}{path.suffix}"))
        elif file != path:
            file.unlink()


def checkpoints(path: Path) -> list[Path]:
    """List `last.pt` and the checkpoints before it, the newest first."""
    number = re.compile(rf"{re.escape(path.stem)}-(\d+){re.escape(path.suffix)}")
    older = {int(m[1]): f for f in path.parent.glob("*") if (m := number.fullmatch(f.name))}
    return [*([path] if path.is_file() else []), *(older[n] for n in sorted(older))]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        RunError: the file is missing, damaged, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise RunError(f"no checkpoint at {path}; start without resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        digest = state.pop(DIGEST, None)  # not there in files of earlier versions
    except DAMAGED as error:
        said = textwrap.shorten(str(error), 120, placeholder=" …")
        raise RunError(
            f"{path} is damaged or no checkpoint of ours ({type(error).__name__}: {said}); "
            f"remove it, or resume from another folder"
        ) from error
    if digest is not None and digest != content_digest(state):
        raise RunError(
            f"{path} is damaged: its content has another digest than when it was written; "
            f"remove it, or resume from another folder"
        )
    return state


def read_newest(
    path: Path, config: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Read the newest whole checkpoint of `last.pt` and those before it.

    Args:
        path: Of `last.pt`.
        config: Of the run; a checkpoint of another one is none.

    Returns:
        The state, and what was wrong with newer ones, a sentence each.

    Raises:
        RunError: there is none, or none is whole.
    """
    damaged: list[str] = []
    for candidate in checkpoints(path):
        try:
            state = read_checkpoint(candidate)
        except RunError as error:
            damaged.append(str(error))
            continue
        why = conflict(state.get("config", {}), config) if config else None
        if why is None:
            return state, damaged
        damaged.append(
            f"{candidate} is not of the run of config.yaml: {why}; bring the right file back"
        )
    if damaged:
        raise RunError(damaged[0])
    raise RunError(f"no checkpoint at {path}; start without resume")


def save_run(trainer: Trainer) -> None:
    """Write a checkpoint of a trainer's step; every process must call it."""
    keep = trainer.config.keep_checkpoints
    best_steps = [*trainer.folder.best_steps, trainer.best_step][-keep:]
    state = {
        "model": model_state(trainer.model),
        "optimizer": optimizer_state(trainer.model, trainer.optimizer),
        "scaler": trainer.scaler.state_dict(),
        "callbacks": [callback.state_dict() for callback in trainer.callbacks],
        "called": [type(callback).__name__ for callback in trainer.callbacks],
        "generators": trainer.world.gather(generator_states()),
        "config": decisive(trainer.folder.running),
        "logged": _logged(trainer),
        "step": trainer.step,
        "reported": trainer.reported,
        "best": trainer.best,
        "best_step": trainer.best_step,
        "best_steps": best_steps,
        "window": [trainer.world.gather(float(trainer.window[0])), trainer.window[1]],
    }
    if trainer.world.leader:
        write_checkpoint(trainer.folder.checkpoint, state, keep)
    trainer.folder.prune_best(best_steps, keep, trainer.step)


def load_run(trainer: Trainer, path: Path) -> list[str]:
    """Bring a trainer to where the newest whole checkpoint was written.

    Returns:
        What was wrong with newer ones, and with files of rows, a sentence each.

    Raises:
        RunError: it is missing, damaged, or of another model, optimiser or set of callbacks.
    """
    state, damaged = read_newest(path, trainer.folder.running)
    called = [type(callback).__name__ for callback in trainer.callbacks]
    written = state.get("called", called)  # not there before they had names
    if written != called or len(state["callbacks"]) != len(called):
        raise RunError(
            f"{path} was written with callbacks {_names(written)}, this run has {_names(called)}; "
            f"resume with the same callbacks= and lowrank="
        )
    for callback, kept in zip(trainer.callbacks, state["callbacks"], strict=True):
        callback.check_state_dict(kept)
    load_states(trainer.model, trainer.optimizer, state)
    for callback, kept in zip(trainer.callbacks, state["callbacks"], strict=True):
        callback.load_state_dict(kept)
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.step, trainer.best = state["step"], state["best"]
    # Files of earlier versions were written after their step was reported, and had one best file.
    trainer.reported, trainer.best_step = state.get("reported", True), state.get("best_step", 0)
    keep = trainer.config.keep_checkpoints
    trainer.folder.prune_best(state.get("best_steps", ()), keep, trainer.step)
    trainer.window = [own_sum(state["window"][0], trainer.world), state["window"][1]]
    # With another number of processes there is no state to go back to: dropout draws anew.
    if len(state["generators"]) == trainer.world.size:
        restore_generators(state["generators"][trainer.world.rank])
    first = trainer.step + trainer.reported
    for logger in trainer.loggers:
        trainer.folder.guard(lambda each=logger: each.resume(first))
    kept, found = state.get("logged", {}), _logged(trainer)
    changed = [name for name in found if kept.get(name, found[name]) != found[name]]
    return [f"passed over: {what}" for what in damaged] + [
        f"{name} holds other rows before step {trainer.step} than were written, or has lost some"
        for name in changed
    ]


def _logged(trainer: Trainer) -> dict[str, str]:
    """Digests of the files of rows that the loggers wrote."""
    files = (logger for logger in trainer.loggers if isinstance(logger, CSVLogger))
    return {logger.path.name: logger.digest for logger in files}


def model_state(model: nn.Module) -> dict[str, Any]:
    """Return the whole state dict of a model; all processes must call it when it is sharded."""
    if not is_sharded(model):
        return model.state_dict()
    # Only a sharded run pays the second that this import takes.
    from torch.distributed.checkpoint import state_dict as sharded

    whole = sharded.StateDictOptions(full_state_dict=True, cpu_offload=True)
    return sharded.get_model_state_dict(model, options=whole)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the whole state of an optimiser by the names of the parameters.

    All processes must call it when the model is sharded.
    """
    if not is_sharded(model):
        return _by_name(optimizer.state_dict(), _names_in_order(model, optimizer))
    from torch.distributed.checkpoint import state_dict as sharded

    whole = sharded.StateDictOptions(full_state_dict=True, cpu_offload=True)
    return sharded.get_optimizer_state_dict(model, optimizer, options=whole)


def load_states(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the `model` and `optimizer` of a checkpoint.

    Raises:
        RunError: they are of another model or optimiser.
    """
    names = _names_in_order(model, optimizer)
    try:
        known = _by_name(state["optimizer"], names)  # files of earlier versions hold numbers
        written = [name for group in known["param_groups"] for name in group["params"]]
        if written != names:
            other = min(set(written) ^ set(names), default=names[0])
            raise ValueError(f"its optimiser changes other parameters, such as {other}")
        if is_sharded(model):
            from torch.distributed.checkpoint import state_dict as sharded

            # The optimiser goes first: to make room for its state PyTorch takes a step of length 0,
            # in which a low-rank method may act, and whatever that changes is then overwritten.
            # What has no state, such as vectors that were drawn anew, gets none again.
            whole = sharded.StateDictOptions(full_state_dict=True, strict=False)
            sharded.set_optimizer_state_dict(model, optimizer, known, options=whole)
            for name, p in model.named_parameters():
                if name not in known["state"]:
                    optimizer.state.pop(p, None)
            whole = sharded.StateDictOptions(full_state_dict=True)
            sharded.set_model_state_dict(model, state["model"], options=whole)
        else:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(known)
    except (LookupError, RuntimeError, ValueError) as error:
        said = textwrap.shorten(str(error), 200, placeholder=" …")
        raise RunError(f"the checkpoint is of another model or optimiser: {said}") from error


def _names_in_order(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the parameters in the order in which an optimiser numbers them."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _by_name(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Replace the numbers of parameters in an optimiser's state by their names."""

    def name(key: int | str) -> str:
        return names[key] if isinstance(key, int) else key

    groups = [{**g, "params": [name(k) for k in g["params"]]} for g in state["param_groups"]]
    return {"state": {name(k): v for k, v in state["state"].items()}, "param_groups": groups}


def own_sum(sums: list[float] | Tensor, world: World) -> Tensor:
    """The sum of losses of this process; of another number of processes, the mean of theirs."""
    if isinstance(sums, Tensor):  # earlier versions wrote the mean
        sums = [float(sums)]
    own = sums[world.rank] if len(sums) == world.size else sum(sums) / len(sums)
    return torch.tensor(own, device=world.device)


def _names(called: list[str]) -> str:
    return ", ".join(called) or "(none)"


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
