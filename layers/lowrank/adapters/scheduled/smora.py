"""SMoRA: a router chooses for every input which k of the r components act.

    p = sigmoid(R x),    I = the k largest of p + d,    g_j = k p_j / Σ_{i∈I} p_i in I, else 0

    y = W x + (α / k) B (g ⊙ A x),    B = 0 at the start

The gates of an input add up to k, so k = r with a router of zeros is LoRA. After every step the
bias d_j rises by `balance` where component j was chosen less often than the mean, and falls where
more often; d chooses and is no part of the gate's value.

Source: Zhao et al. 2025, "Each Rank Could be an Expert: Single-Ranked Mixture of Experts LoRA for
Multi-Task Learning", arXiv:2501.15103.
Differs from it: the published code has d inside the value of the gate too, and moves it in the
forward pass, so once for every micro-batch and twice where activations are computed again; it needs
a CUDA compiler. Convolutions and raw matrices are left out, since a gate reads an input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from ...target import Target
from ...watched_weights import WatchedWeights
from ...weights.factors import Factors
from ...weights.structure import FrozenDense
from ..adapter import ScaledAdapter, fresh_right

__all__ = ["RankGate", "SMoRA"]


class RankGate(nn.Module):
    """Gates of components that follow from an input, all but k of them zero.

    Args:
        columns: Length of an input.
        components: r.
        active: k, from 1 to r.
        like: Gives dtype and device.

    Attributes:
        router: R (r, columns), zero at the start.
        bias: d (r), moved by `balance`.
        counts: How often each component was chosen since then (r), not saved.

    Shape:
        (..., columns) -> (..., r).
    """

    bias: Tensor
    counts: Tensor

    def __init__(self, columns: int, components: int, active: int, like: Tensor) -> None:
        """Begin undecided."""
        super().__init__()
        self.active = active
        self.router = nn.Parameter(like.new_zeros(components, columns))
        self.register_buffer("bias", like.new_zeros(components))
        self.register_buffer("counts", like.new_zeros(components), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gates of inputs, and count the choices of training."""
        chances = torch.sigmoid(F.linear(x, self.router))
        chosen = (chances + self.bias).topk(self.active, dim=-1).indices
        if self.training:
            with torch.no_grad():
                ones = self.counts.new_ones(()).expand(chosen.numel())
                self.counts.index_add_(0, chosen.flatten(), ones)
        values = chances.gather(-1, chosen)
        values = self.active * values / values.sum(-1, keepdim=True)
        return torch.zeros_like(chances).scatter(-1, chosen, values)

    @torch.no_grad()
    def balance(self, step: float) -> None:
        """Move the bias towards components that were chosen less often than the mean."""
        counts = self.counts
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(counts)
        self.bias += step * (counts.mean() - counts).sign()
        counts.zero_()


class SMoRA(ScaledAdapter):
    """A router that chooses for every input which components act.

    Args:
        rank: r, or a share of the full rank.
        active: k, at least 1 and at most r.
        alpha: α > 0; s = α / k.
        balance: Step of the bias, at least 0.

    Raises:
        ValueError: a setting out of its range.
    """

    is_matrix = False

    def __init__(
        self,
        *,
        rank: int | float = 32,
        active: int = 4,
        alpha: float = 16.0,
        balance: float = 1e-5,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rank=rank, alpha=alpha)
        if active < 1 or (isinstance(rank, int) and active > rank):
            raise ValueError(f"active must lie in [1, {rank}], got {active}")
        if not balance >= 0:
            raise ValueError(f"balance must be at least 0, got {balance}")
        self.active, self.balance = active, balance

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int:
        """Return r.

        Raises:
            ValueError: fewer components than are to be active.
        """
        rank = super().rank_for(name, shape)
        if rank < self.active:
            raise ValueError(f"active={self.active} exceeds the {rank} components of {name}")
        return rank

    def prepare(self, targets: Any, skipped: Any) -> dict[str, str]:
        """Leave out convolutions."""
        return {
            name: "a gate reads the input of a linear layer, and this is a convolution"
            for name, target in targets.items()
            if isinstance(target, Target) and target.unfolding is not None
        }

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return r (rows + 2 columns)."""
        return super().numbers(shape) + self.rank_for("a weight", shape) * shape[-1]

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Put the factors and the gate beside the weight."""
        rows, columns = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        return Factors(
            weight.new_zeros(rows, rank),
            fresh_right(weight, rank, generator),
            scale=self.scale_of(self.active),
            extra=FrozenDense(weight),
            gate=RankGate(columns, rank, self.active, weight),
        )

    def after_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Move the biases."""
        for factors in controller.factors(frozen=False).values():
            assert isinstance(factors.gate, RankGate)
            factors.gate.balance(self.balance)
