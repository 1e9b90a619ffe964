"""The convolution of the hyperboloid: one ordinary convolution and a box filter of one channel.

Pixels of a patch are concatenated by their space parts, and the time of the whole is that of the
long space part: √(Σt_i² − (K − 1)r²) = √(r² + Σ‖s_i‖²) for K pixels. The linear layer of it is

    y = conv2d(s, W) + b + w₀ e,    e = √c box/(1 + √(1 + c box)),    box = conv2d(Σ_C s², ones)

exactly, without a patch ever being formed. Zero padding pads with the origin. In flat space it is
the ordinary convolution; a fresh layer has w₀ = 0 and is that in any space.

Lipschitz: at most ‖conv‖ + ‖w₀‖√K for kernels of K pixels that overlap.

Source: Bdeir et al. 2024, "Fully hyperbolic convolutional neural networks for computer vision",
arXiv:2303.15919, eq. 4–5.
Differs from it: no row of weights for a time that is computed anew; groups, which it has not.
"""

# Shape letters: B batch, N and M channels in and out, G groups.

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...autocast import without_autocast
from ...decay import exclude_from_decay
from .._fast.fused_lorentz_conv import fused_conv
from ..bases.conv_base import CurvedConv2d, Pair, place_of
from ..curvature import BallCurvature
from ..maths.ball import Curvature, check_curvature
from ..maths.hyperplanes import Place, check_place
from ..maths.shape_checks import check_one_number, check_parameters, check_shape
from ..maths.space_parts import time_excess

__all__ = ["LorentzConv2d", "lorentz_conv2d"]


def lorentz_conv2d(
    s: Tensor,
    weight: Tensor,
    time_weight: Tensor,
    bias: Tensor | None,
    curvature: Curvature,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Map space parts (B, N, H, W) to space parts (B, M, H', W').

    Under autocast the convolution runs in half precision and e in float32.

    Args:
        s: Space parts, one for each pixel.
        weight: W (M, N/G, kh, kw).
        time_weight: w₀ (M,).
        bias: b (M,); None is 0.
        curvature: c.
        stride: As in `torch.nn.functional.conv2d`, like the next three.
        padding: As above; pads with the origin.
        dilation: As above.
        groups: As above; each group's patch is a point.

    Raises:
        ValueError: a curvature that is not one positive number, another shape, numbers of a
            convolution that say nothing, or a kernel that is larger than the padded image.
    """
    check_curvature(curvature)
    check_one_number("curvature", curvature)
    check_parameters(weight, bias, "M", "N/G", "kh", "kw")
    check_shape("time_weight", time_weight, len(weight))
    check_shape("s", s, "B", weight.shape[1] * groups, "H", "W")
    place = place_of(stride, padding, dilation)
    check_place(s, weight, place, groups)
    given = (s, weight, time_weight, bias, curvature, place, groups)
    found = fused_conv(_definition, *given)
    return _definition(*given) if found is None else found


def _definition(
    s: Tensor,
    weight: Tensor,
    time_weight: Tensor,
    bias: Tensor | None,
    curvature: Curvature,
    place: Place,
    groups: int,
) -> Tensor:
    out = F.conv2d(s, weight, bias, *place, groups)
    with without_autocast(s):
        wide = s.to(torch.promote_types(s.dtype, torch.float32))
        norms = wide.square().unflatten(1, (groups, -1)).sum(2)
        ones = norms.new_ones(1, 1, *weight.shape[2:]).expand(groups, -1, -1, -1)
        excess = time_excess(F.conv2d(norms, ones, None, *place, groups), curvature).to(out.dtype)
    # (B, G, 1, H', W') times (G, M/G, 1, 1).
    columns = time_weight.to(out.dtype).view(groups, -1, 1, 1)
    parts = out.unflatten(1, (groups, -1))
    return torch.addcmul(parts, excess.unsqueeze(2), columns).flatten(1, 2)


class LorentzConv2d(CurvedConv2d):
    """A 2-D convolution of the hyperboloid, space parts in and out.

    Args:
        in_channels: N, at least 1.
        out_channels: M, at least 1.
        kernel_size: Side or sides of the kernel.
        stride: As in `nn.Conv2d`, like the next three.
        padding: As above; pads with the origin.
        dilation: As above.
        groups: As above; divides N and M.
        curvature: c, or a shared `BallCurvature`.
        bias: Whether there is a b.

    Shape:
        (B, N, H, W) -> (B, M, H', W').

    Raises:
        ValueError: a size below 1, groups that do not divide the channels, or a curvature that is
            not positive.
    """

    input = output = "space"

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
    ) -> None:
        """Make W, w₀ and b."""
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, curvature
        )
        self.time_weight = nn.Parameter(torch.empty(out_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        exclude_from_decay(self, "time_weight")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw W and b as `nn.Conv2d` does, from the same numbers, and zero w₀."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = self.weight[0].numel() ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)
        nn.init.zeros_(self.time_weight)

    def forward(self, s: Tensor) -> Tensor:
        """Convolve space parts."""
        return lorentz_conv2d(
            s,
            self.weight,
            self.time_weight,
            self.bias,
            self.curvature(),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
