"""What `certify` is given: a copy of the model, samples, and the division before them."""

# Shape letters: N samples.

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..network import Network

__all__ = ["check_weights", "copied", "given", "samples_of", "std_of"]


def copied(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU in evaluation.

    Tensors that a pruned or reparametrised model has computed are copied as numbers.

    Raises:
        ValueError: a module that cannot be copied.
    """
    known = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        found = copy.deepcopy(model, known).eval()
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"the {type(model).__name__} cannot be copied ({str(error).splitlines()[0]}); give a "
            f"module that copy.deepcopy takes"
        ) from error
    # A scripted module on the CPU would be changed by the call.
    away = any(t.device.type != "cpu" for t in (*found.parameters(), *found.buffers()))
    return found.cpu() if away else found


def check_weights(model: nn.Module) -> None:
    """Refuse weights that are no real numbers.

    Raises:
        ValueError: naming the first.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise ValueError(f"{name} is on the meta device and holds no numbers; load weights")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(
                f"{name} holds NaN or infinite values, so nothing can be certified; train "
                f"again, or load weights that are finite"
            )


def given(values: Any) -> Tensor | None:
    """Return samples or classes on the CPU; arrays are taken too."""
    if isinstance(values, np.ndarray):
        values = torch.from_numpy(values)
    if values is None or isinstance(values, Tensor):
        return None if values is None else values.detach().cpu()
    raise ValueError(f"x and y must be tensors or arrays, got {type(values).__name__}")


def samples_of(model: nn.Module, x: Tensor | None) -> tuple[Tensor | None, bool]:
    """Return inputs, and whether they are the user's samples."""
    if x is not None:
        return x, True
    if isinstance(model, Network):
        shape = model.default_cfg.get("input_size")
        if shape is None or "vocab_size" in model.default_cfg:
            return None, False  # tokens and nodes
    else:
        leaves = [m for m in model.modules() if not list(m.children())]
        width = getattr(leaves[0], "in_features", None) if leaves else None
        if width is None:
            raise ValueError(
                f"x is needed to certify a {type(model).__name__}: the shape of its input is not "
                f"known; give a few samples"
            )
        shape = (width,)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, *shape, generator=generator), False


def std_of(input_std: float | Sequence[float], samples: Tensor | None) -> Tensor | None:
    """Return the division as numbers, one or one for each channel."""
    std = torch.as_tensor(input_std, dtype=torch.float64).flatten()
    channels = samples.shape[1] if samples is not None else 1
    if not bool(((std > 0) & std.isfinite()).all()) or len(std) not in (1, channels):
        raise ValueError(
            f"input_std must hold one positive number, or one for each of the {channels} "
            f"channels, got {input_std}"
        )
    return std
