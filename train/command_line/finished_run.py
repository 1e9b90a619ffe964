"""A run that has ended, for what is measured of it later: its best model and its data."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...zoo.network import Network
from ..data import Splits
from ..errors import RunError
from ..subject.given_data import model_on_data
from ..subject.given_model import find_run

__all__ = ["FinishedRun", "finished_run"]


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
    data: Mapping[str, Any] | None = None,
    *,
    other_data: bool = False,
    imports: Sequence[str] | None = None,
) -> FinishedRun:
    """Rebuild the best model of a run and read its data again; nothing is unpickled.

    Args:
        run: The run folder.
        data: Keywords of its data set that are others now, such as `root` where it has moved.
        other_data: Whether data may differ from those that the run recorded.
        imports: Modules with parts of the user's own; None is those that the run recorded.

    Raises:
        RunError: no run, one that has not ended, damaged files, a module that is missing, data that
            is missing, has changed, or of a kind that is not taken.
    """
    place = find_run(run, imports)
    found = model_on_data(place, data, other_data=other_data)
    if found.order is not None:
        raise RunError(
            f"the data numbers its classes otherwise than the model; give {run} its own data"
        )
    assert isinstance(found.model, Network)
    return FinishedRun(found.name, found.model, found.data, found.splits, found.reported("test"))
