"""Flexora: LoRA with a gate for each weight, trained on held-out data, which tells who needs one.

    W_l + g_l s B_l A_l,    g = N softmax(α),    α = 0 at the start, so g = 1

The optimiser trains the factors. After its step the gates take one of Adam, down the loss L of the
model in evaluation mode on held-out batches, with the factors as they are. No gate needs a graph of
its own, since h_l = Σ B_l ⊙ ∂L/∂B_l is g_l ∂L/∂g_l:

    ∂L/∂α_l = h_l - softmax(α)_l Σ_k h_k

The weights with α_l > 0 are the chosen ones: `controller.report()` and the run's `result.json` name
them, for a run of `lora` with `adapter.targets=` beside them alone.

Source: Wei et al. 2024, "Flexora: Flexible Low Rank Adaptation for Large Language Models",
arXiv:2408.10774.
Differs from it: as the published code does, the gradient is that at the factors of the step, where
the paper unrolls further steps. That code multiplies the input of dropout, A and B alike, so its
branch is scaled by g³; here it is scaled by g.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from ....modes import evaluating
from ...watched_weights import WatchedWeights
from ...weights.factors import Factors
from ...weights.structure import FrozenDense
from ..adapter import ScaledAdapter, fresh_right

__all__ = ["Flexora", "WeighedFactors", "gate_gradients"]

DECAYS = 0.9, 0.999
EPSILON = 1e-8


class WeighedFactors(Factors):
    """Factors over a frozen weight whose product is weighed against those of the other weights.

    Args:
        left: B (..., rows, r).
        right: A (..., r, columns).
        weight: W (..., rows, columns).
        scale: s.

    Attributes:
        strength: α of this weight ().
        share: g, N softmax(α) of it ().
    """

    strength: Tensor
    share: Tensor

    def __init__(self, left: Tensor, right: Tensor, weight: Tensor, *, scale: float) -> None:
        """Begin as LoRA."""
        super().__init__(left, right, scale=scale, extra=FrozenDense(weight))
        self.register_buffer("strength", weight.new_zeros(()))
        self.register_buffer("share", weight.new_ones(()))

    def parts(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the factors, the left one with the gate in it."""
        left, right, core = super().parts()
        return left * self.share, right, core


def gate_gradients(strengths: Tensor, products: Tensor) -> Tensor:
    """Return ∂L/∂α from h_l = g_l ∂L/∂g_l, for g = N softmax(α); both are (N)."""
    return products - strengths.softmax(0) * products.sum()


class Flexora(ScaledAdapter):
    """LoRA with a gate for each weight, trained on held-out data.

    Args:
        rank: r, or a share of the full rank.
        alpha: α of LoRA > 0; s = α / r.
        gate_rate: Learning rate of the gates, above 0.
        batches: Held-out batches of a step of the gates, at least 1.
        gate_every: Steps of the optimiser to one of the gates, at least 1.

    Raises:
        ValueError: a setting out of its range.
    """

    reads_held_out = True

    def __init__(
        self,
        *,
        rank: int | float = 8,
        alpha: float = 16.0,
        gate_rate: float = 0.01,
        batches: int = 8,
        gate_every: int = 1,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rank=rank, alpha=alpha)
        if not gate_rate > 0:
            raise ValueError(f"gate_rate must be above 0, got {gate_rate}")
        if batches < 1 or gate_every < 1:
            raise ValueError(
                f"batches and gate_every must be at least 1, got {batches} and {gate_every}"
            )
        self.gate_rate, self.batches, self.gate_every = gate_rate, batches, gate_every

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> WeighedFactors:
        """Put the factors beside the weight."""
        *batch, rows, _ = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        right, left = fresh_right(weight, rank, generator), weight.new_zeros(*batch, rows, rank)
        return WeighedFactors(left, right, weight, scale=self.scale_of(rank))

    def check(self, controller: WatchedWeights) -> None:
        """Check that there are held-out data, and that a process holds whole factors.

        Raises:
            ValueError: there are none, or parameters are sharded.
        """
        if controller.held_out is None:
            raise ValueError(
                "Flexora trains its gates on held-out data, and there are none; set "
                "controller.held_out to (number) -> the loss of the model on that batch of them"
            )
        if any(hasattr(f.left, "full_tensor") for f in controller.factors().values()):
            raise ValueError(
                "Flexora trains its gates outside of the optimiser's step, where parameters are "
                "sharded; use trainer.parallel=ddp"
            )

    def start(self, controller: WatchedWeights) -> None:
        """Begin with the gates of the weights, in float64, and with no moments."""
        strengths = [f.strength.double().cpu() for f in _weighed(controller).values()]
        found = torch.stack(strengths)
        controller.state["strengths"] = found
        controller.state["moments"] = torch.zeros(2, len(found), dtype=torch.float64)

    def after_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Move the gates."""
        if controller.step % self.gate_every:
            return
        count = controller.step // self.gate_every
        strengths, moments = controller.state["strengths"], controller.state["moments"]
        gradient = gate_gradients(strengths, self._products(controller, (count - 1) * self.batches))
        powers = torch.stack([gradient, gradient.square()])
        decays = torch.tensor(DECAYS, dtype=torch.float64)[:, None]
        moments = decays * moments + (1 - decays) * powers
        mean, square = moments / (1 - decays**count)
        strengths = strengths - self.gate_rate * mean / (square.sqrt() + EPSILON)
        controller.state |= {"strengths": strengths, "moments": moments}
        gates = len(strengths) * strengths.softmax(0)
        found = _weighed(controller).values()
        for factors, strength, gate in zip(found, strengths, gates, strict=True):
            factors.strength.fill_(float(strength))
            factors.share.fill_(float(gate))

    def report(self, controller: WatchedWeights) -> dict[str, Any]:
        """Return the names of the chosen weights, and the gates of all."""
        found = _weighed(controller)
        return {
            "chosen": [name for name, factors in found.items() if factors.strength > 0],
            "gates": {name: float(factors.share) for name, factors in found.items()},
        }

    def _products(self, controller: WatchedWeights, first: int) -> Tensor:
        """Return Σ B ⊙ ∂L/∂B of all weights, the mean over held-out batches from a number on."""
        found = _weighed(controller)
        places = [place for place, f in enumerate(found.values()) if f.left.requires_grad]
        lefts = [f.left for f in found.values() if f.left.requires_grad]
        total = torch.zeros(len(found), dtype=torch.float64)
        assert controller.held_out is not None
        with evaluating(controller.model), torch.enable_grad():
            for number in range(first, first + self.batches):
                gradients = torch.autograd.grad(controller.held_out(number), lefts)
                for place, left, gradient in zip(places, lefts, gradients, strict=True):
                    total[place] += float((left.detach() * gradient).sum(dtype=torch.float64))
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(total)
            total /= distributed.get_world_size()
        return total / self.batches


def _weighed(controller: WatchedWeights) -> dict[str, WeighedFactors]:
    return {n: f for n, f in controller.factors().items() if isinstance(f, WeighedFactors)}
