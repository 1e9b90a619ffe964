"""The geometry axis: what a convolution, a norm, a pool and a head are in a space.

A backbone asks a geometry for its layers and knows none by name. Between any two layers features
are vectors: in the ball they are tangents at the origin, so ReLU, dropout and every residual of
vectors work in both geometries."""

import functools
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import nn

from ...layers.hyperbolic import (
    BallCurvature,
    MidpointBatchNorm,
    MidpointPool,
    PoincareConv2d,
    PoincareLinear,
    PoincareMLR,
)
from ..network import HeadBuilder, linear_head

__all__ = ["Euclidean", "Geometry", "GeometryName", "HeadName", "Init", "Poincare", "make_geometry"]

GeometryName = Literal["poincare", "euclidean"]
HeadName = Literal["mlr", "linear"]
Init = Literal["identity", "dirac", "normal"]


class Geometry(Protocol):
    """The layers of a space, and what residuals share with them."""

    @property
    def shared(self) -> dict[str, Any]:
        """What a residual mechanism may take from the space, such as its curvature."""
        ...

    def conv(self, in_width: int, out_width: int, size: int, stride: int = 1) -> nn.Module:
        """Make a convolution with a bias that keeps the resolution at stride 1."""
        ...

    def normed_conv(self, in_width: int, out_width: int, size: int, stride: int = 1) -> nn.Module:
        """Make the same with batch normalisation after it."""
        ...

    def linear(self, in_width: int, out_width: int) -> nn.Module:
        """Make a linear layer (B, in_width) -> (B, out_width)."""
        ...

    def norm(self, width: int) -> nn.Module:
        """Make a batch normalisation of (B, width)."""
        ...

    def pool(self) -> nn.Module:
        """Make a global pooling (B, D, H, W) -> (B, D)."""
        ...

    def head(self, name: HeadName) -> HeadBuilder:
        """Return what makes heads: `mlr` on the ball, `linear` in the space itself."""
        ...


@dataclass(frozen=True)
class Euclidean:
    """Flat space; `ball` is where an `mlr` head and a residual of points lie."""

    ball: BallCurvature

    @property
    def shared(self) -> dict[str, Any]:
        """The curvature, for a residual of points over flat layers."""
        return {"curvature": self.ball}

    def conv(self, in_width: int, out_width: int, size: int, stride: int = 1) -> nn.Conv2d:
        """Make an ordinary convolution."""
        return nn.Conv2d(in_width, out_width, size, stride, padding=size // 2)

    def normed_conv(self, in_width: int, out_width: int, size: int, stride: int = 1) -> nn.Module:
        """Make a convolution and batch normalisation."""
        return nn.Sequential(
            self.conv(in_width, out_width, size, stride), nn.BatchNorm2d(out_width)
        )

    def linear(self, in_width: int, out_width: int) -> nn.Linear:
        """Make an ordinary linear layer."""
        return nn.Linear(in_width, out_width)

    def norm(self, width: int) -> nn.BatchNorm1d:
        """Make batch normalisation."""
        return nn.BatchNorm1d(width)

    def pool(self) -> nn.Module:
        """Average the pixels."""
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))

    def head(self, name: HeadName) -> HeadBuilder:
        """Return a linear head, or the ball's."""
        if name == "linear":
            return linear_head
        return functools.partial(PoincareMLR, curvature=self.ball)


@dataclass(frozen=True)
class Poincare:
    """The Poincaré ball, one for all layers.

    Args:
        ball: The curvature.
        init: How fresh weights of convolutions and linear layers are set.
        averaging: `midpoint` pools pixels to their midpoint, `tangent` averages their tangents.
    """

    ball: BallCurvature
    init: Init = "normal"
    averaging: Literal["midpoint", "tangent"] = "midpoint"

    @property
    def shared(self) -> dict[str, Any]:
        """The curvature."""
        return {"curvature": self.ball}

    def conv(self, in_width: int, out_width: int, size: int, stride: int = 1) -> PoincareConv2d:
        """Make a convolution of the ball."""
        return self._conv(in_width, out_width, size, stride, "tangent")

    def normed_conv(self, in_width: int, out_width: int, size: int, stride: int = 1) -> nn.Module:
        """Make a convolution and midpoint batch normalisation, with no map between them."""
        return nn.Sequential(
            self._conv(in_width, out_width, size, stride, "velocity"),
            MidpointBatchNorm(out_width, curvature=self.ball, input="velocity"),
        )

    def _conv(
        self,
        in_width: int,
        out_width: int,
        size: int,
        stride: int,
        output: Literal["tangent", "velocity"],
    ) -> PoincareConv2d:
        return PoincareConv2d(
            in_width,
            out_width,
            size,
            stride=stride,
            padding=size // 2,
            curvature=self.ball,
            init=self.init,
            output=output,
        )

    def linear(self, in_width: int, out_width: int) -> PoincareLinear:
        """Make a linear layer of the ball; on one point `dirac` is `identity`."""
        init = "identity" if self.init == "dirac" else self.init
        return PoincareLinear(in_width, out_width, curvature=self.ball, init=init)

    def norm(self, width: int) -> MidpointBatchNorm:
        """Make midpoint batch normalisation."""
        return MidpointBatchNorm(width, curvature=self.ball, dim=-1)

    def pool(self) -> nn.Module:
        """Pool the pixels as `averaging` says."""
        if self.averaging == "midpoint":
            return MidpointPool(curvature=self.ball)
        return Euclidean(self.ball).pool()

    def head(self, name: HeadName) -> HeadBuilder:
        """Return distances to hyperplanes, or a linear layer whose tangents are the logits."""
        kind = PoincareMLR if name == "mlr" else PoincareLinear
        return functools.partial(kind, curvature=self.ball)


def make_geometry(
    name: GeometryName,
    *,
    curvature: float,
    learned_curvature: bool,
    init: Init = "normal",
    averaging: Literal["midpoint", "tangent"] = "midpoint",
) -> Geometry:
    """Make a space from what a model's keywords say.

    Raises:
        ValueError: an unknown name, init or averaging, or a curvature that is not positive.
    """
    ball = BallCurvature(curvature, learned=learned_curvature)
    if averaging not in ("midpoint", "tangent"):
        raise ValueError(f"averaging must be 'midpoint' or 'tangent', got {averaging!r}")
    if name == "euclidean":
        return Euclidean(ball)
    if name == "poincare":
        return Poincare(ball, init, averaging)
    raise ValueError(f"geometry must be 'poincare' or 'euclidean', got {name!r}")
