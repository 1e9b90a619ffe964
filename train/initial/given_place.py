"""A saved model in the place of a name, `model=local-dir:FOLDER`: its weights, and what it is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...zoo.share.save_load import CONFIG
from ..config import FACTS
from ..errors import UsageError

__all__ = ["start_from_place"]

SCHEME = "model=local-dir:"
OF_WEIGHTS = ("lowrank", "adapter")
"""What was done to the weights, which a run chooses anew."""


def start_from_place(arguments: Sequence[str]) -> tuple[str, ...]:
    """Write `model=local-dir:FOLDER` as the model there, with its settings, and `init=FOLDER`.

    What the data decide is left to them, and what a command sets beside it comes after.

    Args:
        arguments: Of `archzoo train`.

    Raises:
        UsageError: no saved model there, one with a setting that a run cannot have, or `init=`
            beside it.
    """
    if not any(text.startswith(SCHEME) for text in arguments):
        return tuple(arguments)
    if any(text.startswith("init=") for text in arguments):
        raise UsageError("model=local-dir:FOLDER names the weights itself; leave init= out")
    found: list[str] = []
    for text in arguments:
        found += _written(Path(text.removeprefix(SCHEME))) if text.startswith(SCHEME) else [text]
    return tuple(found)


def _written(folder: Path) -> list[str]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
        name, options = str(config["name"]), dict(config["options"])
    except OSError:
        raise UsageError(
            f"model=local-dir:{folder}: {path} is not there; name the folder of a saved model, or "
            f"of a run that has ended"
        ) from None
    except (ValueError, LookupError, TypeError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"model=local-dir:{folder}: {path} is damaged: {said}") from error
    if ":" in name or "classifier" in options:
        what = name if ":" in name else f"classifier={options['classifier']}"
        raise UsageError(
            f"model=local-dir:{folder}: {what} is nothing that a run can make; adapt it in Python"
        )
    kept = {k: v for k, v in options.items() if k not in (*FACTS, *OF_WEIGHTS)}
    words = [f"model.{key}={_hydra(value)}" for key, value in kept.items()]
    return [f"model={name}", f"init={_hydra(str(folder))}", *words]


def _hydra(value: Any) -> str:
    """Write a value of JSON in the grammar of Hydra's overrides."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_hydra(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_hydra, value))}]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return json.dumps(value)
