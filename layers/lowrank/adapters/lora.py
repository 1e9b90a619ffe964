"""LoRA: two factors over a frozen weight; with a scale that suits all ranks; with one factor fixed.

    W_eff = W + s B A,    B (rows, r) = 0,  A (r, columns) drawn        LoRA      s = α / r
                                                                        rsLoRA    s = α / √r
                                                                        FFA-LoRA  A is not trained

With α / √r the size of the outputs and gradients does not fall as r grows. A that is drawn from the
seed alone is the same for all who share the seed, so the mean of several FFA-LoRA adapters is the
adapter of their mean B, exactly; the means of both factors are not.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685;
Kalajdzievski 2023, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA",
arXiv:2312.03732; Sun et al. 2024, "Improving LoRA in Privacy-preserving Federated Learning",
arXiv:2403.12313.
Differs from them: no dropout; convolutions and raw matrices take part.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..method import check_rank, rank_of
from ..target import Target
from ..weights.factors import Factors
from ..weights.structure import FrozenDense
from .adapter import ScaledAdapter, fresh_right

__all__ = ["FFALoRA", "LoRA", "RsLoRA"]


class LoRA(ScaledAdapter):
    """Two factors over a frozen weight, scaled by α / r.

    Args:
        rank: r, or a share of the full rank.
        alpha: α > 0.
        ranks: r of single weights by name, in the place of `rank`.
        alphas: α of single weights by name, in the place of `alpha`.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        *,
        rank: int | float = 8,
        alpha: float = 16.0,
        ranks: dict[str, int] | None = None,
        alphas: dict[str, float] | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rank=rank, alpha=alpha)
        self.ranks, self.alphas = dict(ranks or {}), dict(alphas or {})
        for name, given in self.ranks.items():
            check_rank(given, f"ranks[{name}]")
        for name, given in self.alphas.items():
            if not given > 0:
                raise ValueError(f"alphas[{name}] must be above 0, got {given}")

    def prepare(self, targets: Mapping[str, Target], skipped: Mapping[str, str]) -> dict[str, str]:
        """Check that single weights which are named are there.

        Raises:
            ValueError: one that is not.
        """
        for name in (*self.ranks, *self.alphas):
            if name not in targets:
                raise ValueError(f"ranks and alphas: {name!r} is no target")
        return super().prepare(targets, skipped)

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int:
        """Return r."""
        return rank_of(self.ranks.get(name, self.rank), name, shape)

    def scale_for(self, name: str, rank: int) -> float:
        """Return s of a weight."""
        return self.scale_of(rank, self.alphas.get(name))

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Put the factors beside the weight."""
        *batch, rows, _ = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        right = fresh_right(weight, rank, generator)
        left = weight.new_zeros(*batch, rows, rank)
        return Factors(left, right, scale=self.scale_for(name, rank), extra=FrozenDense(weight))


class RsLoRA(LoRA):
    """LoRA with the scale α / √r.

    Args:
        rank: As of `LoRA`, like the next three.
        alpha: As above.
        ranks: As above.
        alphas: As above.

    Raises:
        ValueError: a setting out of its range.
    """

    def scale_of(self, rank: int, alpha: float | None = None) -> float:
        """Return s = α / √r."""
        return (self.alpha if alpha is None else alpha) / rank**0.5


class FFALoRA(LoRA):
    """LoRA of which B alone is trained; adapters of one seed share A.

    Args:
        rank: As of `LoRA`, like the next three.
        alpha: As above.
        ranks: As above.
        alphas: As above.

    Raises:
        ValueError: a setting out of its range.
    """

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Return r · rows."""
        *batch, rows, _ = shape
        return torch.Size(batch).numel() * self.rank_for("a weight", shape) * rows

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Put the factors beside the weight."""
        *batch, rows, _ = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        return Factors(
            weight.new_zeros(*batch, rows, rank),
            fresh_right(weight, rank, generator),
            scale=self.scale_for(name, rank),
            extra=FrozenDense(weight),
            trained=("left",),
        )
