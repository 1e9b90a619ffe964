"""A run that has ended, for what is measured of it later: its best model and its data."""

from collections.abc import Sequence
from typing import NamedTuple

from ...zoo.network import Network
from ..data import Splits, data_sets
from ..errors import RunError
from ..subject.given_data import check_fit
from ..subject.given_model import find_run

__all__ = ["FinishedRun", "finished_run"]

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
    place = find_run(run, imports)
    data, options = place.data, dict(place.data_options)
    assert data is not None and place.run is not None
    if root is not None:
        options["root"] = root
    try:
        kind = data_sets[data].kind
        if kind not in kinds:
            why = f"{kind} have no radius to move in" if kinds == VECTORS else f"{kind} do not fit"
            raise ValueError(f"run={run} reads {data}; {why}")
        splits = data_sets.build(data, **options)
        if not other_data:
            place.run.check_data(splits.about)
        model = place.load()
        if check_fit(model, splits, other_data) is not None:
            raise ValueError(
                f"the data numbers its classes otherwise than the model; give {run} its own data"
            )
        result = place.run.read_result(place.config)
    except (ValueError, OSError) as error:  # the latter names its file
        raise RunError(str(error)) from error
    assert model.recipe is not None and result is not None
    tested = result["test"].get("accuracy")
    return FinishedRun(model.recipe[0], model, data, splits, tested)
