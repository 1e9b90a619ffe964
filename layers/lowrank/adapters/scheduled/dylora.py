"""DyLoRA: one adapter whose every prefix of components is an adapter of its own.

    b ~ U{1 … r}, one draw a step for all weights       W_eff = W + (α / b) B_{:b} A_{:b}

With `train="last"`, as published, the step trains component b alone and reads the ones before it as
they are; with `train="prefix"` it trains all of the first b. Evaluation runs at all components, or
at those that `controller.set_rank(b)` names, and the scale follows.

Source: Valipour et al. 2022, "DyLoRA: Parameter Efficient Tuning of Pre-trained Models using
Dynamic Search-Free Low-Rank Adaptation", arXiv:2210.07558.
Differs from it: components that a step does not train keep their values and what the optimiser
knows of them; in the published code weight decay and momentum go on moving them. The base is never
merged in training, where the published code writes into it at every change of mode.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...optim.partial_update import PartialUpdate
from ...watched_weights import WatchedWeights
from ...weights.factors import Factors
from ...weights.structure import FrozenDense
from ..adapter import ScaledAdapter, fresh_right

__all__ = ["DyLoRA", "NestedFactors"]

Trained = Literal["last", "prefix"]


class NestedFactors(Factors):
    """Factors over a frozen weight whose scale is α over the number of components that run.

    Args:
        left: B (..., rows, r).
        right: A (..., r, columns).
        alpha: α.
        weight: W (..., rows, columns).
        last: Whether a sampled step trains the last component alone.
    """

    def __init__(
        self, left: Tensor, right: Tensor, weight: Tensor, *, alpha: float, last: bool
    ) -> None:
        """Keep copies of the factors."""
        super().__init__(left, right, scale=alpha, extra=FrozenDense(weight))
        self.last = last

    def scaling(self) -> float:
        """Return α / b, b the components that run."""
        return self.scale / max(1, self.running)

    def parts(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the factors; what a sampled step does not train has no gradient."""
        left, right, core = super().parts()
        if not (self.training and self.last and self.sampled):
            return left, right, core
        before = min(self.sampled, self.rank) - 1
        left = torch.cat([left[..., :before].detach(), left[..., before:]], -1)
        return left, torch.cat([right[..., :before, :].detach(), right[..., before:, :]], -2), core


class DyLoRA(ScaledAdapter):
    """One adapter whose every prefix of components is one.

    Args:
        rank: r, the largest, or a share of the full rank.
        alpha: α > 0; b components are scaled by α / b.
        train: Whether a step trains the `last` component of the prefix or all of the `prefix`.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self, *, rank: int | float = 8, alpha: float = 16.0, train: Trained = "last"
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rank=rank, alpha=alpha)
        if train not in ("last", "prefix"):
            raise ValueError(f"train must be 'last' or 'prefix', got {train!r}")
        self.train: Trained = train

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> NestedFactors:
        """Put the factors beside the weight."""
        *batch, rows, _ = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        right, left = fresh_right(weight, rank, generator), weight.new_zeros(*batch, rows, rank)
        return NestedFactors(left, right, weight, alpha=self.alpha, last=self.train == "last")

    def check(self, controller: WatchedWeights) -> None:
        """Check that single components can be trained.

        Raises:
            ValueError: parameters that are sharded.
        """
        if any(hasattr(f.left, "full_tensor") for f in controller.factors().values()):
            raise ValueError(
                "DyLoRA trains single components, which sharded parameters cannot; use "
                "trainer.parallel=ddp"
            )

    def start(self, controller: WatchedWeights) -> None:
        """Draw for the first step."""
        self._draw(controller)

    def resumed(self, controller: WatchedWeights) -> None:
        """Run the coming step at what was drawn for it."""
        self._set_prefixes(controller)

    def before_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Remember what the step does not train."""
        found = controller.factors(frozen=False)
        parts = [part for f in found.values() for part in ((f.left, -1), (f.right, -2))]
        controller.scratch["update"] = PartialUpdate(optimizer, parts)

    def after_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Put that back, and draw for the next step."""
        trained = []
        for factors in controller.factors(frozen=False).values():
            place = torch.arange(factors.allocated, device="cpu")
            kept = place < factors.running if factors.sampled else place >= 0
            if factors.sampled and self.train == "last":
                kept &= place >= min(factors.sampled, factors.rank) - 1
            trained += [kept, kept]
        controller.scratch["update"].keep(trained)
        self._draw(controller)

    def set_rank(self, controller: WatchedWeights, rank: int) -> None:
        """Run at a prefix, in twins too; steps after it train components of the prefix only.

        Raises:
            ValueError: a rank that no target has.
        """
        found = controller.factors()
        most = max(factors.allocated for factors in found.values())
        if not 1 <= rank <= most:
            raise ValueError(f"rank must lie in [1, {most}], got {rank}")
        for name, factors in found.items():
            for each in (factors, *controller.twins_of(name)):
                assert isinstance(each, Factors)
                each.rank = min(rank, each.allocated)

    def _draw(self, controller: WatchedWeights) -> None:
        ranks = [factors.rank for factors in controller.factors(frozen=False).values()]
        generator = controller.generator("dylora")
        drawn = 1 + int(torch.randint(max(ranks, default=1), (), generator=generator))
        controller.state["drawn"] = drawn
        self._set_prefixes(controller)

    def _set_prefixes(self, controller: WatchedWeights) -> None:
        for factors in controller.factors().values():
            factors.sampled = controller.state["drawn"]
