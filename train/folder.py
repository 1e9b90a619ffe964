"""A run's folder: what it holds, and how a run that was killed finds its way back.

config.yaml             the resolved config, as given to Hydra's `--config-name` or read by eye
environment.json        versions, machine, command and commit
metrics.csv             one row per log line and evaluation; tensorboard/ beside it
checkpoints/last.pt     what `resume` goes on from
checkpoints/best.safetensors
model.safetensors, config.json   the best model, for `build_model("local-dir:…")`
result.json             validation and test metrics; its presence means that the run ended
"""

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..zoo.files import replacing
from ..zoo.io import load_weights, save_model, save_weights
from ..zoo.models import build_model
from ..zoo.network import Network
from .checkpoint import is_sharded, model_state
from .errors import RunError

__all__ = ["RunFolder", "fingerprint", "unfinished"]


class RunFolder:
    """Paths and atomic writes of one run.

    Args:
        path: The folder; made on the first write.
        writes: Whether this process writes; others only read.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        """Name the files."""
        self.path, self.writes = path, writes
        self.checkpoint = path / "checkpoints" / "last.pt"
        self.best = path / "checkpoints" / "best.safetensors"
        self.result = path / "result.json"
        self.config = path / "config.yaml"

    def guard(self, write: Callable[[], Any]) -> None:
        """Run a write on the writing process and explain a refusal of the disk.

        Raises:
            RunError: the disk refused; what was there before is untouched.
        """
        if not self.writes:
            return
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            write()
        except OSError as error:
            raise RunError(
                f"could not write to {self.path}: {error}; what was saved before is intact. "
                f"Make room and go on with resume=auto"
            ) from error

    def write_text(self, name: str, text: str) -> None:
        """Write a small file atomically."""

        def write() -> None:
            with replacing(self.path / name) as temporary:
                temporary.write_text(text)

        self.guard(write)

    def read_result(self) -> dict[str, Any] | None:
        """The metrics of a run that ended, or None."""
        return json.loads(self.result.read_text()) if self.result.is_file() else None

    def write_best(self, model: Network) -> None:
        """Write the best weights so far; every process calls it when the model is sharded."""
        whole = model
        if is_sharded(model):
            state = model_state(model)
            if not self.writes:
                return
            whole = _same_model(model)
            whole.load_state_dict(state)
        self.guard(lambda: save_weights(whole, self.best))

    def rebuild_best(self, model: Network, device: torch.device) -> Network:
        """Build the model anew by its name, with the best weights."""
        best = _same_model(model).to(device)
        load_weights(best, self.best)
        return best

    def write_final(self, model: Network) -> None:
        """Write the model so that `build_model("local-dir:…")` rebuilds it."""
        self.guard(lambda: save_model(model, self.path))

    def write_environment(self) -> None:
        """Record versions, machine, command and commit."""
        names = ("torch", "torchvision", "timm", "geoopt", "hydra-core", "numpy", "archzoo")
        versions = {}
        for name in names:
            try:
                versions[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                versions[name] = "not installed"
        facts = {
            "command": sys.argv,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "versions": versions,
            "commit": _commit(),
        }
        self.write_text("environment.json", json.dumps(facts, indent=2) + "\n")


def fingerprint(config: Mapping[str, Any]) -> str:
    """A digest of everything in a resolved config that decides the run's numbers."""
    # What is None decides nothing, and was no key at all before the version that brought it.
    rest = {k: v for k, v in config.items() if v is not None and k not in ("run_dir", "resume")}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()


def unfinished(run_dir: Path, same: Callable[[Path], bool]) -> Path | None:
    """Find the folder that `resume=auto` goes on in.

    Args:
        run_dir: Where the run would go; taken itself if it holds a checkpoint or a result.
        same: Whether a `config.yaml` is of this very run.

    Returns:
        `run_dir`, or the newest folder beside it with the same config, a checkpoint and no
        result, or None.
    """
    here = RunFolder(run_dir)
    if here.checkpoint.is_file() or here.result.is_file():
        return run_dir
    beside = [RunFolder(path.parent) for path in run_dir.parent.glob("*/config.yaml")]
    open_runs = [
        run
        for run in beside
        if run.checkpoint.is_file() and not run.result.is_file() and same(run.config)
    ]
    return (
        max(open_runs, key=lambda run: run.checkpoint.stat().st_mtime).path if open_runs else None
    )


def _same_model(model: Network) -> Network:
    if model.recipe is None:
        raise RunError("the trainer needs a model made by create_model")
    name, options = model.recipe
    return build_model(name, **options)


def _commit() -> str | None:
    """The commit of the checkout this file lies in, or None for an installed package."""
    here = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() if told.returncode == 0 else None
