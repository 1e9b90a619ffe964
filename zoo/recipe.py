"""How a model was made: its registered name and every keyword that was changed since.

A recipe is enough to build the model again, `create_model(recipe.name, **recipe.options)`, up to
its weights. Whatever changes the structure of a model says so here, by `record`, or that no recipe
leads to it any more, by `forget`; nothing else writes a recipe. What was changed past both, such as
`model.head = nn.Linear(…)`, is found by `first_difference` between the model and what its recipe
builds.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..layers.lowrank import WeightStructure

__all__ = ["Recipe", "first_difference", "forget", "record"]


class Recipe(NamedTuple):
    """A registered name, and the keywords whose values are not the defaults."""

    name: str
    options: Mapping[str, Any]


MISSING = object()


def record(model: nn.Module, *, drop: tuple[str, ...] = (), **changed: Any) -> None:
    """Note changed keywords on a model; one without a recipe, such as a class's own, has no notes.

    Args:
        model: A model of the zoo, or one that `with_residual` converted; changed in place.
        drop: Keywords that hold no longer.
        changed: Keywords that `create_model` takes, with what they would have to be now.
    """
    recipe = getattr(model, "recipe", None)
    if recipe is not None:
        kept = {key: value for key, value in recipe.options.items() if key not in drop}
        setattr(model, "recipe", Recipe(recipe.name, {**kept, **changed}))  # noqa: B010


def forget(model: Any, because: str) -> None:
    """Note that no recipe leads to a model any more.

    Args:
        model: A model of the zoo; changed in place.
        because: What was done to it, as a sentence that `save_model` shows.
    """
    if model.recipe is not None:
        model.recipe, model.lost_recipe = None, because


def first_difference(
    model: nn.Module, rebuilt: nn.Module, *, named: str = "the recipe", rates: bool = True
) -> str | None:
    """Name the first thing in which a model is not built as another, or None.

    Compared are the modules by name and type, their plain public attributes, and the names and
    shapes of parameters and buffers; not the values of tensors, nor what is a mode, a training aid
    or a cache. The components of a factored weight are as many as are loaded, so only their names
    are compared.

    Args:
        model: The model.
        rebuilt: The other, on any device: what the recipe of the model builds.
        named: What the message calls the other.
        rates: Whether rates of dropout count, which matter in training alone.
    """
    theirs = dict(rebuilt.named_modules(remove_duplicate=False))
    if isinstance(model, nn.Module) and hasattr(model, "_orig_mod"):
        return "the model is compiled: save what was given to torch.compile"
    for name, module in model.named_modules(remove_duplicate=False):
        other = theirs.pop(name, None)
        place = name or "the model"
        if other is None:
            return f"{place} is a {type(module).__name__}, which {named} does not have"
        if _kind(module) != _kind(other):
            return (
                f"{place} is a {type(module).__name__} where {named} has a {type(other).__name__}"
            )
        told = dict(_facts(module, rates)), dict(_facts(other, rates))
        for key in told[0] | told[1]:
            mine, made = (facts.get(key, MISSING) for facts in told)
            if (mine is MISSING or made is MISSING) and key in vars(module) and key in vars(other):
                continue  # an object on one side, such as a controller or a cache
            if mine is MISSING or made is MISSING or mine != made:
                mine, made = ("nothing" if v is MISSING else v for v in (mine, made))
                where = f"{name}.{key}" if name else key
                return f"{where} is {mine} where {named} has {made}"
    for name, other in theirs.items():
        return f"{name}, a {type(other).__name__} of {named}, is gone"
    ties, made = _ties(model), _ties(rebuilt)
    for name, first in ties.items():
        if made[name] != first:
            shared, apart = (first, made[name]) if first != name else (made[name], first)
            kept = "is now" if shared == first else "is no longer"
            return f"{name} {kept} the same tensor as {shared}, unlike in {named}"
    return None


# What is no structure: a mode, timm's and our training aids, and facts for data tools.
IGNORED = {"training", "grad_checkpointing", "default_cfg", "pretrained_cfg", "call_super_init"}
DROPOUTS = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
)
PLAIN = (bool, int, float, str, type(None), torch.dtype)


def _kind(module: nn.Module) -> Any:
    """The type of a module; torch makes one anew for each that it parametrises."""
    kind = type(module)
    return kind.__bases__ if parametrize.is_parametrized(module) else kind


def _ties(model: nn.Module) -> dict[str, str]:
    """The first name of every parameter, by each of its names."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def _facts(module: nn.Module, rates: bool) -> Iterator[tuple[str, Any]]:
    """Yield the plain attributes of a module, and what tensors it holds itself."""
    if isinstance(module, WeightStructure):
        return
    for key, value in vars(module).items():
        if key.startswith("_") or key in IGNORED or not _is_plain(value):
            continue
        if rates or not _is_rate(module, key):
            yield key, list(value) if isinstance(value, tuple | list) else value
    temporary = module._non_persistent_buffers_set
    for kind, tensors in (("parameter", module._parameters), ("buffer", module._buffers)):
        for key, tensor in tensors.items():
            if key not in temporary:
                shape = None if tensor is None else tuple(tensor.shape)
                yield key, "no tensor" if shape is None else f"a {kind} of shape {shape}"


def _is_rate(module: nn.Module, key: str) -> bool:
    """Whether an attribute is a rate of dropout."""
    return key.startswith("drop_") or (key == "p" and isinstance(module, DROPOUTS))


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(one) for one in value)
    return isinstance(value, PLAIN)
