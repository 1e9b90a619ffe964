"""Orthogonal residual update: only what a branch adds across the stream joins it.

    x <- x + y − (⟨x, y⟩ / (⟨x, x⟩ + ε)) x

The part of y along x, which only makes the stream longer or shorter, is left out, so the stream's
square grows by that of what is added: ‖x'‖² = ‖x‖² + ‖y⊥‖² up to ε. Products are sums over the
features of a token or pixel, or over all of an image, signal or volume.

The write is 1-Lipschitz in y. In x its constant is at most 1 + ‖y‖ / √ε, and near x = 0 of that
order: a branch without a bound leaves the stack without one, and its certificate is `inf`.

Where ⟨x, x⟩ overflows, in float32 and half precision at ‖x‖ near 1.8e19, nothing is left out of y,
and where ⟨x, y⟩ does so too the update is NaN.

Source: Oh et al. 2025, "Revisiting Residual Connections: Orthogonal Updates for Stable and
Efficient Deep Networks", arXiv:2505.11881 (Orthogonal-F over features, the global form over all of
a sample).
Differs from it: in half precision both sums, the quotient and the difference are float32; all of a
sample is for streams with channels before pixels alone, since a token would see later ones.
"""

# Shape letters: B batch, D width, ... token or pixel axes.

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ._fast.orthogonal_kernel import orthogonal_by_kernel
from .stream import Context, Residual, Site, State, keep_branch, routing, working_dtype

__all__ = ["OrthogonalUpdate", "orthogonal_update"]


def orthogonal_update(
    x: Tensor, y: Tensor, *, over: int | tuple[int, ...] = -1, eps: float = 1e-6
) -> Tensor:
    """Return x + y − (⟨x, y⟩ / (⟨x, x⟩ + ε)) x in the dtype of x.

    Args:
        x: Stream of any shape.
        y: Branch output of that shape.
        over: The axis or axes of the products.
        eps: ε, at least 0; at 0 the two parts of the sum are orthogonal, and x may not be 0.
    """
    return x + orthogonal_part(x, y, over=over, eps=eps)


def orthogonal_part(x: Tensor, y: Tensor, *, over: int | tuple[int, ...], eps: float) -> Tensor:
    """Return what `orthogonal_update` adds to x."""
    dtype = working_dtype(x)
    stream, branch = x.to(dtype), y.to(dtype)
    along = (stream * branch).sum(over, keepdim=True)
    along = along / (stream.square().sum(over, keepdim=True) + eps)
    return (branch - routing(along) * stream).to(x.dtype)


class OrthogonalUpdate(Residual):
    """Add what of the branch output is orthogonal to the stream; no parameters. State: (x,).

    Args:
        width: Stream width D.
        sites: The sites in order.
        channel_dim: The axis of D.
        over: What a product sums over: the D `features` of a token or pixel, or all of a `sample`,
            (B, D, …) with channels on axis 1.
        eps: ε, positive: at x = 0 the branch output is added whole.

    Raises:
        ValueError: an unknown `over`, `sample` with channels on the last axis, or an eps that is
            not positive.
    """

    keeps_only_the_stream = True

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        over: Literal["features", "sample"] = "features",
        eps: float = 1e-6,
    ) -> None:
        """Fix the axes and ε."""
        super().__init__(width, sites, channel_dim=channel_dim)
        if over not in ("features", "sample"):
            raise ValueError(f"over must be 'features' or 'sample', got {over!r}")
        if over == "sample" and channel_dim == -1:
            raise ValueError(
                "over='sample' is for images: among tokens one would see later ones, and of a "
                "vector over='features' is all; take over='features'"
            )
        if not (eps > 0 and math.isfinite(eps)):
            raise ValueError(f"eps must be positive and finite, got {eps}")
        self.over, self.eps = over, eps

    def read(self, state: State, site: int) -> Tensor:
        """Return the stream."""
        return state[0]

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Add the orthogonal part of the branch output."""
        (x,) = state
        y = keep_branch(y, context.keep)
        if self.channel_dim == -1:
            found = orthogonal_by_kernel(orthogonal_part, x, y, self.eps)
            if found is not None:
                return (found,)
        over = self.channel_dim if self.over == "features" else tuple(range(1, x.dim()))
        return (orthogonal_update(x, y, over=over, eps=self.eps),)

    def close(self, state: State) -> Tensor:
        """Return the stream."""
        return state[0]

    def extra_repr(self) -> str:
        """Show the choice."""
        return f"over={self.over!r}, eps={self.eps:.4g}"
