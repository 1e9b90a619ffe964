"""The convolution of the ball: patches are concatenated by β and mapped by the linear layer.

With κ = B(KC/2, 1/2)/B(C/2, 1/2) for K pixels of C channels, a patch is the tangent κ [t_1, …, t_K]
and the output is the linear layer of it. `hyperplanes` turns that into

    u = S(τ²) conv2d(t, κ ĝ) − cosh(τ) h,    τ² = 4cκ² box(Σ_C t²),    ω = sinh(a asinh u)

an ordinary convolution, a box filter of one channel and a pointwise map: exactly the layer, without
a patch ever being formed. Zero padding pads with the origin.

Source: Shimizu et al. 2021, "Hyperbolic neural networks++", arXiv:2006.08210, §3.3–3.4; van
Spengler et al. 2023, "Poincaré ResNet", arXiv:2303.14027.
Differs from them: never unfolds; groups, which neither has, split each pixel's channels by β and
concatenate the groups' outputs by β.
"""

# Shape letters: B batch, N and M channels in and out, G groups.

from typing import Literal

import torch
from torch import Tensor, nn

from ..fast_path import faster
from ..subsample import pixels_first
from ._fast.fused_maps import fused_tangent
from ._fast.fused_planes import fused_patches
from ._fast.fused_weights import fused_hyperplanes
from .bases.conv_base import CurvedConv2d, Pair, place_of
from .curvature import BallCurvature
from .maths.ball import Curvature, check_curvature, in_float32, root
from .maths.coordinates import Coordinates, check_coordinates, scaled_tangent, tangent_to_velocity
from .maths.hyperplanes import (
    Scale,
    check_place,
    check_stretch,
    concatenation_gain,
    hyperplanes,
    patch_velocity,
)
from .maths.shape_checks import check_one_number, check_parameters, check_shape

__all__ = ["PoincareConv2d", "poincare_conv2d"]

Init = Literal["identity", "normal", "dirac"]


@in_float32
def poincare_conv2d(
    t: Tensor,
    weight: Tensor,
    offset: Tensor | None,
    curvature: Curvature,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    largest: float | None = None,
    scale: Scale = "distance",
    output: Coordinates = "tangent",
) -> Tensor:
    """Map tangents (B, N, H, W) to tangents (B, M, H', W'), or to velocities.

    Args:
        t: Tangents at the origin, one for each pixel.
        weight: z (M, N/G, kh, kw), normals of the hyperplanes.
        offset: r (M,), how far along its normal a hyperplane lies; None is 0.
        curvature: c.
        stride: As in `torch.nn.functional.conv2d`, like the next three.
        padding: As above; pads with the origin.
        dilation: As above.
        groups: As above.
        largest: As in `poincare_linear`.
        scale: As in `poincare_linear`.
        output: As in `poincare_linear`.

    Raises:
        ValueError: a curvature that is not one positive number, a dtype other than a float's,
            float16 velocities, another shape, numbers of a convolution that say nothing, or a
            kernel that is larger than the padded image.
    """
    check_curvature(curvature)
    check_one_number("curvature", curvature)
    check_parameters(weight, offset, "M", "N/G", "kh", "kw")
    check_shape("t", t, "B", weight.shape[1] * groups, "H", "W")
    place = place_of(stride, padding, dilation)
    check_place(t, weight, place, groups)
    kernel = (weight.shape[2], weight.shape[3])
    t, step = pixels_first(t, kernel, place.stride, place.padding)
    place = place._replace(stride=step)
    gain = patch_gain(t.shape[1], weight)
    planes = faster(fused_hyperplanes, hyperplanes, weight, offset, curvature, gain)
    given = (t, *planes, 4 * curvature * gain**2, place, groups)
    velocity = faster(fused_patches, patch_velocity, *given, largest=largest, scale=scale)
    if groups == 1 and output == "velocity":
        return velocity
    # The groups' outputs are concatenated by β.
    share = concatenation_gain(len(weight) // groups, len(weight))
    factor = share / (2 * root(curvature))
    out = faster(fused_tangent, scaled_tangent, velocity, factor, groups)
    return out if output == "tangent" else tangent_to_velocity(out, curvature, dim=1)


def patch_gain(width: int, weight: Tensor) -> float:
    """Return the factor between a pixel's tangent and its part of a (grouped) patch."""
    return concatenation_gain(width, weight[0].numel())


class PoincareConv2d(CurvedConv2d):
    """A 2-D convolution of the Poincaré ball, tangents in and tangents or velocities out.

    Args:
        in_channels: N, at least 1.
        out_channels: M, at least 1.
        kernel_size: Side or sides of the kernel.
        stride: As in `nn.Conv2d`, like the next three.
        padding: As above; pads with the origin.
        dilation: As above.
        groups: As above; divides N and M.
        curvature: c, or a shared `BallCurvature`.
        bias: Whether hyperplanes may leave the origin (r is learned).
        init: `identity` copies the first M entries of the patch, as the reference does, and shrinks
            a 3×3 layer's norms to about a third; `dirac` copies the centre pixel, for more
            outputs than inputs its neighbours too, and keeps the norm of small points; `normal` is
            HNN++'s N(0, 1/(2 K N M)).
        largest: As in `poincare_linear`.
        scale: As in `poincare_linear`.
        output: As in `poincare_linear`.

    Shape:
        (B, N, H, W) -> (B, M, H', W').

    Raises:
        ValueError: a size below 1, groups that do not divide the channels, an unknown init,
            scale or output, or a curvature that is not positive.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        *,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        curvature: float | BallCurvature = 1.0,
        bias: bool = True,
        init: Init = "identity",
        largest: float | None = None,
        scale: Scale = "distance",
        output: Coordinates = "tangent",
    ) -> None:
        """Make z and r."""
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, curvature
        )
        if init not in ("identity", "normal", "dirac"):
            raise ValueError(f"init must be 'identity', 'normal' or 'dirac', got {init!r}")
        check_stretch(largest, scale)
        check_coordinates("output", output)
        self.init: Init = init
        self.largest = largest
        self.scale: Scale = scale
        self.output: Coordinates = output
        self.offset = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw or set z, and zero r."""
        inputs = self.weight[0].numel()
        with torch.no_grad():
            if self.init == "normal":
                self.weight.normal_(std=(2 * inputs * self.out_channels) ** -0.5)
            elif self.init == "identity":
                # Half, since distances from the origin are twice a tangent's norm.
                rows = torch.eye(self.out_channels // self.groups, inputs) / 2
                self.weight.copy_(rows.repeat(self.groups, 1).view_as(self.weight))
            else:
                self.weight.zero_()
                self._copy_pixels()
        if self.offset is not None:
            nn.init.zeros_(self.offset)

    def _copy_pixels(self) -> None:
        """Copy the channels of the centre pixel, and beyond their number those of its neighbours.

        A row of zeros would be a channel without a gradient behind the next ReLU.
        """
        outputs, inputs = self.out_channels // self.groups, self.weight.shape[1]
        height, width = self.weight.shape[2:]
        places = [(i, j) for i in range(height) for j in range(width)]
        places.sort(key=lambda p: (2 * p[0] + 1 - height) ** 2 + (2 * p[1] + 1 - width) ** 2)
        # Neighbours are alike, so copies of them count as so many of the centre.
        share = min(1.0, inputs / outputs) ** 0.5
        gain = patch_gain(self.in_channels, self.weight)
        gain *= concatenation_gain(outputs, self.out_channels)
        for row in range(self.out_channels):
            copy, channel = divmod(row % outputs, inputs)
            i, j = places[copy % len(places)]
            self.weight[row, channel, i, j] = share / (2 * gain)

    def forward(self, t: Tensor) -> Tensor:
        """Convolve tangents."""
        return poincare_conv2d(
            t,
            self.weight,
            self.offset,
            self.curvature(),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            largest=self.largest,
            scale=self.scale,
            output=self.output,
        )
