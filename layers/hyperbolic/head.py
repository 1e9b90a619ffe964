"""Multinomial logistic regression on the ball: logits are signed distances to hyperplanes.

    v_k = (2‖z_k‖/√c) asinh(u_k) = 2‖z_k‖ d(x, H_k)

with u_k of `hyperplanes`. The head of the original Poincaré ResNet is a linear layer whose output
tangent is read as logits: these are a positive factor per sample times sinh(√c v_k), so the
predicted class is the same and the probabilities are not. `PoincareLinear` is that head.

Source: Shimizu et al. 2021, "Hyperbolic neural networks++", arXiv:2006.08210, eq. 6; Ganea et al.
2018, arXiv:1805.09112, §3.1.
Differs from them: from tangents, with no point of the ball in between.
"""

# Shape letters: N inputs, K classes.

from torch import Tensor
from torch.nn import functional as F

from .bases.linear_base import HyperplaneRows
from .curvature import BallCurvature
from .maths.ball import Curvature, check_curvature, in_float32, in_range_with_squares, root
from .maths.coordinates import LIMIT, cap
from .maths.hyperplanes import hyperplanes
from .maths.radial import cosh_of_square, sinhc
from .maths.shape_checks import check_one_number, check_parameters, check_shape
from .to_ball import clip_tangent

__all__ = ["PoincareMLR", "poincare_mlr"]


@in_float32
def poincare_mlr(t: Tensor, weight: Tensor, offset: Tensor | None, curvature: Curvature) -> Tensor:
    """Map tangents (…, N) to logits (…, K).

    Points further than 30/√c from the origin are taken there, along their radius.

    Args:
        t: Tangents at the origin.
        weight: z (K, N), normals of the hyperplanes.
        offset: r (K,), how far along its normal a hyperplane lies; None is 0.
        curvature: c.

    Raises:
        ValueError: a curvature that is not one positive number, a dtype other than a float's, or
            another shape.
    """
    check_curvature(curvature)
    check_one_number("curvature", curvature)
    check_parameters(weight, offset, "K", "N")
    check_shape("t", t, "…", weight.shape[1])
    planes = hyperplanes(weight, offset, curvature)
    t, square, _ = in_range_with_squares(t, -1)
    square, factor = cap(4 * curvature * square, LIMIT)
    sine = factor * sinhc(square) * F.linear(t, planes.direction)
    sine = sine - cosh_of_square(square) * planes.shift
    return planes.stretch / root(curvature) * sine.asinh()


class PoincareMLR(HyperplaneRows):
    """The classifier of the ball, from tangents to logits.

    Args:
        in_features: N, at least 1.
        out_features: K, at least 1.
        curvature: c, or a shared `BallCurvature`.
        bias: Whether hyperplanes may leave the origin (r is learned).
        clip: Longest tangent that enters, above 0; None is any. A head over Euclidean features
            needs it, since their norms know no scale (`convert.clip_tangent`).

    Shape:
        (…, N) -> (…, K).

    Raises:
        ValueError: a size below 1, or a curvature or clip that is not positive.
    """

    # What `exchange` compares with the layers beside it: no point.
    output = "logits"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        curvature: float | BallCurvature = 1.0,
        bias: bool = True,
        clip: float | None = None,
    ) -> None:
        """Make z and r."""
        super().__init__(in_features, out_features, curvature, bias)
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be above 0 or None, got {clip}")
        self.clip = clip
        self.reset_parameters()

    def forward(self, t: Tensor) -> Tensor:
        """Return the logits."""
        if self.clip is not None:
            t = clip_tangent(t, self.clip)
        return poincare_mlr(t, self.weight, self.offset, self.curvature())

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{super().extra_repr()}, clip={self.clip}"
