"""Lorentz centroid residual: the stream becomes a multiple of its centre of mass with the branch.

    s <- a (s_x + w s_y)/√(c (N² − ‖s_x + w s_y‖²)),    N = x₀ + w y₀,    a = (1 + w) g

for the space parts s_x and s_y of stream and branch output. A centre of mass is an average, so that
a bare one forgets the stream at every branch; a starts at 1 + w, which makes flat space the sum
s_x + w s_y.

Source: He et al. 2024, "Lorentzian residual neural networks", arXiv:2412.14695, eq. 6.
Differs from it: w > 0 and g > 0 are learned for each site, where a is one fixed number there (27.5
in the released code); tangents of the ball are taken to space parts and back.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..decay import exclude_from_decay
from ..hyperbolic.curvature import BallCurvature, curvature_of
from ..hyperbolic.space.point_coordinates import PointCoordinates, check_points_as
from ..hyperbolic.space.space_points import centroid, from_tangent, to_tangent
from .stream import Context, Residual, Site, State, keep_branch, working_dtype

__all__ = ["LorentzCentroid"]


class LorentzCentroid(Residual):
    """Scaled centre of mass of stream and branch output at every site. State: (x,).

    Args:
        width: Stream width D.
        sites: The L sites in order.
        channel_dim: The axis of D.
        curvature: c of the hyperboloid, or a shared `BallCurvature`.
        coordinates: What vectors of the stream are: `tangent`s of the ball, or `space` parts.

    Raises:
        ValueError: a curvature that is not positive, or unknown coordinates.
    """

    unit_axes = {"log_weight": (None,), "log_gain": (None,)}

    keeps_only_the_stream = True

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        curvature: float | BallCurvature = 1.0,
        coordinates: PointCoordinates = "tangent",
    ) -> None:
        """Make w = 1 and g = 1."""
        super().__init__(width, sites, channel_dim=channel_dim)
        check_points_as(coordinates)
        self.curvature = curvature_of(curvature)
        self.coordinates: PointCoordinates = coordinates
        self.log_weight = nn.Parameter(torch.empty(len(self.sites)))
        self.log_gain = nn.Parameter(torch.empty(len(self.sites)))
        exclude_from_decay(self, "log_weight", "log_gain")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set w and g to 1."""
        nn.init.zeros_(self.log_weight)
        nn.init.zeros_(self.log_gain)

    def read(self, state: State, site: int) -> Tensor:
        """Return the stream."""
        return state[0]

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Move the stream to the centre of mass, and scale it."""
        x = state[0]
        wide = torch.promote_types(working_dtype(x), working_dtype(y))
        pair = torch.stack([x.to(wide), keep_branch(y, context.keep).to(wide)])
        curvature, dim = self.curvature(), self.channel_dim
        axis = dim if dim < 0 else dim + 1
        if self.coordinates == "tangent":
            pair = from_tangent(pair, curvature, dim=axis)
        w, gain = (p[site].to(wide).exp() for p in (self.log_weight, self.log_gain))
        weights = torch.stack([torch.ones_like(w), w]).view(2, *[1] * x.dim())
        out = (1 + w) * gain * centroid(pair, curvature, weights, over=0, dim=axis)
        if self.coordinates == "tangent":
            out = to_tangent(out, curvature, dim=dim)
        return (out.to(torch.promote_types(x.dtype, y.dtype)),)

    def close(self, state: State) -> Tensor:
        """Return the stream."""
        return state[0]

    def extra_repr(self) -> str:
        """Show the coordinates."""
        return f"width={self.width}, sites={len(self.sites)}, coordinates={self.coordinates!r}"
