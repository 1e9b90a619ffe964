"""Mark the parameters that have a learning rate of their own, where they are made.

A scalar that scales a whole stream wants a smaller step than a matrix, one that opens a closed path
a larger one. The module that makes it says so, once, as a factor on the rate of the other
parameters; `give_learning_rates` splits the groups of any optimiser accordingly, and the trainer
does so for every one. An optimiser that is not told treats all parameters alike.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["give_learning_rates", "learning_rate_factors", "set_learning_rate"]


def set_learning_rate(module: nn.Module, **factors: float) -> None:
    """Mark parameters of one module with a factor on their learning rate.

    The mark lives on the module and not on the tensor, so it survives `deepcopy`, sharding and
    loading, which replace the tensors.

    Args:
        module: The module that owns the parameters.
        factors: A positive, finite factor for each attribute name.

    Raises:
        ValueError: a name that is no parameter of the module, or a factor out of range.
    """
    own = dict(module.named_parameters(recurse=False))
    for name, factor in factors.items():
        if name not in own:
            raise ValueError(f"{type(module).__name__} has no parameter {name!r} to mark")
        if not (factor > 0 and math.isfinite(factor)):
            raise ValueError(f"the factor of {name} must be positive and finite, got {factor}")
    module.__dict__["_rates"] = {**module.__dict__.get("_rates", {}), **factors}


def learning_rate_factors(model: nn.Module) -> dict[str, float]:
    """Collect the full names of all marked parameters of a model, with their factors.

    Raises:
        ValueError: a parameter that several modules share and mark with different factors.
    """
    marked: dict[int, float] = {}
    for module in model.modules():
        for name, factor in module.__dict__.get("_rates", {}).items():
            key = id(module._parameters.get(name))
            if marked.setdefault(key, factor) != factor:
                raise ValueError(
                    f"{name} of {type(module).__name__} is shared and has the factors "
                    f"{marked[key]} and {factor}; mark it alike everywhere"
                )
    return {name: marked[id(p)] for name, p in model.named_parameters() if id(p) in marked}


def give_learning_rates(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Move marked parameters to groups of their own, whose rate is the factor times their group's.

    Call once, before a scheduler is made, since that keeps the rates which it finds. Everything
    else of a group, its decay too, stays as it was.

    Args:
        optimizer: Any, made of the model's parameters or of its named parameters.
        model: The model.

    Raises:
        ValueError: an optimiser that has a scheduler.
    """
    if any("initial_lr" in group for group in optimizer.param_groups):
        raise ValueError(
            "the groups of optimizer have the initial_lr of a scheduler, which keeps the rates it "
            "found; call give_learning_rates before making it"
        )
    factors = learning_rate_factors(model)
    of = {id(p): factors[name] for name, p in model.named_parameters() if name in factors}
    for group in list(optimizer.param_groups):
        rates, whole = [of.get(id(p)) for p in group["params"]], dict(group)
        group.update(_parameters(whole, rates, None))
        if not group["params"]:
            optimizer.param_groups.remove(group)
        # Behind the others: the rate of the first group stands for that of the optimiser.
        for factor in sorted({rate for rate in rates if rate is not None}):
            own = _parameters(whole, rates, factor)
            optimizer.add_param_group({**whole, **own, "lr": factor * whole["lr"]})


def _parameters(
    group: Mapping[str, Any], rates: Sequence[float | None], rate: float | None
) -> dict[str, list[Any]]:
    """Return the parameters of a group that have a rate, and their names where it has names."""
    return {
        key: [each for each, its in zip(group[key], rates, strict=True) if its == rate]
        for key in ("params", "param_names")
        if key in group
    }
