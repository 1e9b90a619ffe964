"""A table of points of the ball, one for each node of a graph, and the logits of its loss.

Every edge (u, v) of a hierarchy is to be found among pairs that are no edges:

    L = −Σ log( exp(−d(u, v)) / Σ_{v'} exp(−d(u, v')) ),   v' in {v} and drawn non-neighbours of u

so that the softmax cross-entropy of the logits −d(u, v') with the true node first is the loss.

Source: Nickel and Kiela 2017, "Poincaré embeddings for learning hierarchical representations",
arXiv:1705.08039, eq. 6 and §3.
Differs from it: any fixed curvature, and distances by the inverse hyperbolic sine (`poincare`).
"""

# Shape letters: N nodes, D dimensions, K candidates.

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..decay import exclude_from_decay
from ..sizes import check_sizes
from . import poincare
from .curvature import curvature_from_state, curvature_state
from .maths.ball import Curvature, check_curvature

__all__ = ["PoincareEmbedding", "distance_logits"]


def distance_logits(points: Tensor, curvature: Curvature) -> Tensor:
    """Return −d(u, v_j) for the first point u of each row and all the others.

    Args:
        points: (…, 1 + K, D), u first.
        curvature: c.

    Returns:
        (…, K).

    Raises:
        ValueError: a curvature that is not positive, or a dtype without a margin.
    """
    return -poincare.distance(points[..., :1, :], points[..., 1:, :], curvature)


class PoincareEmbedding(nn.Module):
    """A table of N points of the ball, moved by a Riemannian optimiser.

    The table `points` is a `geoopt.ManifoldParameter` on our `Ball`: `geoopt.optim.RiemannianSGD`
    and `RiemannianAdam` keep it inside the ball. Any other optimiser takes Euclidean steps that may
    leave it; distances then stay large and finite (`poincare`). Copies, casts, moves to another
    device, DDP and an average of weights keep the manifold; FSDP2 drops it, and the trainer refuses
    that. A cast to a narrower dtype and loading move points beyond the margin of the table's dtype
    onto it, with `assign=True` in a copy of what was assigned.

    A state dict holds plain numbers and the curvature, which loading restores, since points of one
    ball are no points of another. A state of an earlier version lacks it: it is a missing key, and
    `strict=False` keeps the curvature that was built.

    Precision: float32 reaches a distance of 12.2/√c from the origin and places a point there to
    3e-3/√c; float64 reaches 21.4/√c, and places a point there to 6e-8/√c.

    Args:
        num_embeddings: N, at least 1.
        embedding_dim: D, at least 1.
        curvature: c, a fixed number: points of one ball are no points of another.
        init_range: Coordinates start uniformly in ±init_range/√c; init_range · √D below 1.
        dtype: Of the table.

    Shape:
        int64 (…) in [0, N) -> (…, D).

    Raises:
        ValueError: a size below 1, a range that leaves the ball, or a curvature that is no positive
            number.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        curvature: float = 1.0,
        init_range: float = 1e-3,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draw the points."""
        from .geoopt_bridge.ball_manifold import (
            Ball,  # takes seconds, which other layers need not pay
        )
        from .geoopt_bridge.quiet_geoopt import geoopt

        super().__init__()
        check_sizes(1, num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        check_curvature(curvature)
        if not 0 < init_range * embedding_dim**0.5 < 1:
            raise ValueError(
                f"init_range must lie in (0, 1/√embedding_dim) = (0, {embedding_dim**-0.5:.4g}), "
                f"so that every point starts in the ball, got {init_range}"
            )
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.curvature, self.init_range = float(curvature), init_range
        empty = torch.zeros(num_embeddings, embedding_dim, dtype=dtype)
        # Typed loosely: geoopt makes its parameters in a __new__ that no checker follows.
        parameter: Any = geoopt.ManifoldParameter
        self.points = parameter(empty, manifold=Ball(curvature))
        # A pull on coordinates is no pull on distances.
        exclude_from_decay(self, "points")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the points anew, close to the origin."""
        reach = self.init_range / self.curvature**0.5
        nn.init.uniform_(self.points, -reach, reach)

    def forward(self, nodes: Tensor) -> Tensor:
        """Look up points."""
        return F.embedding(nodes, self.points)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Keep the manifold where torch makes a new parameter, and the ball where it casts."""
        kept, dtype = self.points, self.points.dtype
        super()._apply(fn, recurse)
        self._restore(kept, moves=self.points.dtype != dtype)
        return self

    def get_extra_state(self) -> Tensor:
        """Return c as a number that no cast rounds."""
        return curvature_state(self.curvature)

    def set_extra_state(self, state: Any) -> None:
        """Restore c."""
        self.curvature = curvature_from_state(state)

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        """Load points and curvature, and hold the points in the ball of both."""
        kept = self.points
        super()._load_from_state_dict(*arguments, **named)
        self._restore(kept, moves=True)

    @torch.no_grad()
    def _restore(self, kept: Any, *, moves: bool) -> None:
        """Make the table a parameter of this ball, and move points that lie beyond the margin."""
        from .geoopt_bridge.ball_manifold import Ball

        manifold, points = Ball(self.curvature), self.points
        held = manifold.held(points.data) if moves and not points.is_meta else points.data
        if points is kept:
            # The same object, which an optimiser may hold.
            points.manifold = manifold
            points.copy_(held)
        else:
            # Of a tensor that was assigned, what had to move is a copy.
            self.points = type(kept)(held, manifold=manifold, requires_grad=kept.requires_grad)

    def extra_repr(self) -> str:
        """Show the sizes and the curvature."""
        return f"{self.num_embeddings}, {self.embedding_dim}, curvature={self.curvature:g}"
