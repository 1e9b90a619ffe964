"""A run that has ended, for what is measured of it later: its best model and its data."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ...zoo.network import Network
from ...zoo.share.create import create_model
from ..data import Splits, data_sets
from ..engine.saved.run_folder import RunFolder
from ..errors import RunError
from ..user_imports import import_parts

__all__ = ["FinishedRun", "finished_run"]

# What a config that someone edited or cut short makes a look-up raise.
DAMAGED = (ValueError, LookupError, TypeError, AttributeError)

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
        options = dict(written["data"])
        data = options.pop("name")
        recorded = [str(name) for name in written.get("imports") or ()]
    except DAMAGED as error:
        said = " ".join(str(error).split())
        raise RunError(f"{folder.config} is damaged: {said}; name another run") from error
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
        _check_fit(model, splits, other_data)
        result = folder.read_result(written)
    except (ValueError, OSError) as error:  # the latter names its file
        raise RunError(str(error)) from error
    assert model.recipe is not None and result is not None
    tested = result["test"].get("accuracy")
    return FinishedRun(model.recipe[0], model, data, splits, tested)


def _check_fit(model: Network, splits: Splits, other_data: bool) -> None:
    """Refuse data that the model cannot be measured on, whatever the run recorded of its own.

    Raises:
        ValueError: the classes have other names, unless they may, or another number; or samples
            have another shape than the model takes.
    """
    names, classes = model.conventions.get("label_names"), splits.about.get("classes")
    if names is not None and classes is not None:
        pairs = [pair for pair in zip(names, classes, strict=False) if pair[0] != pair[1]]
        if len(names) != len(classes):
            raise ValueError(f"the data has {len(classes)} classes, the model {len(names)}")
        if pairs and not other_data:
            raise ValueError(
                f"the class {pairs[0][0]!r} of the model is {pairs[0][1]!r} in the data; give the "
                f"classes their names back, or say other_data=true to score them so"
            )
    try:
        with torch.no_grad():
            model(splits.test.__getitems__([(0, 0)])[0])
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"the model takes no samples of shape {splits.shape}: {said}") from error
