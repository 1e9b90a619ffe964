"""Where autocast must not reach: what is computed in the precision of its inputs."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["autocasts", "without_autocast"]


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for the device of x; one without it, such as meta, has none."""
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context with autocast off for the device of x.

    Inside, products keep the dtype of what is multiplied. Where autocast is off already, or the
    device knows none, such as the meta device, nothing is switched.
    """
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()
