"""Logits from space parts: distances to hyperplanes, and to points of the hyperboloid.

    mlr       v_k = (2‖z_k‖/√c) asinh(√c cosh(2√c r_k)⟨ẑ_k, s⟩ − sinh(2√c r_k) X)
    distance  v_k = ⟨s, p_k⟩ − X h(p_k) = ⟨x, p_k⟩_L + r x₀

The first is `poincare_mlr` of the same hyperplanes, and that of Bdeir et al.; a logit is 2‖z_k‖
times a distance, and thus 2‖z_k‖-Lipschitz in s. The second has the softmax of −d_L²/2 with
the squared Lorentz distance d_L² = −2r² − 2⟨x, p⟩_L, and needs one matrix product of D + 1 columns:
a table of embeddings can be its own head, and no parameter lies on a manifold. In flat space they
are 2⟨z, s⟩ − 4‖z‖r and s·p − ‖p‖²/2.

Source: Bdeir et al. 2024, arXiv:2303.15919, eq. 9 (mlr); Law et al. 2019 (distance).
Differs from them: from space parts.
"""

# Shape letters: D inputs, K classes.

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...decay import exclude_from_decay
from ...fast_path import faster
from .._fast.fused_space import fused_covector, fused_lift
from .._fast.fused_weights import fused_hyperplanes
from ..bases.linear_base import CurvedLinear, HyperplaneRows
from ..curvature import BallCurvature
from ..maths.ball import Curvature, check_curvature, in_float32, root
from ..maths.hyperplanes import hyperplanes
from ..maths.shape_checks import check_one_number, check_parameters, check_shape
from ..maths.space_parts import covector, lift
from .space_points import from_tangent

__all__ = ["LorentzMLR", "LorentzPrototypes", "lorentz_mlr", "prototype_logits"]


@in_float32
def lorentz_mlr(s: Tensor, weight: Tensor, offset: Tensor | None, curvature: Curvature) -> Tensor:
    """Map space parts (…, D) to logits (…, K).

    Args:
        s: Space parts.
        weight: z (K, D), normals of the hyperplanes.
        offset: r (K,), how far along its normal a hyperplane lies; None is 0.
        curvature: c.

    Raises:
        ValueError: a curvature that is not one positive number, a dtype other than a float's, or
            another shape.
    """
    check_curvature(curvature)
    check_one_number("curvature", curvature)
    check_parameters(weight, offset, "K", "D")
    check_shape("s", s, "…", weight.shape[1])
    # Hyperplanes are prepared for tangents, half as long as space parts.
    planes = faster(fused_hyperplanes, hyperplanes, weight, offset, curvature, 0.5)
    columns = torch.cat([planes.direction, planes.shift[:, None]], 1)
    sine = F.linear(faster(fused_covector, covector, s, curvature, None), columns)
    return planes.stretch / root(curvature) * sine.asinh()


@in_float32
def prototype_logits(s: Tensor, prototypes: Tensor, curvature: Curvature) -> Tensor:
    """Map space parts (…, D) to logits (…, K), the softmax of half the squared Lorentz distances.

    Args:
        s: Space parts.
        prototypes: p (K, D), space parts.
        curvature: c.

    Raises:
        ValueError: a curvature that is not one positive number, a dtype other than a float's, or
            another shape.
    """
    check_curvature(curvature)
    check_one_number("curvature", curvature)
    check_shape("prototypes", prototypes, "K", "D")
    check_shape("s", s, "…", prototypes.shape[1])
    lifts = faster(fused_lift, lift, prototypes, curvature)
    return F.linear(faster(fused_covector, covector, s, curvature, None), lifts)


class LorentzMLR(HyperplaneRows):
    """The classifier of hyperplanes, from space parts to logits.

    Args:
        in_features: D, at least 1.
        out_features: K, at least 1.
        curvature: c, or a shared `BallCurvature`.
        bias: Whether hyperplanes may leave the origin (r is learned).

    Shape:
        (…, D) -> (…, K).

    Raises:
        ValueError: a size below 1, or a curvature that is not positive.
    """

    input, output = "space", "logits"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        curvature: float | BallCurvature = 1.0,
        bias: bool = True,
    ) -> None:
        """Make z and r."""
        super().__init__(in_features, out_features, curvature, bias)
        self.reset_parameters()

    def forward(self, s: Tensor) -> Tensor:
        """Return the logits."""
        return lorentz_mlr(s, self.weight, self.offset, self.curvature())


class LorentzPrototypes(CurvedLinear):
    """The classifier of one point for each class, from space parts or tangents to logits.

    Args:
        in_features: D, at least 1.
        out_features: K, at least 1.
        curvature: c, or a shared `BallCurvature`.
        input: What features and prototypes are: `space` parts, or the `tangent`s of the ball.

    Shape:
        (…, D) -> (…, K).

    Raises:
        ValueError: a size below 1, an unknown input, or a curvature that is not positive.
    """

    output = "logits"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        curvature: float | BallCurvature = 1.0,
        input: Literal["space", "tangent"] = "space",
    ) -> None:
        """Make the points."""
        if input not in ("space", "tangent"):
            raise ValueError(f"input must be 'space' or 'tangent', got {input!r}")
        super().__init__(in_features, out_features, curvature)
        self.input: Literal["space", "tangent"] = input
        exclude_from_decay(self, "weight")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw points from N(0, 1/D), at a distance of about 1 from the origin."""
        nn.init.normal_(self.weight, std=self.in_features**-0.5)

    def forward(self, s: Tensor) -> Tensor:
        """Return the logits."""
        curvature, points = self.curvature(), self.weight
        if self.input == "tangent":
            s, points = from_tangent(s, curvature), from_tangent(points, curvature)
        return prototype_logits(s, points, curvature)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{super().extra_repr()}, input={self.input!r}"
