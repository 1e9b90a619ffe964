"""What runs left behind, file by file, in a form in which equal runs are equal.

Apart from times, processes and machines: a run that was killed and resumed at whatever moments
must leave the same as one that was not.
"""

import csv
import hashlib
import logging
from pathlib import Path
from typing import Any

import yaml
from archzoo.train.engine.saved.checkpoint_file import read_checkpoint
from archzoo.zoo.share.content_digest import content_digest
from safetensors import safe_open

__all__ = ["contents", "differences", "left_over", "steps_reached"]

OF_A_START = ("environment", "config-first.yaml", "multirun.yaml")
"""Beginnings of the names of files that tell of a start and not of the run."""

TIMED = "samples_per_second"


def contents(place: Path) -> dict[str, Any]:
    """Return what every file below a folder holds, by its path.

    Checkpoints and weights are the digest of their tensors and values, `metrics.csv` its rows and
    TensorBoard's files their scalars, both without the rate of samples; a config is without
    `resume` and `run_dir`; any other file is its bytes' SHA-256.
    """
    found: dict[str, Any] = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.name == "tensorboard":
            found[name] = scalars(path)
        elif path.is_dir() or path.parent.name == "tensorboard" or path.name.startswith(OF_A_START):
            continue
        elif path.suffix == ".pt":
            # "logged" is a digest of rows that hold times; the rows themselves are compared below.
            state = {k: v for k, v in read_checkpoint(path).items() if k != "logged"}
            found[name] = content_digest(state)
        elif path.suffix == ".safetensors":  # the header's order differs from write to write
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
                about = dict(sorted((file.metadata() or {}).items()))
            found[name] = content_digest([about, tensors])
        elif path.name == "metrics.csv":
            with path.open(newline="") as file:
                rows = [{k: v for k, v in r.items() if k != TIMED} for r in csv.DictReader(file)]
            found[name] = rows
        elif path.name == "config.yaml":
            found[name] = yaml.safe_load(path.read_text()) | {"resume": None, "run_dir": None}
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read what TensorBoard shows of a folder."""
    # It tells of every row that a resumed run hides, which is what is meant.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in read.Tags()["scalars"] if TIMED not in tag]
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in tags}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Name the files in which two runs differ, and how."""
    found = [f"{name} is missing" for name in one.keys() - other.keys()]
    found += [f"{name} is there as well" for name in other.keys() - one.keys()]
    found += [f"{name} differs" for name in one.keys() & other.keys() if one[name] != other[name]]
    return sorted(found)


def left_over(place: Path) -> list[str]:
    """Temporary files of writes that never ended, and locks that somebody holds or never gave."""
    found = [*place.rglob("*.unfinished"), *place.rglob("arrived.*")]
    found += [lock for lock in place.rglob("run.lock") if lock.read_text()]
    return [path.relative_to(place).as_posix() for path in found]


def steps_reached(place: Path) -> int:
    """Sum of the steps of the newest whole checkpoints below a folder."""
    return sum(read_checkpoint(path)["step"] for path in place.rglob("last.pt"))
