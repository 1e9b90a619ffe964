"""The linear layer of the ball: each output coordinate is the distance to a hyperplane.

`hyperplanes` has the equations. Inputs and outputs are tangents at the origin, so that any
activation, pooling or residual of tangents stands between two layers without a map.

Source: Shimizu et al. 2021, "Hyperbolic neural networks++", arXiv:2006.08210, §3.2; the identity
initialisation is van Spengler et al. 2023, "Poincaré ResNet", arXiv:2303.14027, §3.4.
"""

# Shape letters: N inputs, M outputs.

from typing import Literal

import torch
from torch import Tensor

from ..fast_path import faster
from ._fast.fused_linear import LinearOutput, fused_linear
from ._fast.fused_maps import fused_tangent
from ._fast.fused_planes import fused_patches
from ._fast.fused_weights import fused_hyperplanes
from .bases.linear_base import HyperplaneRows
from .curvature import BallCurvature
from .maths.ball import Curvature, check_curvature, in_float32, root
from .maths.coordinates import check_coordinates, scaled_tangent
from .maths.hyperplanes import Scale, check_stretch, hyperplanes, patch_velocity
from .maths.shape_checks import check_one_number, check_parameters, check_shape

__all__ = ["PoincareLinear", "poincare_linear"]


@in_float32
def poincare_linear(
    t: Tensor,
    weight: Tensor,
    offset: Tensor | None,
    curvature: Curvature,
    *,
    largest: float | None = None,
    scale: Scale = "distance",
    output: LinearOutput = "tangent",
) -> Tensor:
    """Map tangents (…, N) to tangents (…, M), or to velocities or space parts.

    Args:
        t: Tangents at the origin.
        weight: z (M, N), normals of the hyperplanes.
        offset: r (M,), how far along its normal a hyperplane lies; None is 0.
        curvature: c.
        largest: Cap on τ = √c · distance from the origin, before and after, in (0, 30]; None is 30
            before only.
        scale: `distance`, or `angle` for velocities 2‖z‖ u, linear in u (`hyperplanes`).
        output: `tangent`, `velocity` for a layer that takes those (`MidpointBatchNorm`), or `space`
            for the space part ω/√c.

    Raises:
        ValueError: a curvature that is not one positive number, a dtype other than a float's,
            float16 velocities, or another shape.
    """
    check_curvature(curvature)
    check_one_number("curvature", curvature)
    check_parameters(weight, offset, "M", "N")
    check_shape("t", t, "…", weight.shape[1])
    flat = t.reshape(-1, t.shape[-1])
    out = None
    if largest is None and scale == "distance":
        out = fused_linear(_linear, flat, weight, offset, curvature, output)
    if out is None:
        given = (flat, weight, offset, curvature)
        out = _linear(*given, largest=largest, scale=scale, output=output)
    return out.view(*t.shape[:-1], len(weight))


def _linear(
    t: Tensor,
    weight: Tensor,
    offset: Tensor | None,
    curvature: Curvature,
    *,
    largest: float | None = None,
    scale: Scale = "distance",
    output: LinearOutput,
) -> Tensor:
    """Map tangents (B, N)."""
    planes = faster(fused_hyperplanes, hyperplanes, weight, offset, curvature)
    given = (t, *planes, 4 * curvature, None)
    out = faster(fused_patches, patch_velocity, *given, largest=largest, scale=scale)
    if output == "space":
        return out / root(curvature)
    if output == "tangent":
        return faster(fused_tangent, scaled_tangent, out, 0.5 / root(curvature))
    return out


class PoincareLinear(HyperplaneRows):
    """A linear layer of the Poincaré ball: tangents in; tangents, velocities or space parts out.

    Args:
        in_features: N, at least 1.
        out_features: M, at least 1.
        curvature: c, or a shared `BallCurvature`.
        bias: Whether hyperplanes may leave the origin (r is learned).
        init: `identity` keeps the norm exactly where M ≥ N; `normal` is HNN++'s N(0, 1/(2NM)).
        largest: As in `poincare_linear`.
        scale: As in `poincare_linear`.
        output: As in `poincare_linear`.

    Shape:
        (…, N) -> (…, M).

    Raises:
        ValueError: a size below 1, an unknown init, scale or output, or a curvature that is not
            positive.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        curvature: float | BallCurvature = 1.0,
        bias: bool = True,
        init: Literal["identity", "normal"] = "identity",
        largest: float | None = None,
        scale: Scale = "distance",
        output: LinearOutput = "tangent",
    ) -> None:
        """Make z and r."""
        super().__init__(in_features, out_features, curvature, bias)
        if init not in ("identity", "normal"):
            raise ValueError(f"init must be 'identity' or 'normal', got {init!r}")
        check_stretch(largest, scale)
        if output != "space":
            check_coordinates("output", output)
        self.init: Literal["identity", "normal"] = init
        self.largest = largest
        self.scale: Scale = scale
        self.output: LinearOutput = output
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw or set z, and zero r."""
        if self.init == "normal":
            super().reset_parameters()
            return
        with torch.no_grad():
            # Half, since distances from the origin are twice a tangent's norm.
            self.weight.copy_(torch.eye(*self.weight.shape) / 2)
        self.reset_offset()

    def forward(self, t: Tensor) -> Tensor:
        """Map tangents."""
        return poincare_linear(
            t,
            self.weight,
            self.offset,
            self.curvature(),
            largest=self.largest,
            scale=self.scale,
            output=self.output,
        )
