"""Attention Residuals in the Poincaré ball: every branch reads a midpoint of what came before it.

Sources are tangents t_i of points of the ball, the embedding and the branch outputs; the logits are
those of `attnres`, r_i ⟨u, t_i⟩ with r_i = 1/rms(t_i), and the mixture is the weighted
gyro-midpoint:

    a = softmax(s),    ω_i, X_i the velocity and time of t_i,
    h = log₀ of the midpoint,   velocity Σ a ω/√((Σ a X)² − ‖Σ a ω‖²)

The block form sums a block's outputs by Möbius addition, the newest on the left. A weight is the
mass of a point, so the far-out points of a mixture count by their time cosh τ: at equal weights the
midpoint is the centre of mass, not the mean of the tangents. For c → 0 both forms are `attnres` and
`block_attnres`. Sources may be the space parts of points instead (`coordinates`).

Source: none; AttnRes is Kimi Team 2026, arXiv:2603.15031, the midpoint Ungar's, as in the attention
of Shimizu et al. 2021, "Hyperbolic neural networks++", arXiv:2006.08210, §3.5, which it carries
from tokens to depth.
Differs from `attnres`: one softmax for all channels, since a point has no heads; no additive read;
a hand-off multiplies the tangent of the readout by the number of sources.
"""

# Shape letters: D width, S branches of a block, n sources.

from collections.abc import Sequence

import torch
from torch import Tensor

from ...hyperbolic.curvature import BallCurvature, curvature_of
from ...hyperbolic.space.point_coordinates import (
    PointCoordinates,
    add_points,
    centre_of_points,
    check_points_as,
)
from ..stream import Site, working_dtype
from .attnres import AttnRes
from .block_attnres import BlockAttnRes
from .mix import Competition, depth_weights
from .sources import Sources

__all__ = ["GyroAttnRes", "GyroBlockAttnRes", "gyro_mix"]


def gyro_mix(
    sources: Sequence[Tensor],
    weights: Tensor,
    curvature: float | Tensor,
    dim: int,
    coordinates: PointCoordinates = "tangent",
) -> Tensor:
    """Return the weighted midpoint of n points in the coordinates that they have.

    Args:
        sources: n tangents or space parts (…, D, …).
        weights: (n, …) with size 1 on the axis of D.
        curvature: c.
        dim: The axis of D, in a source.
        coordinates: What sources are.
    """
    stacked = torch.stack([source.to(working_dtype(source)) for source in sources])
    axis = dim if dim < 0 else dim + 1
    mixed = centre_of_points(stacked, weights, curvature, coordinates, axis)
    return mixed.to(sources[0].dtype)


class _GyroReader(AttnRes):
    """What replaces the arithmetic of vectors by that of points in either form."""

    curvature: BallCurvature
    coordinates: PointCoordinates

    @property
    def equals_prenorm_at_init(self) -> bool:  # type: ignore[override]
        """No: a midpoint of points is not along the sum of their tangents."""
        return False

    def join(self, total: Tensor, y: Tensor) -> Tensor:
        """Add a branch output to the open block's sum: y ⊕ total."""
        return add_points(y, total, self.curvature(), self.coordinates, self.channel_dim)

    def mixture(self, sources: Sources, site: int) -> Tensor:
        """Return the midpoint of the history under a site's query."""
        if len(sources.values) == 1 and site == 0:
            return sources.values[0]
        weights = depth_weights(
            sources.values,
            self.query_at(site, sources.values[-1]),
            channel_dim=self.channel_dim,
            eps=self.eps,
            competition=self.competition,
            alive=sources.alive,
        )
        given = self.curvature(), self.channel_dim, self.coordinates
        return gyro_mix(sources.values, weights, *given)

    def look_ahead(self, sources: Sources, site: int) -> None:
        """Leave the reads to `mixture`: a midpoint has no fast form."""


class GyroAttnRes(_GyroReader):
    """Attention Residuals whose mixture is the weighted midpoint of all earlier points.

    Args:
        width: Stream width D.
        sites: The L sites in order.
        channel_dim: The axis of D.
        curvature: c of the ball, or a shared `BallCurvature`.
        coordinates: What sources are: `tangent`s of the ball, or `space` parts.
        key_gain: As in `AttnRes`, like all that follow.
        competition: As above.
        window: As above.
        input_dependent_query: As above.
        shared_query: As above.
        eps: As above.

    Raises:
        ValueError: as `AttnRes`, unknown coordinates, or a curvature that is not positive.
    """

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        curvature: float | BallCurvature = 1.0,
        coordinates: PointCoordinates = "tangent",
        key_gain: bool = True,
        competition: Competition = "softmax",
        window: int | None = None,
        input_dependent_query: bool = False,
        shared_query: bool = False,
        eps: float = 1e-6,
    ) -> None:
        """Keep the ball and make the queries."""
        super().__init__(
            width,
            sites,
            channel_dim=channel_dim,
            key_gain=key_gain,
            competition=competition,
            window=window,
            input_dependent_query=input_dependent_query,
            shared_query=shared_query,
            eps=eps,
        )
        check_points_as(coordinates)
        self.curvature = curvature_of(curvature)
        self.coordinates = coordinates


class GyroBlockAttnRes(_GyroReader, BlockAttnRes):
    """Block Attention Residuals whose history holds Möbius sums over blocks of branches.

    Args:
        width: Stream width D.
        sites: The L sites in order.
        channel_dim: The axis of D.
        curvature: c of the ball, or a shared `BallCurvature`.
        coordinates: What sources are: `tangent`s of the ball, or `space` parts.
        block_size: As in `BlockAttnRes`, like the next two.
        num_blocks: As above.
        block_layers: As above.
        key_gain: As in `AttnRes`, like all that follow.
        competition: As above.
        window: As above.
        input_dependent_query: As above.
        shared_query: As above.
        eps: As above.

    Raises:
        ValueError: as `BlockAttnRes`, unknown coordinates, or a curvature that is not positive.
    """

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        curvature: float | BallCurvature = 1.0,
        coordinates: PointCoordinates = "tangent",
        block_size: int | None = None,
        num_blocks: int | None = None,
        block_layers: int | None = None,
        key_gain: bool = True,
        competition: Competition = "softmax",
        window: int | None = None,
        input_dependent_query: bool = False,
        shared_query: bool = False,
        eps: float = 1e-6,
    ) -> None:
        """Keep the ball and make the queries."""
        BlockAttnRes.__init__(
            self,
            width,
            sites,
            channel_dim=channel_dim,
            block_size=block_size,
            num_blocks=num_blocks,
            block_layers=block_layers,
            key_gain=key_gain,
            competition=competition,
            window=window,
            input_dependent_query=input_dependent_query,
            shared_query=shared_query,
            eps=eps,
        )
        check_points_as(coordinates)
        self.curvature = curvature_of(curvature)
        self.coordinates = coordinates
