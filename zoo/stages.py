"""Stages of a CNN: trunks of different shape, each with a residual of its own."""

from collections.abc import Callable, Iterable
from typing import cast

from torch import Tensor, nn

from ..layers.residual import Residual, State
from ..layers.subsample import subsample
from .trunk import Trunk

__all__ = ["Carry", "run_stages", "strided"]

Carry = Callable[[Tensor], Tensor]


def strided(shortcut: Carry, stride: int) -> Carry:
    """Return what maps every s-th pixel by a shortcut: a 1×1 convolution with a stride."""
    return lambda h: shortcut(subsample(h, (stride, stride)))


def run_stages(h: Tensor, shortcuts: Iterable[Carry], stages: Iterable[nn.Module]) -> Tensor:
    """Run trunks one after the other and close the last.

    The first branch of a stage reads at the old resolution and writes at the new one; the shortcut
    carries what the residual keeps across.

    Args:
        h: The stem's output (B, D, H, W).
        shortcuts: One map for each stage, from the old shape to the new.
        stages: A `Trunk` for each stage, at least one.
    """
    residual: Residual | None = None
    state: State = ()
    for shortcut, stage in zip(shortcuts, cast(Iterable[Trunk], stages), strict=True):
        if residual is None:
            (h,) = stage.settle((h,), 0)
            state = stage.residual.open(shortcut(h))
        else:
            state = stage.settle(state, 0)
            h = residual.close(state)
            state = residual.handoff(state, shortcut)
        residual = stage.residual
        state = stage.run(stage.enter(state, h, shortcut), start=1)
    assert residual is not None
    return residual.close(state)
