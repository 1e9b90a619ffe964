"""What a low-rank method decides: the structure of a weight, and events around optimiser steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .target import Target
from .watched_weights import WatchedWeights
from .weights.structure import WeightStructure
from .weights.unfolding import Scheme

__all__ = ["Method", "break_even", "check_rank", "rank_of"]


class Method:
    """Settings of a method, and what it does with them; a subclass overrides what it needs.

    A method holds no state of a run: it keeps that in `controller.state`, a mapping of tensors and
    plain values that goes into the checkpoint, or in buffers of its structures.

    Attributes:
        scheme: Unfolding of convolution kernels.
        is_matrix: Whether every structure it makes stands for one matrix.
        replaces: Whether it gives weights a structure; false where they stay dense in training.
        skips_uneconomic: Whether a weight whose structure would be larger is left out by default.
        takes_frozen: Whether a weight that is not trained gets a structure, which is not trained
            either; false where it is left out.
        adapts: Whether it trains what is added to weights that stay, those included that nothing
            trained before.
        budget: Share of the targets' dense parameters that a run is to end at, or None.
        reads_held_out: Whether it learns from `WatchedWeights.held_out`, which a run then needs.
        trains_also: Patterns of what is trained beside the targets, as `Controller.freeze_rest`
            takes them, or None where nothing is frozen.
    """

    scheme: Scheme = "channel"
    is_matrix: bool = True
    replaces: bool = True
    skips_uneconomic: bool = True
    takes_frozen: bool = False
    adapts: bool = False
    budget: float | None = None
    reads_held_out: bool = False
    trains_also: Sequence[str] | None = None

    @property
    def resizes(self) -> bool:
        """Whether parameters change their size in training, which sharded ones cannot."""
        return False

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int | None:
        """Return the rank that a weight (..., rows, columns) gets, or None where ranks vary.

        Raises:
            ValueError: a rank that the weight cannot have.
        """
        return None

    def beside(self, shape: tuple[int, ...]) -> int:
        """Return how many numbers a weight (..., rows, columns) has beside its two factors."""
        return 0

    def refuses(self, target: Target) -> str:
        """Say why a weight is left out unless it is named, or nothing."""
        return ""

    def prepare(self, targets: Mapping[str, Target], skipped: Mapping[str, str]) -> dict[str, str]:
        """Look at all targets before the first structure is made; return reasons to leave some out.

        For what is decided for all weights together, such as a threshold that they share.

        Args:
            targets: By name.
            skipped: Reasons for what was left out before, by name.
        """
        return {}

    def decided(self) -> dict[str, Any]:
        """Return the settings that `prepare` read off the weights, to make the same from others."""
        return {}

    def adds_bias(self, name: str) -> bool:
        """Whether a layer without a bias gets one, of zeros."""
        return False

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> WeightStructure:
        """Return what stands for a fresh or pretrained matrix (..., rows, columns)."""
        raise NotImplementedError

    def check(self, controller: WatchedWeights) -> None:
        """Refuse a run that cannot be carried through, before it begins or goes on.

        Raises:
            ValueError: what is missing.
        """

    def start(self, controller: WatchedWeights) -> None:
        """Before the first step of a new run; what it does to the state, a checkpoint replaces.

        So it does with dense weights; of a structure nothing may be changed here.
        """

    def resumed(self, controller: WatchedWeights) -> None:
        """After the state of a checkpoint was loaded, to rebuild what it does not hold.

        The model's own may be loaded later, and `attach` called.
        """

    def penalty(self, controller: WatchedWeights) -> Tensor | None:
        """Return what is added to the loss, or None."""
        return None

    def note_loss(self, controller: WatchedWeights, loss: Tensor) -> None:
        """With the loss of every micro-batch of a step, before its backward pass."""

    def learning_rate_factor(self, controller: WatchedWeights) -> float:
        """Return what multiplies the learning rate of the targets in the coming step."""
        return 1.0

    def before_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """With the final gradients, after any clipping, before the optimiser reads them.

        What is added to one goes through `controller.as_gradient`. Targets that are frozen now are
        left alone here and in `after_step`.
        """

    def after_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """After the optimiser's step; `controller.step` counts it already."""

    def end_task(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer | None) -> None:
        """Between one task and the next of a sequence; `Controller.end_task` calls it.

        Raises:
            ValueError: the method has no tasks.
        """
        raise ValueError(f"{type(self).__name__} knows no tasks; train on, or merge the model")

    def set_rank(self, controller: WatchedWeights, rank: int) -> None:
        """Run at the first components only, or again at all; `Controller.set_rank` calls it.

        Raises:
            ValueError: components that were trained together and mean nothing apart.
        """
        raise ValueError(
            f"{type(self).__name__} trains its components together, so a few of them are no "
            f"adapter; train with dylora to choose a rank afterwards"
        )

    def report(self, controller: WatchedWeights) -> dict[str, Any]:
        """Return what it found out about the weights, as plain values."""
        return {}

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse an optimiser that the method cannot work with.

        Raises:
            ValueError: naming it and one that works.
        """

    def share(self, controller: WatchedWeights) -> float:
        """Return the targets' share of their dense parameters, as the budget counts it."""
        raise NotImplementedError

    def out_of_reach(self, steps: int) -> str:
        """Say why a run of so many steps cannot meet the budget, or nothing."""
        return ""

    def settings(self) -> dict[str, Any]:
        """Return the settings, as plain values, for comparison with those of a checkpoint."""
        return dict(vars(self))


def check_rank(rank: int | float, what: str = "rank") -> None:
    """Refuse a rank that no weight can have.

    Args:
        rank: A number of components (int, at least 1), or a share of the full rank (float, (0, 1]).
        what: How the message calls it.

    Raises:
        ValueError: naming the value.
    """
    if isinstance(rank, bool) or (isinstance(rank, int) and rank < 1):
        raise ValueError(f"{what} must be at least 1 component, or a share in (0, 1], got {rank}")
    if isinstance(rank, float) and not 0.0 < rank <= 1.0:
        raise ValueError(f"{what} must be a share in (0, 1], or a whole number, got {rank}")


def rank_of(rank: int | float, name: str, shape: tuple[int, ...]) -> int:
    """Return the rank that a setting means for one matrix, at least 1.

    Raises:
        ValueError: more components than the matrix has.
    """
    full = min(shape[-2:])
    if isinstance(rank, float):
        return max(1, round(rank * full))
    if rank > full:
        raise ValueError(
            f"rank={rank} exceeds the full rank {full} of {name} ({shape[-2]}x{shape[-1]}); lower "
            f"it, give a share such as 0.25, or leave the layer out with targets="
        )
    return rank


def break_even(shape: tuple[int, ...]) -> float:
    """Rank below which two factors have fewer numbers than a matrix (..., rows, columns)."""
    rows, columns = shape[-2:]
    return rows * columns / (rows + columns)
