"""A model's plain forward, which no recording watches: its errors and its foreign operators."""

import traceback
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["ForeignOperators", "ForwardError", "place_of", "run_plainly", "told"]


TORCH = {"aten", "prim", "prims", "higher_order", "profiler", "mkldnn", "mkl", "quantized"}


class ForeignOperators(TorchDispatchMode):
    """Names of the operators inside that torch has not made, such as `library::operator`."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        """Start without any."""
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the name of an operator, and run it."""
        if func.namespace not in TORCH:
            self.names.add(func.name())
        return func(*args, **(kwargs or {}))


class ForwardError(ValueError):
    """A model's own forward raised on samples, recorded or not."""


def run_plainly(model: nn.Module, x: Tensor) -> Any:
    """Return what a model returns; compiled modules run eagerly.

    Raises:
        ForwardError: whatever the forward raises, in one line with the path of the module.
    """
    try:
        with torch.compiler.set_stance("force_eager"):
            return model(x)
    except Exception as error:  # a forward of a user's own raises what it likes
        raise ForwardError(
            f"{place_of(error, model)}: the model's own forward raises {told(error)}, on samples "
            f"{tuple(x.shape)} of {x.dtype}; give samples that the model runs on"
        ) from error


def place_of(error: BaseException, model: nn.Module) -> str:
    """Return the path of the innermost module of a model that an error came out of."""
    names: dict[nn.Module, str] = {}
    for name, module in model.named_modules():
        names.setdefault(module, name)
    place = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        running = frame.f_locals.get("self")
        if isinstance(running, nn.Module):
            place = names.get(running, place)
    return place or "the model"


def told(error: BaseException) -> str:
    """Return the class of an error and the first line that it says."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
