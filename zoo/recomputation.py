"""Gradient checkpointing: activations that are computed again in the backward pass, and not kept.

Source: Chen, Xu, Zhang, Guestrin 2016, "Training deep nets with sublinear memory cost",
arXiv:1604.06174.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..layers.hyperbolic import MidpointBatchNorm
from ..layers.residual import frozen_routing
from ..layers.residual.stream import routing_is_frozen

__all__ = ["RecomputedSequential", "recomputed", "recomputes"]

BatchNorm = _BatchNorm | MidpointBatchNorm
Given = TypeVar("Given")


def recomputes(module: nn.Module) -> bool:
    """Whether a module recomputes what it runs now: where it trains, and its flag asks for it."""
    return bool(module.grad_checkpointing) and module.training and torch.is_grad_enabled()


def recomputed(function: Callable[..., Given], parts: Sequence[nn.Module], *given: Any) -> Given:
    """Call a function whose activations are not kept: the backward pass calls it once more.

    The second call draws the random numbers of the first, so dropout and drop-path are the same.

    Args:
        function: What to call.
        parts: The modules that it runs; their batch norms move running statistics once.
        given: Its arguments.
    """
    found = [m for part in parts for m in part.modules() if isinstance(m, BatchNorm)]
    options: dict[str, Any] = {}
    # A compiled graph recomputes values only; there the running statistics move once anyway.
    if not torch.compiler.is_compiling():
        frozen = routing_is_frozen()
        options["context_fn"] = lambda: (contextlib.nullcontext(), _again(found, frozen))
    return checkpoint(function, *given, use_reentrant=False, **options)


class RecomputedSequential(nn.Sequential):
    """Layers one after another, each computed again in the backward pass if asked for.

    Args:
        layers: Maps of one tensor to one.

    Attributes:
        grad_checkpointing: Whether they are, in training.
    """

    def __init__(self, *layers: nn.Module) -> None:
        """Keep every activation at first."""
        super().__init__(*layers)
        self.grad_checkpointing = False

    def forward(self, input: Tensor) -> Tensor:
        """Run all layers."""
        if not recomputes(self):
            return super().forward(input)
        for layer in self:
            input = recomputed(layer, [layer], input)
        return input


@contextlib.contextmanager
def _again(norms: Sequence[BatchNorm], frozen: bool) -> Iterator[None]:
    """Compute what the forward did, in whatever thread, but move no running statistics.

    Batch norms normalise by the batch as in training; routing is frozen where it was.
    """
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        with frozen_routing(frozen):
            yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count
