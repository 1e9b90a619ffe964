"""Two factors in the place of a weight, trained from the start: plain low rank.

    W = B A,    B (rows, r) = left,    A (r, columns) = right

    init="spectral"   B A is the best approximation of rank r of the given weight, U_r S_r V_r, with
                      B = U_r S_r^½ and A = S_r^½ V_r
    init="zero"       B = 0, A uniform in ± 1 / √columns; the given weight is dropped

    every `refactorize_every` steps:   B, A <- U S^½, S^½ V of the SVD U S V = B A;   W stays

The second init is the baseline of papers on low-rank pretraining. Its published figures are those
of an untuned run, so it says little about what low rank can do; the first is the fair comparator.
Training lets the factors drift apart in scale; refactorising makes them balanced again. The
optimiser's moments then refer to the old factors: they can be dropped, with their count of steps.

Decay of each factor is a penalty on the nuclear norm of W. What stands for decay of W itself is

    frobenius · ‖B A‖² = frobenius · tr((BᵀB)(A Aᵀ)),   in O(r² (rows + columns)) and without W;

λ / 2 adds λ W to the gradient of W.

Source: the two tricks are those of Glentis et al. 2025, "Scalable Parameter and Memory Efficient
Pretraining for LLM", arXiv:2505.22922; init by SVD, and the penalty: Khodak et al. 2021,
"Initialization and Regularization of Factorized Neural Layers", arXiv:2105.01029.
Differs from it: kernels of convolutions unfold by any scheme; an average of the weights follows a
refactorisation by a rotation that leaves its map as it is.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ..event_schedule import check_steps, steps_of
from ..maths.decompose import rebalance, refuse_diverged, weighted_svd
from ..maths.random_vectors import uniform
from ..method import Method, check_rank, rank_of
from ..watched_weights import WatchedWeights
from ..weights.factors import Factors
from ..weights.resize_parameter import reset_state
from ..weights.structure import agreed, assign, stored_in
from ..weights.unfolding import SCHEMES, Scheme

__all__ = ["LowRank", "align_factors", "product_square"]

Init = Literal["spectral", "zero"]


def product_square(left: Tensor, right: Tensor) -> Tensor:
    """Return ‖left right‖² in the Frobenius norm, without forming the product.

    Args:
        left: (..., rows, r).
        right: (..., r, columns); a batch is summed.
    """
    return ((left.mT @ left) * (right @ right.mT)).sum()


def align_factors(
    left: Tensor, right: Tensor, to_left: Tensor, to_right: Tensor
) -> tuple[Tensor, Tensor]:
    """Return left R and Rᵀ right, the same product, as near to other factors as a rotation takes.

    R is orthogonal and minimises ‖left R - to_left‖² + ‖Rᵀ right - to_right‖²: the polar factor of
    leftᵀ to_left + right to_rightᵀ.

    Args:
        left: (..., rows, r).
        right: (..., r, columns).
        to_left: Like left.
        to_right: Like right.
    """
    u, _, v = torch.linalg.svd(left.mT @ to_left + right @ to_right.mT)
    rotation = u @ v
    return left @ rotation, rotation.mT @ right


class LowRank(Method):
    """Two factors in the place of a weight, from the start.

    Args:
        rank: Components, or a share of the full rank.
        init: "spectral" is the truncated SVD of the given weight, "zero" a map of zeros.
        refactorize_every: Steps from one SVD of the product to the next, or a share of the run; 0
            is never.
        reset_momentum: Whether what the optimiser knows of the factors is dropped then.
        frobenius: Coefficient of ‖B A‖² in the loss, at least 0.
        scheme: Unfolding of kernels.
        total_steps: Steps of the run; required where `refactorize_every` is a share.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        *,
        rank: int | float = 0.25,
        init: Init = "spectral",
        refactorize_every: int | float = 0,
        reset_momentum: bool = False,
        frobenius: float = 0.0,
        scheme: Scheme = "channel",
        total_steps: int | None = None,
    ) -> None:
        """Check and keep the settings."""
        check_rank(rank)
        if init not in get_args(Init):
            raise ValueError(f"init must be 'spectral' or 'zero', got {init!r}")
        if refactorize_every != 0 or isinstance(refactorize_every, bool):
            check_steps(refactorize_every, "refactorize_every")
        if not frobenius >= 0:
            raise ValueError(f"frobenius must be at least 0, got {frobenius}")
        if scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {SCHEMES}, got {scheme!r}")
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}")
        self.rank, self.init, self.frobenius = rank, init, frobenius
        self.refactorize_every, self.reset_momentum = refactorize_every, reset_momentum
        self.scheme, self.total_steps = scheme, total_steps

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int:
        """Return r."""
        return rank_of(self.rank, name, shape)

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Make the factors by the chosen init."""
        *batch, rows, columns = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        if self.init == "spectral" and not weight.is_meta:
            left, right, _ = weighted_svd(weight, rank)
            return Factors(left, right)
        # As torch draws the weight of a linear layer with as many inputs.
        right = uniform((*batch, rank, columns), columns**-0.5, weight, generator)
        return Factors(weight.new_zeros(*batch, rows, rank), right)

    def check(self, controller: WatchedWeights) -> None:
        """Check that the schedule is known.

        Raises:
            ValueError: `refactorize_every` is a share and `total_steps` unknown.
        """
        self._period()

    def penalty(self, controller: WatchedWeights) -> Tensor | None:
        """Return frobenius · Σ ‖B A‖² over the targets."""
        if not self.frobenius:
            return None
        found = controller.factors(frozen=False).values()
        if not found:
            return None
        squares = [product_square(*structure.prefix()) for structure in found]
        return self.frobenius * torch.stack(squares).sum()

    def after_step(self, controller: WatchedWeights, optimizer: torch.optim.Optimizer) -> None:
        """Refactorise where it is time."""
        period = self._period()
        if not period or controller.step % period:
            return
        for name, structure in controller.factors(frozen=False).items():
            parts = stored_in(structure.left), stored_in(structure.right)
            refuse_diverged(name, controller.step, *parts)
            new = agreed(rebalance(*parts))
            _assign_factors(structure, *new)
            for twin in controller.twins_of(name):
                assert isinstance(twin, Factors)
                own = rebalance(stored_in(twin.left), stored_in(twin.right))
                _assign_factors(twin, *align_factors(*own, *(t.to(own[0]) for t in new)))
            if self.reset_momentum:
                reset_state(optimizer, structure.left)
                reset_state(optimizer, structure.right)

    def _period(self) -> int:
        if self.refactorize_every == 0:
            return 0
        return steps_of(self.refactorize_every, self.total_steps, "refactorize_every")


def _assign_factors(structure: Factors, left: Tensor, right: Tensor) -> None:
    assign(structure.left, left)
    assign(structure.right, right)
