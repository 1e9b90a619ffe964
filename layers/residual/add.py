"""The plain residual: x <- x + y.

Source: He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027, eq. 1.
Differs from it: nothing.
"""

from torch import Tensor

from .stream import Context, Residual, State, keep_branch

__all__ = ["Add"]


class Add(Residual):
    """Sum of the embedding and all branch outputs; no parameters. State: (x,)."""

    equals_prenorm_at_init = True
    keeps_only_the_stream = True
    traces_in_fx = True

    def read(self, state: State, site: int) -> Tensor:
        """Return the stream."""
        return state[0]

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Add the branch output."""
        return (state[0] + keep_branch(y, context.keep),)

    def close(self, state: State) -> Tensor:
        """Return the stream."""
        return state[0]
