"""A run's folder: what it holds, and how a run that was killed finds its way back.

config.yaml             the resolved config; config-first.yaml, where a later start changed it
environment.json        versions, machine, command and commit of the first start
environment-STEP.json   the same of the start that went on from a step
data.json               facts of the data: sources, sizes, hashes, classes
init.json               which weights the run started from, where init= named some
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
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ....zoo.network import Network
from ....zoo.share.atomic_write import replacing
from ....zoo.share.content_digest import sealed, unsealed
from ....zoo.share.save_load import CONFIG, WEIGHTS, read_about, save_model
from ...errors import RunError
from .checkpoint_file import checkpoints
from .environment import environment
from .resume import conflict, decisive

__all__ = ["RunFolder"]

SEAL = re.compile(rb"# sha256 of the lines below: ([0-9a-f]{64})\n")
"""First line of config.yaml."""


class RunFolder:
    """Paths and atomic writes of one run.

    Args:
        path: The folder; made on the first write.
        writes: Whether this process writes; others only read.
        running: The resolved config of the run that writes here.
    """

    def __init__(
        self, path: Path, writes: bool = True, running: Mapping[str, Any] | None = None
    ) -> None:
        """Name the files."""
        self.path, self.writes = path, writes
        self.running: Mapping[str, Any] = running or {}
        self.checkpoint = path / "checkpoints" / "last.pt"
        self.result = path / "result.json"
        self.config = path / "config.yaml"
        self.data = path / "data.json"

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

    def recorded_data(self) -> dict[str, Any] | None:
        """The facts of the data that the run began with; None where it recorded none.

        Raises:
            ValueError: they are damaged.
        """
        if not self.data.is_file():
            return None
        try:
            return unsealed(self.data.read_bytes())
        except (ValueError, OSError) as error:
            raise ValueError(f"{self.data} is damaged: {error}; bring a copy of it back") from error

    def check_data(self, about: Mapping[str, Any]) -> None:
        """Refuse data other than those the run began with.

        Raises:
            RunError: a fold or the classes differ; the message says which.
        """
        try:
            recorded = self.recorded_data()
        except ValueError as error:
            raise RunError(
                f"{error}, or say other_data=true to take the data as they are"
            ) from error
        if recorded is None:
            return
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

    def write_start(self, about: Mapping[str, Any], step: int) -> None:
        """Record what a start of the run was told and where it ran; the first is kept.

        Args:
            about: Facts of the data.
            step: That the run goes on from.
        """
        text = OmegaConf.to_yaml(OmegaConf.create(dict(self.running)))
        seal = hashlib.sha256(text.encode()).hexdigest()
        text = f"# sha256 of the lines below: {seal}\n{text}"
        before = self.config.read_text() if step and self.config.is_file() else text
        first = self.path / "config-first.yaml"
        if before != text and not first.is_file():
            # A copy: a full disk or a kill must leave a config to go on with.
            self.write_text(first.name, before)
        self.write_text(self.config.name, text)
        self.write_text(self.data.name, sealed(about))
        place = json.dumps(environment(), indent=2) + "\n"
        self.write_text(f"environment-{step}.json" if step else "environment.json", place)

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
