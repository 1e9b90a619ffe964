"""DeepNorm: post-norm over a stream that is scaled up, with branches that start scaled down.

    x <- LN(α x + F(x)),   α = (2N)^(1/4),   fresh branch weights times β = (8N)^(-1/4)

N counts the backbone's blocks, each an attention and an MLP. The norm is the backbone's: a write
returns α x + y, and the next site, or what comes after the trunk, norms it. β is asked of the
backbone as `branch_gain`; the projections that make queries and keys keep theirs. α = β = 1 is the
plain post-norm of Vaswani et al. 2017, arXiv:1706.03762.

Source: Wang et al. 2022, "DeepNet: Scaling Transformers to 1,000 Layers", arXiv:2203.00555, figure
2: encoder-only and decoder-only stacks have these same constants.
Differs from it: the embedding is normed too, before the first branch; α and β count the blocks of
one stage where a backbone has several, and do so also where a block is one branch; β multiplies the
backbone's own start, which need not be Xavier's.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from .stream import Context, Residual, Site, State, keep_branch

__all__ = ["DeepNorm"]


class DeepNorm(Residual):
    """Scale the stream up, add, and let the next norm act on the sum. State: (x,).

    Args:
        width: Stream width D.
        sites: The sites in order.
        channel_dim: The axis of D.
        alpha: Factor of the stream, positive; None is (2N)^(1/4).
        beta: Factor of fresh branch weights, positive; None is (8N)^(-1/4).

    Raises:
        ValueError: alpha or beta that is not positive and finite.
    """

    norm_position = "post"
    traces_in_fx = True

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        alpha: float | None = None,
        beta: float | None = None,
    ) -> None:
        """Fix the two constants."""
        super().__init__(width, sites, channel_dim=channel_dim)
        for name, value in (("alpha", alpha), ("beta", beta)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite or None, got {value}")
        self.alpha = (2 * self.num_blocks) ** 0.25 if alpha is None else alpha
        self.branch_gain = (8 * self.num_blocks) ** -0.25 if beta is None else beta

    def read(self, state: State, site: int) -> Tensor:
        """Return the stream, which the backbone has normed."""
        return state[0]

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Return α x + y, to be normed."""
        (x,) = state
        scaled = x if self.alpha == 1.0 else self.alpha * x
        return (scaled + keep_branch(y, context.keep),)

    def close(self, state: State) -> Tensor:
        """Return the stream before its last norm."""
        return state[0]

    def extra_repr(self) -> str:
        """Show the constants."""
        return f"alpha={self.alpha:.4g}, beta={self.branch_gain:.4g}"
