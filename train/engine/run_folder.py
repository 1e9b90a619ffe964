"""A run's folder: what it holds, and how a run that was killed finds its way back.

config.yaml             the resolved config; config-first.yaml, where a later start changed it
environment.json        versions, machine, command and commit of the first start
environment-STEP.json   the same of the start that went on from a step
data.json               facts of the data: sources, sizes, hashes, classes
run.lock                which process writes here
metrics.csv             one row per log line and evaluation; tensorboard/ beside it
checkpoints/last.pt     what `resume` goes on from; last-1.pt, … are those before it
checkpoints/best-STEP.safetensors
model.safetensors, config.json   the best model, for `build_model("local-dir:…")`
result.json             validation and test metrics, and sizes of a low-rank model; its presence
                        means that the run ended
result-STEP.json        those of a run that ended at a step and was then asked for more
"""

import hashlib
import io
import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...zoo.models import build_model
from ...zoo.network import Network
from ...zoo.share.atomic_write import replacing
from ...zoo.share.content_digest import sealed, unsealed
from ...zoo.share.save_load import (
    CONFIG,
    WEIGHTS,
    load_weights,
    read_about,
    save_model,
    save_weights,
)
from ..errors import RunError
from .checkpoint import checkpoints, model_state
from .process import is_sharded
from .resume import conflict, decisive

__all__ = ["RunFolder"]

SEAL = re.compile(rb"# sha256 of the lines below: ([0-9a-f]{64})\n")
"""First line of config.yaml."""


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
        self.best_steps: list[int] = []  # that the kept checkpoints name, the oldest first
        self.result = path / "result.json"
        self.config = path / "config.yaml"
        self.data = path / "data.json"
        self.running: Mapping[str, Any] = {}  # the config of the run that writes here

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

    def checkpoints(self) -> list[Path]:
        """The checkpoints that there are, the newest first."""
        return checkpoints(self.checkpoint)

    def holds_run(self) -> bool:
        """Whether a run went far enough here to leave something."""
        return bool(self.checkpoints()) or self.result.is_file()

    def read_config(self) -> dict[str, Any]:
        """The resolved config of the run.

        Raises:
            RunError: it is missing or damaged.
        """
        if not self.config.is_file():
            raise RunError(f"{self.path} holds no config.yaml; name the folder of a run")
        try:
            content = self.config.read_bytes()
            seal = SEAL.match(content)
            if content.startswith(b"# sha256") and not (
                seal and hashlib.sha256(content[seal.end() :]).hexdigest() == seal[1].decode()
            ):
                raise ValueError("it is not what was written; to use it so, remove its first line")
            config = OmegaConf.to_container(OmegaConf.load(io.StringIO(content.decode())))
            if not isinstance(config, dict) or not config:
                raise ValueError("it holds no settings")
        except (OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
            raise RunError(
                f"{self.config} is damaged: {' '.join(str(error).split())}; bring a copy of it "
                f"back, or name another run"
            ) from error
        return {str(key): value for key, value in config.items()}

    def check_data(self, about: Mapping[str, Any]) -> None:
        """Refuse data other than those the run began with.

        Raises:
            RunError: a fold or the classes differ; the message says which.
        """
        if not self.data.is_file():
            return
        try:
            recorded = unsealed(self.data.read_bytes())
        except (ValueError, OSError) as error:
            raise RunError(
                f"{self.data} is damaged: {error}; bring a copy of it back, or say "
                f"other_data=true to take the data as they are"
            ) from error
        differing = data_difference(recorded, about)
        if differing is not None:
            raise RunError(
                f"the data changed since {self.path} began, or {self.data.name} is of another run: "
                f"{differing}; bring the data back, or say other_data=true to go on with these"
            )

    def set_result_aside(self, step: int) -> None:
        """Keep the result of a run that goes on after its end under the step that it ended at."""
        if self.result.is_file():
            self.guard(lambda: self.result.rename(self.path / f"result-{step}.json"))

    def write_start(self, plain: Mapping[str, Any], about: Mapping[str, Any], step: int) -> None:
        """Record what a start of the run was told and where it ran; the first is kept.

        Args:
            plain: The resolved config.
            about: Facts of the data.
            step: That the run goes on from.
        """
        text = OmegaConf.to_yaml(OmegaConf.create(dict(plain)))
        seal = hashlib.sha256(text.encode()).hexdigest()
        text = f"# sha256 of the lines below: {seal}\n{text}"
        before = self.config.read_text() if step and self.config.is_file() else text
        first = self.path / "config-first.yaml"
        if before != text and not first.is_file():
            # A copy: a full disk or a kill must leave a config to go on with.
            self.write_text(first.name, before)
        self.write_text(self.config.name, text)
        self.write_text(self.data.name, sealed(about))
        environment = json.dumps(_environment(), indent=2) + "\n"
        self.write_text(f"environment-{step}.json" if step else "environment.json", environment)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the metrics of the run, with its config and the digest of its best model."""
        weights = read_about(self.path / WEIGHTS) if self.writes else {}
        of = {"config": decisive(self.running), WEIGHTS: weights}
        self.write_text(self.result.name, sealed({**result, "of": of}))

    def read_result(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """The validation and test metrics of a run that ended, or None.

        Args:
            config: Of the run.

        Raises:
            RunError: the file is damaged, or of another run or another model.
        """
        if not self.result.is_file():
            return None
        try:
            result = unsealed(self.result.read_bytes())
            of = result.pop("of", {})  # not there in files of earlier versions
            why = conflict(of.get("config", {}), config)
            if why is not None:
                raise ValueError(f"it is not of the run of {self.config.name}: {why}")
            if of and of[WEIGHTS] != read_about(self.path / WEIGHTS):
                raise ValueError(f"it is of another model than {WEIGHTS} and {CONFIG} beside it")
            if not all(isinstance(result[fold], dict) for fold in ("validation", "test")):
                raise ValueError("it holds no metrics")
        except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
            raise RunError(
                f"{self.result} is damaged or of another run: {' '.join(str(error).split())}; "
                f"bring a copy of it back, or remove it and end the run again with "
                f"resume={self.path}"
            ) from error
        return result

    def best(self, step: int) -> Path:
        """The weights that were the best at a step; earlier versions kept one file, without it."""
        name = f"best-{step}.safetensors" if step else "best.safetensors"
        return self.path / "checkpoints" / name

    def write_best(self, model: Network, step: int) -> None:
        """Write the best weights so far; every process calls it when the model is sharded."""
        whole = model
        if is_sharded(model):
            state = model_state(model)
            if not self.writes:
                return
            whole = _same_model(model)
            whole.load_state_dict(state)
        about = self._about_best(step)
        self.guard(lambda: save_weights(whole, self.best(step), about))

    def _about_best(self, step: int) -> dict[str, str]:
        return {"best of step": str(step), "config": json.dumps(decisive(self.running))}

    def prune_best(self, steps: Sequence[int], keep: int, before: int) -> None:
        """Remove best weights that none of the kept checkpoints names.

        Args:
            steps: Of the best weights that the checkpoints name, the oldest first; of one that an
                earlier version wrote, nothing is known.
            keep: How many checkpoints are kept. Where fewer are known, nothing goes.
            before: The step of the newest; weights from there on are of what comes after it.
        """
        self.best_steps = list(steps)
        if not self.writes or len(self.best_steps) < keep:
            return
        named = {self.best(step) for step in self.best_steps}
        for file in (self.path / "checkpoints").glob("best*.safetensors"):
            if file not in named and int(file.stem.partition("-")[2] or 0) < before:
                file.unlink()

    def rebuild_best(self, model: Network, step: int, device: torch.device) -> Network:
        """Build the model anew by its name, with the weights that were the best at a step.

        Raises:
            ValueError: they are missing, damaged, or of another step or run.
        """
        about, own = read_about(self.best(step)), self._about_best(step)
        if about.get("best of step", own["best of step"]) != own["best of step"]:
            raise ValueError(f"{self.best(step)} holds the weights of step {about['best of step']}")
        why = conflict(json.loads(about.get("config", "{}")), self.running)
        if why is not None:
            raise ValueError(f"{self.best(step)} is of another run: {why}")
        best = _same_model(model).to(device)
        load_weights(best, self.best(step))
        return best

    def write_final(self, model: Network) -> None:
        """Write the model so that `build_model("local-dir:…")` rebuilds it."""
        self.guard(lambda: save_model(model, self.path))


def data_difference(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say which class, fold or file differs between two records of data, or return None."""
    if "classes" in recorded and "classes" in now and recorded["classes"] != now["classes"]:
        old, new = recorded["classes"], now["classes"]
        went = ", ".join(repr(name) for name in old if name not in new)
        came = ", ".join(repr(name) for name in new if name not in old)
        return f"of its classes {went[:100] or 'nothing'} went, {came[:100] or 'nothing'} came"
    before, after = recorded.get("sha256") or {}, now.get("sha256") or {}
    for fold in before:
        if fold in after and before[fold] != after[fold]:
            return f"the {fold} fold has another sha256"
    for fact in ("file sha256", "files sha256"):
        if fact in recorded and fact in now and recorded[fact] != now[fact]:
            return f"{fact} was {recorded[fact]} and is {now[fact]}"
    return None


def _environment() -> dict[str, Any]:
    """Versions, machine, command and commit."""
    names = ("torch", "torchvision", "timm", "geoopt", "hydra-core", "numpy", "archzoo")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions,
        "commit": _commit(),
    }


def _same_model(model: Network) -> Network:
    if model.recipe is None:
        raise RunError("the trainer needs a model made by create_model")
    name, options = model.recipe
    same = build_model(name, **options)
    same.follow_data(**model.conventions)
    return same


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
