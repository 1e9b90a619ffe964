"""Stages of a CNN: trunks of different shape, each with a residual of its own."""

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, nn

from ..layers.residual import Residual, State
from ..layers.subsample import subsample
from ..layers.units import Units, UnitTrace
from .trunk import Trunk

__all__ = ["Carry", "Handover", "follow_stages", "run_stages", "strided"]

Carry = Callable[[Tensor], Tensor]


def strided(shortcut: Carry, stride: int) -> Carry:
    """Return what maps every s-th pixel by a shortcut: a 1×1 convolution with a stride."""
    return lambda h: shortcut(subsample(h, (stride, stride)))


class Handover:
    """What goes from stage to stage beside the output: the state, and whose it is.

    With it a stage is a call of its module that takes and returns one tensor, so that hooks on
    `stages[i]` see what closed the stage before and what closes this one.
    """

    def __init__(self) -> None:
        """Start before the first stage."""
        self.shortcut: Carry = nn.Identity()
        self.residual: Residual | None = None
        self.state: State = ()

    def through(self, stage: Trunk, h: Tensor) -> Tensor:
        """Run a stage and return what closes it.

        Args:
            stage: The next one.
            h: What closed the one before, or what a hook has put in its place.
        """
        if self.residual is None:
            (h,) = stage.settle((h,), 0)
            state = stage.residual.open(self.shortcut(h))
        else:
            state = stage.settle(self.state, 0, closed=h)
            if stage.norm_position == "post":
                h = self.residual.close(state)
            state = self.residual.handoff(state, self.shortcut, closed=h)
        self.residual = stage.residual
        self.state = stage.run(stage.enter(state, h, self.shortcut), start=1)
        return self.residual.close(self.state)


def run_stages(
    h: Tensor, shortcuts: Iterable[Carry], stages: Iterable[nn.Module]
) -> Iterator[Tensor]:
    """Run trunks one after the other, and yield what closes each.

    The first branch of a stage reads at the old resolution and writes at the new one; the shortcut
    carries what the residual keeps across.

    Args:
        h: The stem's output (B, D, H, W).
        shortcuts: One map for each stage, from the old shape to the new.
        stages: A `Trunk` for each stage.
    """
    handover = Handover()
    for shortcut, stage in zip(shortcuts, stages, strict=True):
        handover.shortcut = shortcut
        h = stage(h, through=handover.through)
        yield h


def follow_stages(
    trace: UnitTrace, x: Units, shortcuts: Iterable[nn.Module], stages: Iterable[nn.Module]
) -> Units:
    """Follow units through stages: the shortcut of each makes the units of its stream."""
    for shortcut, stage in zip(shortcuts, stages, strict=True):
        assert isinstance(stage, Trunk)
        x = stage.follow_units(trace, trace.through(shortcut, x), before=x)
    return x
