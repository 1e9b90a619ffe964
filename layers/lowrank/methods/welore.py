"""WeLore: one threshold for all weights decides which are of low rank, and only those are trained.

With the singular values of every weight scaled to [0, 1], s_j = (σ_j - min σ) / (max σ - min σ):

    r = #{j : s_j ≥ τ},    p = 1 - r / K            one τ for the model, K the full rank
    W ≈ (U_r Σ_r^½) (Σ_r^½ V_r)    where p > ρ      a low-rank component, trained
    W stays                        elsewhere        not one, and frozen with all that is no target

τ is the lowest threshold at which the targets together hold a share of their dense parameters.

Source: Jaiswal et al. 2024, "From Low Rank Gradient Subspace Stabilization to Low-Rank Weights:
Observations, Theories, and Applications", arXiv:2407.11239.
Differs from it: the budget is one of parameters, while the paper's reduction counts ranks; biases
stay, and nothing is cast. The code leaves the weights of norms trainable beside the low-rank
components, which its text does not name: `train_also` says it here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..maths.decompose import weighted_svd
from ..maths.rank_budget import RankCosts, allocate_ranks
from ..method import Method, break_even
from ..target import Target
from ..weights.factors import Factors
from ..weights.unfolding import SCHEMES, Scheme

__all__ = ["WeLore"]


class WeLore(Method):
    """Factors for the weights whose spectrum falls fast, frozen weights elsewhere.

    Args:
        keep: Parameters that the targets keep together, over those that they have dense.
        rho: ρ in [0, 1); a weight that loses no more than this share of its rank stays dense.
        freeze: Whether all but the factors is frozen.
        train_also: Patterns of what is trained beside them, as `Controller.freeze_rest` takes them;
            `["*norm*"]` is the published code.
        scheme: Unfolding of kernels.
        ranks: Rank of each low-rank component by name, instead of the threshold: what a saved model
            remembers. The weights that it does not name stay dense.

    Raises:
        ValueError: a setting out of its range.
    """

    skips_uneconomic = False

    def __init__(
        self,
        *,
        keep: float = 0.5,
        rho: float = 0.5,
        freeze: bool = True,
        train_also: list[str] | None = None,
        scheme: Scheme = "channel",
        ranks: dict[str, int] | None = None,
    ) -> None:
        """Check and keep the settings."""
        if not 0.0 < keep <= 1.0:
            raise ValueError(f"keep must lie in (0, 1], got {keep}")
        if not 0.0 <= rho < 1.0:
            raise ValueError(f"rho must be a share of the rank in [0, 1), got {rho}")
        if train_also and not freeze:
            raise ValueError(
                f"train_also={train_also} says what freeze=True leaves out; freeze is off"
            )
        if scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {SCHEMES}, got {scheme!r}")
        for name, rank in (ranks or {}).items():
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                raise ValueError(f"ranks: {name} must have a whole rank of at least 1, got {rank}")
        self.keep, self.rho, self.scheme = keep, rho, scheme
        self.trains_also: Sequence[str] | None = list(train_also or ()) if freeze else None
        self.ranks = None if ranks is None else dict(ranks)

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int | None:
        """Return r, or None before the threshold is known and for weights that stay dense."""
        rank = (self.ranks or {}).get(name)
        if rank is not None and rank > min(shape[-2:]):
            raise ValueError(f"ranks: {name} has rank {min(shape[-2:])} at most, got {rank}")
        return rank

    def prepare(self, targets: Mapping[str, Target], skipped: Mapping[str, str]) -> dict[str, str]:
        """Find the threshold, unless ranks are given, and leave out what stays dense."""
        if not targets:
            return {}
        if any(target.matrix().is_meta for target in targets.values()) and self.ranks is None:
            # Weights without values have no threshold; a trial build asks for sizes only.
            most = {name: self.keep * break_even(target.shape) for name, target in targets.items()}
            self.ranks = {name: max(1, int(rank)) for name, rank in most.items()}
        elif self.ranks is None:
            layers = {name: self._costs(target) for name, target in targets.items()}
            budget = self.keep * sum(layer.dense_size for layer in layers.values())
            try:
                ranks = allocate_ranks(layers, budget, "welore")
            except ValueError as error:
                raise ValueError(
                    f"keep={self.keep:g} of {sum(c.dense_size for c in layers.values()):g} "
                    f"parameters is met by no threshold: {error}"
                ) from error
            self.ranks = {name: rank for name, rank in ranks.items() if rank is not None}
        elif unknown := sorted(set(self.ranks) - set(targets) - set(skipped)):
            raise ValueError(f"ranks: {unknown[0]!r} is no target; they are {', '.join(targets)}")
        dense = "its spectrum falls too slowly for the common threshold, so it stays dense"
        return {name: dense for name in targets if name not in self.ranks}

    def decided(self) -> dict[str, Any]:
        """Return the ranks."""
        return {"ranks": dict(self.ranks or {})}

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Return the balanced factors of the truncated SVD."""
        rank = self.rank_for(name, tuple(weight.shape))
        assert rank is not None  # prepare left the others out
        if weight.is_meta:
            *batch, rows, columns = weight.shape
            return Factors(
                weight.new_empty(*batch, rows, rank), weight.new_empty(*batch, rank, columns)
            )
        left, right, _ = weighted_svd(weight, rank)
        return Factors(left, right)

    def _costs(self, target: Target) -> RankCosts:
        matrix = target.matrix()
        values = torch.linalg.svdvals(matrix.double())
        most = break_even(target.shape)
        # The cut drops p > ρ of the rank, so that r < (1 - ρ) K.
        below = (1.0 - self.rho) * values.shape[-1]
        return RankCosts(values, matrix.numel() / most, matrix.numel(), below=below)
