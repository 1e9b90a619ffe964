"""Trained Rank Pruning: dense training whose weights are projected to low rank again and again.

    every `period` steps, before the forward pass:   W = P S Q,  W <- W_k = P_k S_k Q_k
    in the step that follows:                        ∇W <- ∇W + λ P_k Q_k

k is the smallest rank that keeps the share 1 - e of the energy Σ σ². P_k Q_k is a sub-gradient of
the nuclear norm at the projected W_k; at the W before the projection it is none, so the two belong
together. Energy projection is not idempotent: repeated without steps between, it goes on removing
components until the smallest of them alone holds more than e. It must happen once a period only.

Weights end nearly low-rank, and factors replace them without fine-tuning.

Source: Xu et al. 2018, "Trained Rank Pruning for Efficient Deep Neural Networks", arXiv:1812.02402.
Differs from it: steps count from the start of training, not of each epoch; energy and period may
change during training; the groups of a convolution share a rank, and so do the filters of the
depthwise scheme.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..maths.decompose import at_least_float32, refuse_diverged
from ..maths.singular_values import rank_for_energy
from ..method import Method
from ..target import Target
from ..watched_weights import WatchedWeights
from ..weights.structure import assign, own_copy, stored_in
from ..weights.unfolding import Scheme

__all__ = ["TRP", "nuclear_subgradient", "project_energy", "ramped"]


def project_energy(matrix: Tensor, discarded: float) -> tuple[Tensor, Tensor, Tensor]:
    """Truncate a matrix to the smallest rank k that keeps the share 1 - e of its energy.

    Args:
        matrix: (..., rows, columns), of a batch that shares k; the SVD runs in float32 at least.
        discarded: The share e in [0, 1); 0 returns the matrix as it is.

    Returns:
        W_k in the dtype of the matrix, P_k (..., rows, k) and Q_k (..., k, columns).
    """
    left, values, right = torch.linalg.svd(at_least_float32(matrix), full_matrices=False)
    rank = rank_for_energy(values, discarded)
    left, right = left[..., :rank], right[..., :rank, :]
    if discarded == 0.0:
        return matrix, left, right
    projected = (left * values[..., None, :rank]) @ right
    return projected.to(matrix.dtype), left, right


def nuclear_subgradient(left: Tensor, right: Tensor) -> Tensor:
    """Return P Q, a sub-gradient of the nuclear norm Σ σ at P S Q: ‖Z‖_* ≥ ‖W‖_* + <PQ, Z - W>."""
    return left @ right


def ramped(start: float, end: float, progress: float) -> float:
    """Return the value between start and end at a progress, which counts from 0 to 1."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)


class TRP(Method):
    """Trained Rank Pruning: weights stay dense, and are projected every few steps.

    Args:
        period: Steps m from one projection to the next, at least 1.
        energy: Share e of Σ σ² that a projection may discard, in [0, 1).
        nuclear: Weight λ of the nuclear norm, at least 0; 3e-4 in the paper.
        scheme: Unfolding of kernels.
        min_kernel: Smallest kernel side that is projected; 1 takes 1×1 convolutions and linear
            layers in, which the paper leaves alone.
        warmup: Steps before the first projection.
        ramp: Steps after the warm-up in which period and energy go linearly to their values.
        period_start: Where the period's ramp starts; None is no ramp.
        energy_start: Where the energy's ramp starts; None is no ramp.

    Raises:
        ValueError: a setting out of its range.
    """

    replaces = False

    def __init__(
        self,
        *,
        period: int = 20,
        energy: float = 0.02,
        nuclear: float = 0.0,
        scheme: Scheme = "channel",
        min_kernel: int = 2,
        warmup: int = 0,
        ramp: int = 0,
        period_start: int | None = None,
        energy_start: float | None = None,
    ) -> None:
        """Keep the settings."""
        for name, value in {"period": period, "period_start": period_start}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 step, got {value}")
        for name, share in {"energy": energy, "energy_start": energy_start}.items():
            if share is not None and not 0.0 <= share < 1.0:
                raise ValueError(f"{name} must be a share in [0, 1) to discard, got {share}")
        for name, value in {"nuclear": nuclear, "warmup": warmup, "ramp": ramp}.items():
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if min_kernel < 1:
            raise ValueError(f"min_kernel must be at least 1, got {min_kernel}")
        if ramp == 0 and (period_start is not None or energy_start is not None):
            raise ValueError("period_start and energy_start need ramp, the steps to go up in")
        self.period, self.energy, self.nuclear = period, energy, nuclear
        self.scheme = scheme
        self.min_kernel, self.warmup, self.ramp = min_kernel, warmup, ramp
        self.period_start, self.energy_start = period_start, energy_start

    def refuses(self, target: Target) -> str:
        """Leave out small kernels, linear layers among them, unless they are named."""
        side = 1 if target.unfolding is None else min(target.unfolding.kernel_shape[-2:])
        if side >= self.min_kernel:
            return ""
        return f"its kernel side {side} is below min_kernel={self.min_kernel}"

    def period_at(self, step: int) -> int:
        """Return the steps from a projection before this step to the next."""
        start = self.period if self.period_start is None else self.period_start
        return round(ramped(start, self.period, self._progress(step)))

    def energy_at(self, step: int) -> float:
        """Return the share that a projection before this step may discard."""
        start = self.energy if self.energy_start is None else self.energy_start
        return ramped(start, self.energy, self._progress(step))

    def start(self, controller: WatchedWeights) -> None:
        """Project before the first step of a new run; a checkpoint replaces all of it."""
        controller.state.update(next=self.warmup, ranks={}, pending={})
        self._project_if_due(controller)

    def before_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Add the sub-gradients of the projection that this step follows."""
        for name, (left, right) in controller.state["pending"].items():
            target = controller.targets[name]
            assert target.weight is not None
            if target.frozen or target.weight.grad is None:
                continue
            gradient = stored_in(target.weight.grad)
            added = nuclear_subgradient(left.to(gradient.device), right.to(gradient.device))
            if target.unfolding is not None:
                added = target.unfolding.to_kernel(added)
            added = controller.as_gradient(self.nuclear * added.to(gradient.dtype))
            assign(target.weight.grad, gradient + added)

    def after_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Project before the forward pass of the next step."""
        controller.state["pending"] = {}
        self._project_if_due(controller)

    @torch.no_grad()
    def _project_if_due(self, controller: WatchedWeights) -> None:
        step, state = controller.step, controller.state
        if step != state["next"]:
            return
        discarded = self.energy_at(step)
        for name, target in controller.targets.items():
            if target.frozen:
                continue
            matrix = target.matrix()
            refuse_diverged(name, step, matrix)
            projected, left, right = project_energy(matrix, discarded)
            if discarded > 0.0:
                target.assign(projected)
            state["ranks"][name] = left.shape[-1]
            if self.nuclear > 0.0:
                state["pending"][name] = (own_copy(left), own_copy(right))
        state["next"] = step + self.period_at(step)

    def _progress(self, step: int) -> float:
        return (step - self.warmup) / self.ramp if self.ramp else 1.0
