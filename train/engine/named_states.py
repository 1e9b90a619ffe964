"""States of a model and its optimiser that do not depend on how a run is spread over processes.

Shards are gathered and the optimiser's state has the parameters' names, so a run may go on in one
process, under DDP or under FSDP, and with any number of processes.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import RunError
from .process import is_sharded

__all__ = ["load_model_state", "load_states", "model_state", "optimizer_state"]


def model_state(model: nn.Module) -> dict[str, Any]:
    """Return the whole state dict of a model; all processes must call it when it is sharded."""
    if not is_sharded(model):
        return model.state_dict()
    # Only a sharded run pays the second that this import takes.
    from torch.distributed.checkpoint import state_dict as sharded

    whole = sharded.StateDictOptions(full_state_dict=True, cpu_offload=True)
    return sharded.get_model_state_dict(model, options=whole)


def load_model_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load the whole state dict of a model, of which each process keeps its shards.

    Raises:
        RuntimeError: it is of another model.
    """
    if not is_sharded(model):
        model.load_state_dict(state)
        return
    from torch.distributed.checkpoint import state_dict as sharded

    whole = sharded.StateDictOptions(full_state_dict=True)
    sharded.set_model_state_dict(model, dict(state), options=whole)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the whole state of an optimiser by the names of the parameters.

    All processes must call it when the model is sharded.
    """
    if not is_sharded(model):
        return _by_name(optimizer.state_dict(), _names_in_order(model, optimizer))
    from torch.distributed.checkpoint import state_dict as sharded

    whole = sharded.StateDictOptions(full_state_dict=True, cpu_offload=True)
    return sharded.get_optimizer_state_dict(model, optimizer, options=whole)


def load_states(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the `model` and `optimizer` of a checkpoint.

    Raises:
        RunError: they are of another model or optimiser.
    """
    names = _names_in_order(model, optimizer)
    try:
        known = _by_name(state["optimizer"], names)  # files of earlier versions hold numbers
        written = [name for group in known["param_groups"] for name in group["params"]]
        if written != names:
            other = min(set(written) ^ set(names), default=names[0])
            raise ValueError(f"its optimiser changes other parameters, such as {other}")
        if is_sharded(model):
            from torch.distributed.checkpoint import state_dict as sharded

            # The optimiser goes first: to make room for its state PyTorch takes a step of length 0,
            # in which a low-rank method may act, and whatever that changes is then overwritten.
            # What has no state, such as vectors that were drawn anew, gets none again.
            whole = sharded.StateDictOptions(full_state_dict=True, strict=False)
            sharded.set_optimizer_state_dict(model, optimizer, known, options=whole)
            for name, p in model.named_parameters():
                if name not in known["state"]:
                    optimizer.state.pop(p, None)
            load_model_state(model, state["model"])
        else:
            load_model_state(model, state["model"])
            optimizer.load_state_dict(known)
    except (LookupError, RuntimeError, ValueError) as error:
        said = textwrap.shorten(str(error), 200, placeholder=" …")
        raise RunError(f"the checkpoint is of another model or optimiser: {said}") from error


def _names_in_order(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the parameters in the order in which an optimiser numbers them."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _by_name(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Replace the numbers of parameters in an optimiser's state by their names."""

    def name(key: int | str) -> str:
        return names[key] if isinstance(key, int) else key

    groups = [{**g, "params": [name(k) for k in g["params"]]} for g in state["param_groups"]]
    return {"state": {name(k): v for k, v in state["state"].items()}, "param_groups": groups}
