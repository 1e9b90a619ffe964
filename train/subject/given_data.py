"""Data for a model, or a line on what does not fit.

What the data set would choose for itself and the model has settled follows the model: statistics of
pixels, size and cut of photographs, the encoder of a table's rows, the column and the tokeniser of
sequences, the length of a context.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...zoo.models import models
from ...zoo.registry import nearest
from ..check import READS
from ..data import Splits, data_sets
from ..errors import RunError
from .conventions import conventions_of, different_convention
from .given_model import ModelPlace
from .model_on_data import ModelOnData

__all__ = ["CLASSIFIED", "VECTORS", "WHERE", "check_fit", "kind_of", "model_on_data"]

VECTORS = ("image", "features")
"""Kinds of data whose samples could be moved, so that there are radii around them."""

CLASSIFIED = (*VECTORS, "tokens", "sequence", "masked")
"""Kinds of data with classes to tell apart, of a sample or of its tokens."""

WHERE = {"root", "path", "download"}
"""Keywords of data sets that say where the data lie, and not which they are."""


def model_on_data(
    place: ModelPlace,
    data: str | Mapping[str, Any] | None = None,
    *,
    kinds: Sequence[str] | None = None,
    other_data: bool = False,
    seed: int = 0,
) -> ModelOnData:
    """Load a model, read data for it, and see that the two fit.

    Args:
        place: Of the model.
        data: Name of the data set, or a mapping with `name` and its keywords; None, or a mapping
            without a name, is that of the model's run or card.
        kinds: Of data that are taken; None is all.
        other_data: Whether the data of the model's run may have changed, and whether classes of
            other names are scored by their number.
        seed: Of the weights of a registered name, which has none.

    Raises:
        RunError: data that are not named, cannot be read or do not fit the model.
    """
    given = dict(data) if isinstance(data, Mapping) else {"name": data}
    asked = given.pop("name", None)
    if asked is None and place.data is None:
        raise RunError(
            f"{place.text} does not say which data to measure it on; say data=NAME, such as "
            f"data=digits"
        )
    name = cast(str, place.data) if asked is None else str(asked)
    known = place.data_options if name == place.data else {}
    own = name == place.data and given.keys() <= WHERE
    try:
        if asked is not None and name not in data_sets:
            raise ValueError(f"data={name}: no such data set{nearest(name, data_sets.names())}")
        if kinds is not None and data_sets[name].kind not in kinds:
            kind = data_sets[name].kind
            raise ValueError(
                f"{place.text} reads {name}; "
                + (
                    f"samples of kind {kind} have no radius to move in"
                    if kinds == VECTORS
                    else f"samples of kind {kind} are not taken here, but {', '.join(kinds)} are"
                )
            )
        model = place.load() if place.trained else None
        kind = models[place.address].kind if model is None else kind_of(model)
        _check_kind(place.text, kind, name)
        settled = {} if own or model is None else _as_the_model_needs(model, name)
        splits: Splits = data_sets.build(name, **{**known, **settled, **given})
        if model is None:
            model = place.build(splits, seed)
        elif own and place.run is not None and not other_data:
            place.run.check_data(splits.about)
        order = check_fit(model, splits, other_data)
    except (ValueError, OSError) as error:  # the latter names its file
        raise RunError(str(error)) from error
    classes = conventions_of(model).get("label_names") or splits.about.get("classes")
    recipe: Any = getattr(model, "recipe", None)
    told = place.text if recipe is None else recipe[0]
    return ModelOnData(place, told, model, name, splits, own, classes and list(classes), order)


def kind_of(model: nn.Module) -> str:
    """What a model reads; timm's are of images."""
    recipe: Any = getattr(model, "recipe", None)
    return models[recipe[0]].kind if recipe is not None and recipe[0] in models else "image"


def _check_kind(text: str, kind: str, data: str) -> None:
    """Refuse data of a kind that a model does not read.

    Raises:
        ValueError: naming data sets that it does.
    """
    if data_sets[data].kind not in READS[kind]:
        fitting = [name for name in data_sets.names() if data_sets[name].kind in READS[kind]]
        raise ValueError(
            f"{text} reads {kind}, but data={data} gives {data_sets[data].kind}; choose data such "
            f"as {', '.join(fitting[:4])}"
        )


def _as_the_model_needs(model: nn.Module, data: str) -> dict[str, Any]:
    """Keywords of a data set that the model has settled."""
    own, options = conventions_of(model), data_sets[data].options
    settled: dict[str, Any] = {}
    if "context_length" in options and hasattr(model, "context_length"):
        settled["context_length"] = model.context_length
    settled |= {key: own[key] for key in ("encoder", "column") if key in options and key in own}
    if "tokeniser" in own and own["tokeniser"].keys() <= options.keys():
        settled |= own["tokeniser"]
    if {"img_size", "resize"} <= options.keys() and {"input_size", "crop_pct"} <= own.keys():
        _, height, width = own["input_size"]
        if height == width:
            settled |= {"img_size": height, "resize": int(height / own["crop_pct"])}
    return settled


def check_fit(model: nn.Module, splits: Splits, other_data: bool) -> Tensor | None:
    """Refuse data that a model cannot be measured on, whatever was recorded of them.

    Args:
        model: In eval mode.
        splits: The data.
        other_data: Whether classes of other names may be scored by their number.

    Returns:
        For each class of the data its number in the model; None where they are the same.

    Raises:
        ValueError: tokens are others than the model's; the classes have other names, unless they
            may, or another number; or samples have another shape than the model takes.
    """
    differing = different_convention(conventions_of(model), splits.conventions(), ("tokeniser",))
    if differing is not None:
        raise ValueError(
            f"the data give other tokens than the model was trained on: {differing}; set data.… "
            f"as it was there"
        )
    order = _order_of_classes(model, splits, other_data)
    if not other_data:
        _check_graph(model, splits)
    try:
        with torch.no_grad():
            model(splits.test.__getitems__([(0, 0)])[0] if len(splits.test) else _like(splits))
    except (RuntimeError, IndexError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"the model takes no samples of shape {splits.shape}: {said}") from error
    return order


def _check_graph(model: nn.Module, splits: Splits) -> None:
    """Refuse data whose training relations are not those that a model holds as its graph.

    Raises:
        ValueError: they differ, so that links to predict may be among those that the model knows.
    """
    own = getattr(model, "edges", None)
    if splits.graph is None or not isinstance(own, Tensor):
        return
    if not torch.equal(own.cpu(), splits.graph.edges):
        raise ValueError(
            "the model holds another graph than the data give to train on, so it may know the "
            "links that it is asked for; give the data and the split of its run, or say "
            "other_data=true"
        )


def _like(splits: Splits) -> Tensor:
    """A sample of zeros, of the shape of an empty fold's."""
    vectors = splits.kind in ("image", "features")
    return torch.zeros(1, *splits.shape, dtype=torch.float32 if vectors else torch.int64)


def _order_of_classes(model: nn.Module, splits: Splits, other_data: bool) -> Tensor | None:
    """Number the classes of the data as the model does: by name where both have names.

    Raises:
        ValueError: they are not the model's.
    """
    names = conventions_of(model).get("label_names")
    classes: Sequence[str] | None = splits.about.get("classes")
    count = cast(int, getattr(model, "num_classes", splits.num_classes))
    if splits.kind == "nodes" or (names is not None and names == classes):
        return None
    if names is not None and classes is not None and set(classes) <= set(names):
        return torch.tensor([names.index(name) for name in classes])
    if count != splits.num_classes:
        what = "a vocabulary of {}" if splits.kind in ("tokens", "masked") else "{} classes"
        raise ValueError(f"the data has {what.format(splits.num_classes)}, the model {count}")
    if names is not None and classes is not None and not other_data:
        mine, its = next(pair for pair in zip(names, classes, strict=True) if pair[0] != pair[1])
        raise ValueError(
            f"the class {mine!r} of the model is {its!r} in the data; give the classes their names "
            f"back, or say other_data=true to score them so"
        )
    return None
