"""The frozen teacher of `distill=`: an earlier model, of the run's architecture or of another."""

from ...zoo.axes.lowrank import merge_lowrank
from ...zoo.network import Network
from ..check import READS
from ..data import Splits
from ..errors import RunError
from ..subject.conventions import different_convention
from ..subject.given_data import check_fit, kind_of
from .initial_weights import initial_place, refuse_differences

__all__ = ["frozen_teacher"]


def frozen_teacher(
    text: str, model: Network, splits: Splits, *, any_architecture: bool = False
) -> Network:
    """Load a teacher in evaluation, without gradients, on the device and in the dtype of a model.

    Args:
        text: A run, the folder of a saved model, hf-hub:OWNER/NAME or pretrained:NAME.
        model: That it is to teach, made by name.
        splits: The data that both see.
        any_architecture: Whether it need only read the same inputs and give logits of the same
            classes; else it has the model's architecture, and its weights are made dense.

    Raises:
        RunError: no such model, one of another architecture but for the structure of its weights
            and rates of dropout, or one that reads data otherwise.
    """
    place = initial_place(text, "distill.teacher")
    teacher = place.load()
    assert model.recipe is not None
    name, options = model.recipe
    plain = {key: value for key, value in options.items() if key != "lowrank"}
    try:
        if any_architecture:
            _refuse_other_inputs(teacher, splits)
        else:
            if teacher.lowrank is not None:
                merge_lowrank(teacher)
            refuse_differences(name, plain, teacher)
        differing = different_convention(teacher.conventions, splits.conventions())
        if differing is not None:
            raise ValueError(
                f"the teacher reads other data: {differing}; name a teacher of the same data"
            )
    except ValueError as error:
        raise RunError(f"distill.teacher={text}: {' '.join(str(error).split())}") from error
    if splits.graph is not None:
        teacher.follow_graph(splits.graph.edges, splits.graph.features)
    like = next(model.parameters())
    return teacher.to(like.device, like.dtype).eval().requires_grad_(False)


def _refuse_other_inputs(teacher: Network, splits: Splits) -> None:
    """Refuse a teacher that does not read the data, or whose logits are of other classes.

    Raises:
        ValueError: naming what differs.
    """
    if splits.kind not in READS[kind_of(teacher)]:
        raise ValueError(f"it reads {kind_of(teacher)}, the data give {splits.kind}; name another")
    learned = getattr(teacher, "context_length", None)
    if splits.kind == "tokens" and learned is not None and learned < splits.shape[0]:
        raise ValueError(
            f"it learned contexts of {learned} tokens, the data have {splits.shape[0]}; set "
            f"data.context_length={learned}"
        )
    if check_fit(teacher, splits, other_data=False) is not None:
        raise ValueError("it numbers the classes of the data otherwise; name another")
