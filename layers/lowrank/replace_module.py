"""Put one layer in the place of another, with all that was hung on it.

Hooks of every kind move with their order and their options. The dictionaries that hold them are
shared, so a handle that was given out still removes its hook. Attributes that a user or another
part of the library set move too.
"""

import weakref
from typing import Any

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

__all__ = ["carry_over", "computed", "fastened", "replace_module"]

HOOKS = (
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks",
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_is_full_backward_hook",
    "_load_state_dict_post_hooks",
    "_load_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
)

# What a layer has of itself and its replacement has not.
OF_THE_LAYER = {
    "_reversed_padding_repeated_twice",
    "memory_format",
    "output_padding",
    "settings",
    "transposed",
}

MAKERS = {
    SpectralNorm: "torch.nn.utils.spectral_norm",
    WeightNorm: "torch.nn.utils.weight_norm",
    BasePruningMethod: "torch.nn.utils.prune",
}


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module where another one stands, under every name that it has.

    Raises:
        ValueError: the model is that module.
    """
    if model is old:
        raise ValueError("the model is a single layer; put it in an nn.Sequential first")
    carry_over(old, new)
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def carry_over(old: nn.Module, new: nn.Module) -> None:
    """Hang on a module what hangs on the one that it replaces."""
    for name in HOOKS:
        vars(new)[name] = vars(old)[name]
    hooks: Any = new._load_state_dict_pre_hooks
    for hook in hooks.values():
        if hook.with_module:  # it would call the old module, and fail once that is gone
            hook.module = weakref.ref(new)
    for name, value in vars(old).items():
        if name not in vars(new) and name not in OF_THE_LAYER:
            vars(new)[name] = value


def fastened(module: nn.Module) -> str:
    """Say what binds a linear layer or a convolution to its place, or nothing.

    What computes its weight or its bias, what else it holds, and a `forward` of its own would be
    lost with it.
    """
    for parameter in ("weight", "bias"):
        if parameter not in module._parameters and (reason := computed(module, parameter)):
            return reason
    held = {**module._parameters, **module._buffers, **module._modules}
    more = [name for name in held if name not in ("weight", "bias")]
    if more:
        return f"it holds {more[0]} beside weight and bias, which would be lost; leave it out"
    weight = module._parameters["weight"]
    if weight is not None and (weight._backward_hooks or weight._post_accumulate_grad_hooks):
        return "its weight has hooks on its gradient, which would be lost; leave it out"
    for name in ("forward", "_compiled_call_impl"):
        if vars(module).get(name) is not None:
            return f"its {name} was set on this one module, and would be lost; leave it out"
    return ""


def computed(module: nn.Module, parameter: str) -> str:
    """Say what computes a tensor that a module uses as a parameter, or nothing.

    Args:
        module: Any.
        parameter: Name of the tensor.
    """
    if parametrize.is_parametrized(module, parameter):
        made = module.parametrizations[parameter]  # type: ignore[index, union-attr]
        kinds = " and ".join(type(each).__name__ for each in made)  # type: ignore[arg-type]
        return (
            f"its {parameter} is parametrised by {kinds}; leave it out, or call "
            f"torch.nn.utils.parametrize.remove_parametrizations first"
        )
    if parameter in module._parameters:
        return ""
    for hook in module._forward_pre_hooks.values():
        for kind, source in MAKERS.items():
            name = getattr(hook, "name", getattr(hook, "_tensor_name", None))
            if isinstance(hook, kind) and name == parameter:
                return f"{source} computes its {parameter}; leave it out, or remove that first"
    return f"its {parameter} is not a parameter of its own; leave it out"
