"""ReLoRA: factors over a frozen matrix, merged into it and started anew every few steps.

    W = W_f + s B A,    B (rows, r) = left, 0 at first,    A (r, columns) = right

    every `merge_every` steps:   W_f <- W_f + s B A,   A drawn anew,   B <- 0

W starts at the given weight and no merge moves it; after q of them W - W_0 has a rank of up to
(q + 1) r. Both factors at zero would be dead for ever, B alone is not: its gradient is s G Aᵀ.

What the optimiser knows of both factors is dropped at a merge, its count of steps included, and
the learning rate climbs back over `rewarm` steps. Both together are needed: the paper's run with
a reset and no warm-up diverged. Without merges this is LoRA on a frozen W_0, the comparator.

Source: Lialin et al. 2023, "ReLoRA: High-Rank Training Through Low-Rank Updates",
arXiv:2307.05695.
Differs from it: its code prunes 99.9 % of the moments at random and keeps the count; here all goes.
Its warm-up scales every parameter's rate, here that of the factors. No dense warm start is made:
train dense first and reparametrise then.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..event_schedule import check_rewarm, check_steps, rewarm_steps, rewarmed, steps_of
from ..maths.decompose import refuse_diverged
from ..maths.random_vectors import uniform
from ..method import Method, check_rank, rank_of
from ..watched_weights import WatchedWeights
from ..weights.factors import Factors
from ..weights.resize_parameter import reset_state
from ..weights.structure import FrozenDense, assign, stored_in

__all__ = ["ReLoRA", "merge_factors"]

USUAL_REWARM = 100  # steps, as in the paper


@torch.no_grad()
def merge_factors(structure: Factors, right: Tensor) -> None:
    """Add the product of the factors to the frozen matrix, and start them anew; W stays.

    Args:
        structure: Factors over a `FrozenDense`.
        right: The new A.
    """
    assert isinstance(structure.extra, FrozenDense)
    fixed = structure.extra.weight
    left = stored_in(structure.left)
    if structure.core is not None:
        core = stored_in(structure.core)
        left = left * core[..., None, :] if core.dim() < left.dim() else left @ core
    assign(fixed, stored_in(fixed) + structure.scale * (left @ stored_in(structure.right)))
    assign(structure.right, right)
    structure.left.zero_()


class ReLoRA(Method):
    """Factors over a frozen matrix, merged into it and started anew every few steps.

    Args:
        rank: Components, or a share of the full rank.
        scale: s.
        merge_every: Steps from one merge to the next, or a share of the run; 0 never merges, which
            is LoRA on a frozen matrix.
        rewarm: Steps of the linear warm-up of the factors' learning rate after a merge, below those
            from one merge to the next; 0 is none. None is 100, as in the paper, where 5,000 lie
            between merges, and at most a tenth of them.
        total_steps: Steps of the run; required where `merge_every` is a share.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        *,
        rank: int | float = 0.25,
        scale: float = 1.0,
        merge_every: int | float = 5000,
        rewarm: int | None = None,
        total_steps: int | None = None,
    ) -> None:
        """Check and keep the settings."""
        check_rank(rank)
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        if merge_every != 0 or isinstance(merge_every, bool):
            check_steps(merge_every, "merge_every")
        check_rewarm(rewarm, merge_every if isinstance(merge_every, int) else None, "merge_every")
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}")
        self.rank, self.scale, self.merge_every = rank, scale, merge_every
        self.rewarm, self.total_steps = rewarm, total_steps

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int:
        """Return r."""
        return rank_of(self.rank, name, shape)

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Put factors over the weight; W stays the same."""
        *batch, rows, columns = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        # As torch draws the weight of a linear layer with as many inputs.
        right = uniform((*batch, rank, columns), columns**-0.5, weight, generator)
        left = weight.new_zeros(*batch, rows, rank)
        return Factors(left, right, scale=self.scale, extra=FrozenDense(weight))

    def check(self, controller: WatchedWeights) -> None:
        """Check that the schedule is known and the warm-up fits into it.

        Raises:
            ValueError: `merge_every` is a share and `total_steps` unknown, or a share of fewer
                steps than the warm-up has.
        """
        check_rewarm(self.rewarm, self._period(), "merge_every")

    def learning_rate_factor(self, controller: WatchedWeights) -> float:
        """Climb back after a merge; the start of the run is left to its own schedule."""
        period = self._period()
        if not period or controller.step < period:
            return 1.0
        steps = rewarm_steps(self.rewarm, period, USUAL_REWARM)
        return rewarmed(controller.step % period, steps)

    def after_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Merge where it is time."""
        period = self._period()
        if not period or controller.step % period:
            return
        for name, structure in controller.factors(frozen=False).items():
            shape, generator = tuple(structure.right.shape), controller.generator(f"{name}/merge")
            right = uniform(shape, shape[-1] ** -0.5, structure.right, generator)
            for twin in (structure, *controller.twins_of(name)):
                assert isinstance(twin, Factors)
                parts = stored_in(twin.left), stored_in(twin.right)
                refuse_diverged(name, controller.step, *parts)
                merge_factors(twin, right)
            reset_state(optimizer, structure.left)
            reset_state(optimizer, structure.right)

    def settings(self) -> dict[str, Any]:
        """Return the settings, with the steps that the warm-up has."""
        found = super().settings()
        if self.total_steps is not None or isinstance(self.merge_every, int):
            found["rewarm"] = rewarm_steps(self.rewarm, self._period(), USUAL_REWARM)
        return found

    def _period(self) -> int:
        if self.merge_every == 0:
            return 0
        return steps_of(self.merge_every, self.total_steps, "merge_every")
