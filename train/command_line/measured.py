"""What a command says first of a model that it measured, and the folder that keeps the answer."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...zoo.share.atomic_write import replacing
from ...zoo.share.pretrained import PRETRAINED
from ...zoo.share.save_load import CONFIG
from ..engine.saved.folder_lock import is_locked
from ..engine.saved.run_folder import RunFolder
from ..errors import RunError
from ..subject.model_on_data import ModelOnData

__all__ = ["ResultFolder", "facts_of", "first_line"]


def facts_of(subject: ModelOnData) -> dict[str, Any]:
    """What was measured on which data: `model`, `from`, `trained` and `data`."""
    place = subject.place
    return {
        "model": subject.name,
        "from": place.text,
        "trained": place.trained,
        "data": subject.data,
    }


def first_line(facts: Mapping[str, Any], samples: str, reported: float | None) -> str:
    """Write for a reader what was measured, on which samples, and what was reported of them."""
    who = "the card says" if facts["from"].startswith(PRETRAINED) else "the run reported"
    said = "" if reported is None else f"; {who} {100 * reported:.2f} %"
    untrained = "" if facts["trained"] else "; its weights are untrained"
    return f"{facts['model']} on {facts['data']}, {samples}{said}{untrained}"


class ResultFolder:
    """The folder that keeps what was found of a model.

    It is the folder that the user names; else that of the saved model, or of the run if the model
    was measured on the run's own data, since a report takes what lies there for the run's; else
    none, and nothing is written.

    Args:
        subject: The model and its data.
        folder: That the user names.

    Raises:
        RunError: that folder holds another run or model, or cannot be written to.
    """

    def __init__(self, subject: ModelOnData, folder: str | None) -> None:
        """Choose the folder before anything is measured; it is made on the first write."""
        place = subject.place
        own = place.folder if place.run is None or subject.own else None
        self.path = own if folder is None else Path(folder)
        self.why = (
            f"{place.text} keeps what was measured on its own data"
            if place.run is not None
            else f"{place.text} has no folder"
        )
        if self.path is None:
            return
        there = next(filter(os.path.exists, (self.path, *self.path.absolute().parents)))
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise RunError(f"{self.path} cannot be written to; name another folder with folder=DIR")
        if own is None or self.path.resolve() != own.resolve():
            _check_holds_no_model(self.path)

    def write_text(self, name: str, text: str) -> None:
        """Write a small file atomically, if there is a folder."""
        self.write(name, lambda temporary: temporary.write_text(text))

    def write(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file atomically by a function that takes its path, if there is a folder.

        Raises:
            RunError: the disk refused; what was there before is untouched.
        """
        if self.path is None:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with replacing(self.path / name) as temporary:
                write(temporary)
        except OSError as error:
            raise RunError(
                f"could not write to {self.path}: {error}; what was saved before is intact. Make "
                f"room, or name another folder with folder=DIR"
            ) from error

    def facts(self, name: str) -> dict[str, str | None]:
        """Where a file is, as JSON: `written`."""
        return {"written": None if self.path is None else str(self.path / name)}

    def last_line(self, name: str) -> str:
        """Say where a file is, or why there is none."""
        if self.path is None:
            return f"nothing was written, since {self.why}; folder=DIR keeps {name} there"
        return str(self.path / name)


def _check_holds_no_model(path: Path) -> None:
    """Refuse a folder whose readers would take what is written there for another model's.

    Raises:
        RunError: it holds a run or a saved model.
    """
    run = RunFolder(path)
    if run.config.is_file() or run.holds_run() or is_locked(path):
        raise RunError(f"folder={path} holds a run, whose own figures lie there; name another")
    if (path / CONFIG).is_file():
        raise RunError(f"folder={path} holds another saved model; name another")
