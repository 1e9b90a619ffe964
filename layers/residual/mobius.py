"""Möbius residual: the branch output and the stream are added as points of the Poincaré ball.

    x <- log₀(exp₀(y) ⊕ exp₀(x))

Stream and branch outputs are tangents at the origin, or the space parts of points of the
hyperboloid, where ⊕ is a boost and needs no maps; any backbone can use it, and for c → 0 it is the
plain sum. ⊕ does not commute: the paper translates the stream by the branch output.

Source: van Spengler et al. 2023, "Poincaré ResNet", arXiv:2303.14027, §3.5.
Differs from it: the order is a choice; the released code adds along the width of the image instead
of along its channels.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ..hyperbolic.curvature import BallCurvature, curvature_of
from ..hyperbolic.space.point_coordinates import PointCoordinates, add_points, check_points_as
from .stream import Context, Residual, Site, State, keep_branch

__all__ = ["Mobius"]


class Mobius(Residual):
    """Möbius sum of the embedding and all branch outputs; no parameters of its own. State: (x,).

    Args:
        width: Stream width D.
        sites: The sites in order.
        channel_dim: The axis of D.
        curvature: c of the ball, or a shared `BallCurvature`.
        coordinates: What vectors of the stream are: `tangent`s of the ball, or `space` parts.
        order: `branch_first` is y ⊕ x, `stream_first` x ⊕ y.

    Raises:
        ValueError: a curvature that is not positive, or unknown coordinates or order.
    """

    keeps_only_the_stream = True

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        curvature: float | BallCurvature = 1.0,
        coordinates: PointCoordinates = "tangent",
        order: Literal["branch_first", "stream_first"] = "branch_first",
    ) -> None:
        """Keep the ball."""
        super().__init__(width, sites, channel_dim=channel_dim)
        if order not in ("branch_first", "stream_first"):
            raise ValueError(f"order must be 'branch_first' or 'stream_first', got {order!r}")
        check_points_as(coordinates)
        self.curvature = curvature_of(curvature)
        self.coordinates: PointCoordinates = coordinates
        self.order = order

    def read(self, state: State, site: int) -> Tensor:
        """Return the stream."""
        return state[0]

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Add the branch output."""
        pair = (keep_branch(y, context.keep), state[0])
        left, right = pair if self.order == "branch_first" else reversed(pair)
        return (add_points(left, right, self.curvature(), self.coordinates, self.channel_dim),)

    def close(self, state: State) -> Tensor:
        """Return the stream."""
        return state[0]

    def extra_repr(self) -> str:
        """Show the options."""
        return (
            f"width={self.width}, sites={len(self.sites)}, coordinates={self.coordinates!r}, "
            f"order={self.order!r}"
        )
