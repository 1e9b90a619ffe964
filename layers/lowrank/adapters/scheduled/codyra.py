"""CoDyRA: components with weights of their own, of which those that matter little become zero.

    W_eff = W + B diag(w) A,    B = 0,  A drawn,  w ~ N(0, 1) at the start

    first `dense` of a task     all is trained
    then                        w <- sign(w) max(|w| - κ, 0) after every step, κ from 0 to `shrink`
    end of a task               W <- W + B diag(w) A,  and B, w, A start anew

The step on w is argmin_v ½ (v - w)² + κ |v|. What becomes zero by the end leaves no trace in W.

Source: Lu et al. 2024, "CoDyRA: Adaptive Rank, Reduced Forgetting: Knowledge Retention in Continual
Learning Vision-Language Models with Dynamic Rank-Selective LoRA", arXiv:2412.01004.
Differs from it: the published code shrinks in place and then zeroes what is below κ, so that all
|w| < 2κ become zero; here it is |w| ≤ κ.
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from ...event_schedule import check_steps, known, steps_of
from ...maths.random_vectors import normal
from ...methods.relora import merge_factors
from ...watched_weights import WatchedWeights
from ...weights.factors import Factors
from ...weights.resize_parameter import reset_state
from ...weights.structure import FrozenDense, assign, stored_in
from ..adapter import RankedAdapter, fresh_right

__all__ = ["CoDyRA", "soft_threshold"]


def soft_threshold(values: Tensor, kappa: float) -> Tensor:
    """Return argmin_v ½ (v - w)² + κ |v| for every w, κ at least 0."""
    return values.sign() * (values.abs() - kappa).clamp_min(0)


class CoDyRA(RankedAdapter):
    """Components with trained weights that an ℓ1 step brings to zero.

    Args:
        rank: r, or a share of the full rank.
        dense: Steps of a task before the first shrinking, or a share of it.
        shrink: κ at the end of a task, at least 0.
        stages: Stairs on which κ rises.
        total_steps: Steps of a task.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        *,
        rank: int | float = 16,
        dense: int | float = 0.5,
        shrink: float = 0.005,
        stages: int = 50,
        total_steps: int | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rank=rank)
        check_steps(dense, "dense")
        if not shrink >= 0:
            raise ValueError(f"shrink must be at least 0, got {shrink}")
        if stages < 1:
            raise ValueError(f"stages must be at least 1, got {stages}")
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}")
        self.dense, self.shrink, self.stages = dense, shrink, stages
        self.total_steps = total_steps

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return r (rows + columns + 1)."""
        *batch, rows, columns = shape
        count = torch.Size(batch).numel() * self.rank_for("a weight", shape)
        return count * (rows + columns + 1)

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Put the components beside the weight."""
        *batch, rows, _ = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        right = fresh_right(weight, rank, generator)
        core = normal((*batch, rank), 1.0, weight, generator)
        left = weight.new_zeros(*batch, rows, rank)
        return Factors(left, right, core=core, extra=FrozenDense(weight))

    def check(self, controller: WatchedWeights) -> None:
        """Check that the schedule is known.

        Raises:
            ValueError: the steps of a task are not.
        """
        known(self.total_steps, f"dense={self.dense}")

    def kappa(self, step: int) -> float:
        """Return κ after so many steps of a task."""
        total = known(self.total_steps, f"dense={self.dense}")
        begin = steps_of(self.dense, total, "dense")
        if step <= begin:
            return 0.0
        share = min(1.0, (step - begin) / max(1, total - begin))
        return self.shrink * ceil(share * self.stages) / self.stages

    @torch.no_grad()
    def after_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Shrink the weights of components."""
        kappa = self.kappa(controller.step - controller.state.get("began", 0))
        if not kappa:
            return
        for factors in controller.factors(frozen=False).values():
            assert factors.core is not None
            assign(factors.core, soft_threshold(stored_in(factors.core), kappa))

    @torch.no_grad()
    def end_task(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer | None) -> None:
        """Add what was learned to the frozen weights, and start the components anew."""
        for name, factors in controller.factors(frozen=False).items():
            shape, generator = tuple(factors.right.shape), controller.generator(f"{name}/task")
            assert factors.core is not None
            right = fresh_right(factors.right, shape[-2], generator)
            core = normal(tuple(factors.core.shape), 1.0, factors.right, generator)
            for twin in (factors, *controller.twins_of(name)):
                assert isinstance(twin, Factors) and twin.core is not None
                merge_factors(twin, right)
                assign(twin.core, core)
            for part in (factors.left, factors.right, factors.core):
                if optimizer is not None:
                    reset_state(optimizer, part)
        controller.state["began"] = controller.step
