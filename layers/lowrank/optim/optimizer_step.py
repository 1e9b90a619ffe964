"""A context around every update that an optimiser makes: with a closure, under a scaler, on errors.

    surround_updates(optimizer, context)
    optimizer.step(closure)                 # loss = closure(), and then the update inside context()

The context sees final gradients, as it would on the plain path of a backward pass and a step: the
closure runs before it, and the optimiser gets the loss from it. A step that a scaler leaves to a
fused optimiser to skip, because it found infinite gradients, is none. One that is taken without any
gradient counts: it cannot be told from a step of length 0.

Hooks of `torch.optim` cannot do this: they see the gradients before a closure computes them, are
left out where a step fails, and run twice where a subclass calls the step of its base.
"""

import functools
import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

__all__ = ["check_optimizer", "surround_updates"]


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimiser that no method can work with.

    Raises:
        ValueError: naming it and one that works.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "LBFGS takes one group of parameters and evaluates its closure many times a step, so "
            "no low-rank method can act around its updates; use an optimiser such as "
            "torch.optim.AdamW, or merge(model) and make LBFGS of the dense weights"
        )
    base = getattr(optimizer, "_base_optimizer", None)
    if isinstance(base, torch.optim.Optimizer):  # what is known of a parameter is not found in it
        raise ValueError(
            f"{type(optimizer).__name__} wraps {type(base).__name__}, which keeps the state of the "
            f"parameters; attach the controller to that {type(base).__name__}, and step the wrapper"
        )


def surround_updates(
    optimizer: torch.optim.Optimizer, context: Callable[[], AbstractContextManager[None]]
) -> None:
    """Let a context surround every update of an optimiser from now on.

    Args:
        optimizer: Any that evaluates a closure once, at the start of a step.
        context: Makes the context; an error in the update is raised inside it.

    Raises:
        ValueError: in a step, a closure that is evaluated again, or a scaler that is handed over.
    """
    inner = optimizer.step

    @functools.wraps(getattr(inner, "__func__", inner))
    def step(self: torch.optim.Optimizer, closure: Any = None, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("grad_scaler") is not None:
            raise ValueError(
                f"{type(self).__name__}.step takes the scaler and unscales gradients out of sight; "
                f"call scaler.unscale_(optimizer), and optimizer.step() unless one is infinite"
            )
        if _is_skipped(self):
            return None
        if closure is not None:
            with torch.enable_grad():
                closure = _evaluated(closure(), type(self).__name__)
        with context():
            return inner(*_given(closure), *args, **kwargs)

    # A scheduler that is made later wraps the bound method, as it does without this.
    optimizer.step = types.MethodType(step, optimizer)  # type: ignore[method-assign]


def _given(closure: Any) -> tuple[Any, ...]:
    """Return the arguments of a step, which may take no closure at all."""
    return () if closure is None else (closure,)


def _evaluated(loss: Any, name: str) -> Callable[[], Any]:
    """Return what stands for a closure that was evaluated."""
    calls = []

    def closure() -> Any:
        calls.append(None)
        if len(calls) > 1:
            raise ValueError(
                f"{name} evaluates its closure more than once a step, and a low-rank method acts "
                f"on the gradients of one; use an optimiser such as torch.optim.AdamW"
            )
        return loss

    return closure


def _is_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a scaler has told a fused optimiser to update nothing.

    It is not even called then: `torch.optim.SGD` would take whatever is in fresh memory for its
    momentum if it skipped its first step.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)
