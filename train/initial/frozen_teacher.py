"""The frozen teacher of `distill=`: an earlier model of the run's architecture, made dense."""

import torch
from torch import nn

from ...zoo.axes.lowrank import merge_lowrank
from ...zoo.network import Network
from ..data import Splits
from ..errors import RunError
from .initial_weights import initial_place, refuse_differences

__all__ = ["frozen_teacher"]


def frozen_teacher(text: str, model: Network, splits: Splits) -> Network:
    """Load a teacher in evaluation, without gradients, on the device and in the dtype of a model.

    Args:
        text: A run, the folder of a saved model, hf-hub:OWNER/NAME or pretrained:NAME.
        model: That it is to teach, made by name.
        splits: The data that both see.

    Raises:
        RunError: no such model, one of another architecture but for the structure of its weights
            and rates of dropout, or one that saw other classes or pixels.
    """
    place = initial_place(text, "distill.teacher")
    teacher = place.load()
    assert model.recipe is not None
    name, options = model.recipe
    plain = {key: value for key, value in options.items() if key != "lowrank"}
    try:
        if teacher.lowrank is not None:
            merge_lowrank(teacher)
        refuse_differences(name, plain, teacher)
        _refuse_other_data(teacher, splits)
    except ValueError as error:
        raise RunError(f"distill.teacher={text}: {' '.join(str(error).split())}") from error
    if splits.graph is not None:
        teacher.follow_graph(splits.graph.edges, splits.graph.features)
    like = next(model.parameters())
    return teacher.to(like.device, like.dtype).eval().requires_grad_(False)


def _refuse_other_data(teacher: nn.Module, splits: Splits) -> None:
    """Refuse a teacher whose logits mean something else, or that reads pixels otherwise.

    Raises:
        ValueError: naming what differs.
    """
    own, now = getattr(teacher, "conventions", {}), splits.conventions()
    if own.get("label_names", now.get("label_names")) != now.get("label_names"):
        raise ValueError("the teacher tells other classes apart than the data has; name another")
    for key in ("mean", "std"):
        theirs, mine = (torch.tensor(list(facts.get(key) or ())) for facts in (own, now))
        if len(theirs) and len(mine) and not torch.allclose(theirs, mine, atol=1e-6):
            raise ValueError(
                f"the teacher was trained on pixels with {key}={theirs.tolist()}, the data has "
                f"{mine.tolist()}; name a teacher of the same data"
            )
