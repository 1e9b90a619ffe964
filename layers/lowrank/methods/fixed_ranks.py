"""Factors of given ranks, layer by layer: what a compressed model is made of, and no method at all.

Nothing happens in training. A saved model is rebuilt by it, and it is the way to fine-tune one.
"""

import torch
from torch import Tensor

from ..maths.decompose import weighted_svd
from ..method import Method
from ..weights.factors import Factors
from ..weights.unfolding import Scheme

__all__ = ["FixedRanks"]


class FixedRanks(Method):
    """Factors by truncated SVD, of one rank for each named weight.

    Args:
        ranks: Rank of each weight by the name of its module, at least 1; None gives every target
            its full rank. The names are the targets: `reparametrize(model, method, list(ranks))`.
        scheme: Unfolding of kernels.
        biased: Names of layers that get a bias if they have none, which corrects the mean of what
            the factors leave out.

    Raises:
        ValueError: no names, or a rank below 1.
    """

    skips_uneconomic = False
    takes_frozen = True  # a compressed model may be one for inference

    def __init__(
        self,
        *,
        ranks: dict[str, int] | None = None,
        scheme: Scheme = "channel",
        biased: list[str] | None = None,
    ) -> None:
        """Keep the ranks."""
        if ranks is not None and not ranks:
            raise ValueError("ranks must name at least one weight")
        for name, rank in (ranks or {}).items():
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                raise ValueError(f"ranks: {name} must have a whole rank of at least 1, got {rank}")
        self.ranks = None if ranks is None else dict(ranks)
        self.scheme = scheme
        self.biased = None if biased is None else list(biased)

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int:
        """Return the rank that was given for a name."""
        full = min(shape[-2:])
        if self.ranks is None:
            return full
        if name not in self.ranks:
            raise ValueError(f"ranks does not name {name}; the names of ranks are the targets")
        if self.ranks[name] > full:
            raise ValueError(
                f"ranks: {name} is {shape[-2]}x{shape[-1]}, of rank {full} at most, got "
                f"{self.ranks[name]}"
            )
        return self.ranks[name]

    def adds_bias(self, name: str) -> bool:
        """Whether `biased` names a layer."""
        return name in (self.biased or ())

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Return the balanced factors of the truncated SVD."""
        rank = self.rank_for(name, tuple(weight.shape))
        if weight.is_meta:
            rows, columns = weight.shape[-2:]
            batch = weight.shape[:-2]
            return Factors(weight.new_empty(*batch, rows, rank),
                           weight.new_empty(*batch, rank, columns))  # fmt: skip
        left, right, _ = weighted_svd(weight, rank)
        return Factors(left, right)
