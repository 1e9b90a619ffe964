"""The card of a run's best model, read off the run: for `push_to_hub` and weights that ship."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...zoo.share.model_card import sources_of
from ...zoo.share.weights_card import WeightsCard
from ..data import data_sets
from ..errors import RunError
from .card_figures import HEADLINES
from .given_data import WHERE
from .given_model import find_run

__all__ = ["command_of", "data_of", "run_card"]

OF_THIS_MACHINE = ("run_dir", "resume", "logger", "trainer.progress", "trainer.max_time")
"""Keys of a command that decide none of a run's numbers."""

IMPLIED = ("trainer.epochs=null", "trainer.steps=null")
"""What the command line adds where the other of the two is given."""


def run_card(run: str) -> WeightsCard:
    """Read what is known of a run's best model: data, command, seed and figures.

    Args:
        run: Its folder; the run has ended.

    Raises:
        RunError: no run, one that has not ended, or damaged files.
    """
    place = find_run(run)
    assert place.run is not None and place.data is not None
    model: Any = place.load()
    result = place.run.read_result(place.config)
    assert result is not None
    headline = HEADLINES.get(data_sets[place.data].kind, "accuracy")
    seed = int(place.config["seed"])
    figures = {
        fold: {key: value for key, value in result[fold].items() if isinstance(value, int | float)}
        for fold in ("validation", "test")
    }
    arguments = _arguments(place.run.path / "environment.json")
    shown = {fold: found[headline] for fold, found in figures.items() if headline in found}
    return WeightsCard(
        model=model.recipe[0],
        licence="",
        data=data_of(place.data, place.data_options),
        data_licence=data_sets[place.data].source,
        command="" if arguments is None else command_of(arguments),
        seed=seed,
        seeds={str(seed): shown} if len(shown) == 2 else {},
        headline=headline if headline in figures["test"] else "",
        metrics=figures["test"],
        parameters=sum(p.numel() for p in model.parameters()),
        sources=sources_of(model),
    )


def _arguments(path: Path) -> list[str] | None:
    """What followed `archzoo train` when a run was started; nothing where Python started it.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        program, *words = map(str, json.loads(path.read_bytes())["command"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{path} is damaged: {error}; name another run") from error
    return words if program == "archzoo train" else None


def data_of(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A data set by name and keywords, without those that say where it lies or are the default."""
    known = data_sets[name].options
    changed = {
        key: value
        for key, value in options.items()
        if key not in WHERE and key in known and value != known[key].default
    }
    return {"name": name, **changed}


def command_of(arguments: Sequence[str]) -> str:
    """Write the command of a run as anybody would give it, with `DIR` for the folder of the data.

    Args:
        arguments: What followed `archzoo train`.
    """
    kept = []
    for word in arguments:
        key = word.partition("=")[0]
        if word in IMPLIED or key in OF_THIS_MACHINE or key.startswith("hydra."):
            continue
        if key.removeprefix("data.") in WHERE - {"download"}:
            word = f"{key}=DIR"
        kept.append(word)
    return shlex.join(["archzoo", "train", *kept]).replace("'DIR'", "DIR")
