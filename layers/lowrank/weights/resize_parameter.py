"""Change the size of a parameter in place, and all that an optimiser keeps of it."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .structure import assign, stored_in

__all__ = ["drop_misfitting_state", "permute_parameter", "reset_state", "resize_parameter"]


@torch.no_grad()
def resize_parameter(
    parameter: nn.Parameter,
    dim: int,
    size: int,
    optimizers: Sequence[torch.optim.Optimizer] = (),
) -> None:
    """Keep the first entries along a dimension, or append zeros, in a parameter and its state.

    The parameter stays the same object, so its group in the optimiser and its place in the module
    stay. Every tensor of the optimiser's state that has the parameter's shape, or is broadcast
    along all other dimensions, is changed with it. No graph of an earlier forward pass may be
    alive, nor `DistributedDataParallel` around the model: both remember the old size.

    Raises:
        ValueError: a parameter that is sharded.
    """
    old = parameter.shape[dim]
    if size == old:
        return
    if hasattr(parameter, "full_tensor"):
        raise ValueError("a sharded parameter cannot change its size; use trainer.parallel=ddp")
    parameter.grad = None
    data = _resized(parameter.data, dim, size)
    # A graph that is still held, such as that of the last loss, keeps the node alive that collects
    # this parameter's gradient, with the old shape. PyTorch makes a new one where the type changes.
    other = torch.float32 if data.dtype == torch.float16 else torch.float16
    parameter.data = data.new_empty(0, dtype=other)
    parameter.data = data
    for state, key in _per_entry(parameter, dim, old, optimizers):
        state[key] = _resized(state[key], dim, size)


@torch.no_grad()
def permute_parameter(
    parameter: nn.Parameter,
    dim: int,
    order: Tensor,
    optimizers: Sequence[torch.optim.Optimizer] = (),
) -> None:
    """Put the entries along a dimension into another order, in a parameter and its state.

    Args:
        parameter: Not sharded.
        dim: The dimension.
        order: A permutation of its places.
        optimizers: Those that keep something of the parameter.
    """
    order = order.to(parameter.device)
    parameter.copy_(parameter.index_select(dim, order))
    if parameter.grad is not None:
        parameter.grad = parameter.grad.index_select(dim, order)
    for state, key in _per_entry(parameter, dim, parameter.shape[dim], optimizers):
        state[key] = state[key].index_select(dim, order.to(state[key].device))


def drop_misfitting_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> None:
    """Drop what an optimiser keeps of a parameter that has had another size since.

    A state dict that was loaded may have changed it. The next step then begins anew.
    """
    for value in optimizer.state.get(parameter, {}).values():
        if not isinstance(value, Tensor) or value.dim() != parameter.dim():
            continue
        sizes = zip(value.shape, parameter.shape, strict=True)
        if any(own not in (1, size) for own, size in sizes):
            reset_state(optimizer, parameter)
            return


@torch.no_grad()
def reset_state(
    optimizer: torch.optim.Optimizer,
    parameter: nn.Parameter,
    dim: int | None = None,
    index: Tensor | None = None,
) -> None:
    """Zero what an optimiser keeps of a parameter, its count of steps included.

    Moments without their count would make the next update of Adam up to
    (1 - β₁) / √(1 - β₂) = 3.2 times too long, so both go together.

    Args:
        optimizer: Any that keeps tensors and numbers per parameter.
        parameter: One of its parameters; nothing happens where it has no state yet.
        dim: Dimension of `index`; None resets everything.
        index: Entries along `dim` to reset.

    Raises:
        ValueError: entries of a state that has one count of steps for the whole parameter, or a
            tensor of a shape that says nothing about entries; a momentum with dampening in a fused
            `torch.optim.SGD`.
    """
    state = optimizer.state.get(parameter, {})
    if dim is None or index is None:
        if state and _needs_momentum(optimizer, parameter):
            state["momentum_buffer"].zero_()
        else:
            optimizer.state.pop(parameter, None)  # rebuilt by the next step
        return
    for key, value in state.items():
        per_entry = isinstance(value, Tensor) and value.dim() == parameter.dim()
        if not per_entry or value.shape[dim] != parameter.shape[dim]:
            raise ValueError(
                f"{type(optimizer).__name__} keeps {key!r} for a whole parameter, so single "
                f"vectors cannot be reset; use optim=step_adamw"
            )
        if hasattr(value, "full_tensor"):
            assign(value, stored_in(value).index_fill(dim, index.to(value.device), 0))
        else:
            value.index_fill_(dim, index.to(value.device), 0)


def _per_entry(
    parameter: nn.Parameter, dim: int, size: int, optimizers: Sequence[torch.optim.Optimizer]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Iterate over the tensors in the states of a parameter that have `size` entries along dim."""
    for optimizer in optimizers:
        state = optimizer.state.get(parameter, {})
        for key, value in state.items():
            tensor = isinstance(value, Tensor) and value.dim() == parameter.dim()
            if tensor and value.shape[dim] == size:
                yield state, key


def _needs_momentum(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> bool:
    """Whether a step fails without a momentum, which zeros are then as good as.

    A fused SGD takes a group in which all have one, or none.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return False
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    if not (group["fused"] and group["momentum"]):
        return False
    if group["dampening"]:
        raise ValueError(
            f"SGD(fused=True, dampening={group['dampening']}) cannot begin a single momentum anew; "
            f"use foreach=True, or no dampening"
        )
    return True


def _resized(value: Tensor, dim: int, size: int) -> Tensor:
    old = value.shape[dim]
    if size <= old:
        return value.narrow(dim, 0, size).clone(memory_format=torch.contiguous_format)
    shape = list(value.shape)
    shape[dim] = size - old
    return torch.cat([value, value.new_zeros(shape)], dim)
