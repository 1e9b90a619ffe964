"""Where metrics go: CSV and TensorBoard by default, others by config.

A logger takes `log(step, split, metrics)` and `close()`. `resume(step)` comes first, with the
first step that is still to be logged: what a killed process logged from there on is dropped.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ...zoo.registry import Registry
from ...zoo.share.atomic_write import replacing
from ...zoo.share.content_digest import content_digest

__all__ = ["CSVLogger", "Logger", "loggers"]

loggers = Registry("logger", given=("folder", "run"))


class Logger(Protocol):
    """What the loop asks of a logger."""

    def resume(self, step: int) -> None:
        """Forget what was logged at a step and after it."""

    def log(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Record metrics of `train`, `validation` or `test` at a step."""

    def close(self) -> None:
        """Flush and close."""


@loggers.register(name="csv")
class CSVLogger:
    """Rows of `metrics.csv`, one per call; a new metric adds a column to the whole file.

    Args:
        folder: The run folder.
        run: Name and resolved config; unused.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        """Find the columns of a file that is already there."""
        self.path = folder / "metrics.csv"
        self.columns = ["step", "split"]
        self.digest = ""  # of all rows so far
        rows = self.rows()
        self.columns = list(rows[0]) if rows else self.columns

    def rows(self) -> list[dict[str, str]]:
        """Read what was logged; a line that a killed process did not end is left out.

        Raises:
            ValueError: the file is damaged.
        """
        if not self.path.exists():
            return []
        try:
            whole = self.path.read_bytes().decode().rpartition("\n")[0]
            rows = list(csv.DictReader(whole.splitlines()))
            if not all(
                list(row)[:2] == self.columns[:2] and row["step"].isdecimal() for row in rows
            ):
                raise ValueError("it has a row without a step")
            if any(None in row or None in row.values() for row in rows):
                raise ValueError("it has a row of another length than its header")
        except (ValueError, csv.Error) as error:
            raise ValueError(
                f"{self.path} is damaged: {error}; mend it, or move it away to go on without it"
            ) from error
        return rows

    def resume(self, step: int) -> None:
        """Rewrite the file without the rows of a step and of those after it."""
        rows = [row for row in self.rows() if int(row["step"]) < step]
        if self.path.exists():
            self._rewrite(rows)
        self.digest = ""
        for row in rows:
            self._note(row)

    def log(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Append a row."""
        new = [name for name in metrics if name not in self.columns]
        if new or not self.path.exists():
            rows = self.rows()
            self.columns += new
            self._rewrite(rows)
        with open(self.path, "a", newline="") as file:
            row = {"step": step, "split": split, **metrics}
            csv.DictWriter(file, self.columns).writerow(row)
        self._note(row)

    def close(self) -> None:
        """Nothing is held open."""

    def _note(self, row: Mapping[str, Any]) -> None:
        cells = sorted((name, str(value)) for name, value in row.items() if value != "")
        self.digest = content_digest([self.digest, cells])

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with replacing(self.path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(rows)


@loggers.register(name="tensorboard")
class TensorBoardLogger:
    """Scalars under `tensorboard/`, as `split/metric`.

    Args:
        folder: The run folder.
        run: Name and resolved config; unused.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        """Open the event file on the first record, when the step to go on from is known."""
        self.folder = folder / "tensorboard"
        self.purge_step: int | None = None
        self.writer: Any = None

    def resume(self, step: int) -> None:
        """Tell TensorBoard to hide a step and what came after it."""
        self.purge_step = step

    def log(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Write one scalar per metric."""
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=self.purge_step)
        for name, value in metrics.items():
            self.writer.add_scalar(f"{split}/{name}", value, step)
        # A thread writes, later: a killed run could lose rows from before its checkpoint.
        self.writer.flush()

    def close(self) -> None:
        """Flush the event file."""
        if self.writer is not None:
            self.writer.close()


class _WandbLike:
    """A library with the three verbs `init`, `log` and `finish`."""

    library: str

    def __init__(self, folder: Path, run: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        import importlib

        try:
            self.module = importlib.import_module(self.library)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"logger.{self.library}: not installed; pip install {self.library}"
            ) from error
        self.module.init(name=run["name"], config=dict(run["config"]), **options)

    def resume(self, step: int) -> None:
        """Nothing: these services append."""

    def log(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Send the metrics as `split/metric`."""
        self.module.log({f"{split}/{name}": value for name, value in metrics.items()}, step=step)

    def close(self) -> None:
        """Finish the run there."""
        self.module.finish()


@loggers.register(name="wandb")
class WandbLogger(_WandbLike):
    """Weights & Biases.

    Args:
        folder: The run folder.
        run: Name and resolved config.
        project: The project to log to.
        mode: `online`, `offline` or `disabled`.
    """

    library = "wandb"

    def __init__(
        self,
        folder: Path,
        run: Mapping[str, Any],
        *,
        project: str = "archzoo",
        mode: str = "online",
    ) -> None:
        """Start a run there."""
        super().__init__(
            folder, run, {"project": project, "mode": mode, "dir": str(folder), "resume": "allow"}
        )


@loggers.register(name="trackio")
class TrackioLogger(_WandbLike):
    """Trackio, which keeps W&B's verbs on the local machine.

    Args:
        folder: The run folder.
        run: Name and resolved config.
        project: The project to log to.
    """

    library = "trackio"

    def __init__(self, folder: Path, run: Mapping[str, Any], *, project: str = "archzoo") -> None:
        """Start a run there."""
        super().__init__(folder, run, {"project": project})
