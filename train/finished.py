"""A run that has ended, for what is measured of it later: its best model and its data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..zoo.create import create_model
from ..zoo.network import Network
from .data import Splits, data_sets
from .errors import RunError
from .folder import RunFolder
from .imports import import_parts

__all__ = ["FinishedRun", "finished_run"]

# What a config or a result that someone edited or cut short makes JSON and a look-up raise.
DAMAGED = (ValueError, LookupError, TypeError, AttributeError, OSError)

VECTORS = ("image", "features")


class FinishedRun(NamedTuple):
    """What a run left behind.

    `name` and `model` are its best model, in eval mode on the CPU, `data` and `splits` what it was
    trained on, and `tested` the accuracy that it reported on the test fold.
    """

    name: str
    model: Network
    data: str
    splits: Splits
    tested: float | None


def finished_run(
    run: str,
    root: str | None = None,
    *,
    kinds: Sequence[str] = VECTORS,
    other_data: bool = False,
    imports: Sequence[str] | None = None,
) -> FinishedRun:
    """Rebuild the best model of a run and read its data again; nothing is unpickled.

    Args:
        run: The run folder.
        root: Where the data lies now, if it has moved: `data.root`.
        kinds: Of data that are taken; by default what is a vector that could be moved.
        other_data: Whether data may differ from those that the run recorded.
        imports: Modules with parts of the user's own; None is those that the run recorded.

    Raises:
        RunError: no run, one that has not ended, damaged files, a module that is missing, data that
            is missing, has changed, or of a kind that is not taken.
    """
    folder = RunFolder(Path(run))
    written = folder.read_config()
    if not folder.result.is_file():
        raise RunError(f"run={run} has not ended; finish it with resume={run}")
    try:
        tested = json.loads(folder.result.read_text())["test"].get("accuracy")
        options = dict(written["data"])
        data = options.pop("name")
        recorded = [str(name) for name in written.get("imports") or ()]
    except DAMAGED as error:
        raise RunError(f"{run} is damaged: {' '.join(str(error).split())}") from error
    if imports is None:
        import_parts(recorded, f"run={run}")
    else:
        import_parts(imports)
    if root is not None:
        options["root"] = root
    try:
        kind = data_sets[data].kind
        if kind not in kinds:
            why = f"{kind} have no radius to move in" if kinds == VECTORS else f"{kind} do not fit"
            raise ValueError(f"run={run} reads {data}; {why}")
        splits = data_sets.build(data, **options)
        if not other_data:
            folder.check_data(splits.about)
        model = create_model(f"local-dir:{run}").eval()
    except ValueError as error:
        raise RunError(str(error)) from error
    assert model.recipe is not None
    return FinishedRun(model.recipe[0], model, data, splits, tested)
