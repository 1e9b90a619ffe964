"""Where autocast must not reach: what is computed in the precision of its inputs."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["without_autocast"]


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context with autocast off for the device of x.

    Inside, products keep the dtype of what is multiplied. Where autocast is off already, or the
    device knows none, such as the meta device, nothing is switched.
    """
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
