"""Midpoint batch normalisation of space parts.

The layer of `norm` between space parts: centre at the midpoint M of the batch, scale distances from
there by s, and move to a learned point β. `transport` says along which way points come to β:

    geodesic   along that from M to β, as `norm` has it
    origin     M to the origin and from there to β:  out = β ⊕ k ((−M) ⊕ x),  k = sinh(sρ)/sinh(ρ)

which differ by a rotation around β; three numbers of each point are either (`norm`). `scale` is
√(γ/(σ² + ε)) by the mean squared distance σ², or γ/(mean distance + ε). `origin` with `mean` is the
layer of Bdeir et al.

A norm of space parts that is none of points is torch's own: `nn.BatchNorm2d`, `nn.LayerNorm` and
`nn.RMSNorm` on space parts are norms of the hyperboloid in public code too, and have the Euclidean
ones as their limit. Those that put ‖s‖ at √D put points at asinh(√(cD)) radii.

Source: van Spengler et al. 2023, arXiv:2303.14027, §3.3; Bdeir et al. 2024, arXiv:2303.15919,
§4.2.
Differs from them: the midpoint is that of all points, where Bdeir et al. take the midpoint of those
of each image.
"""

# Shape letters: B batch, D channels (axis `dim`), ... pixels.

from torch import Tensor

from ..bases.norm_base import MidpointNorm
from ..curvature import BallCurvature
from ..maths.ball import Curvature, check_curvature, in_float32, moved_axis
from ..maths.shape_checks import check_axis, check_one_number, check_shape
from ..midpoint import MidpointStatistics, NormKind, Spread, Transport
from ..norm import normalise

__all__ = ["LorentzBatchNorm", "lorentz_batch_norm"]


def lorentz_batch_norm(
    s: Tensor,
    mean: Tensor,
    variance: Tensor,
    curvature: Curvature,
    *,
    statistics: MidpointStatistics | None = None,
    eps: float = 1e-6,
    dim: int = 1,
    transport: Transport = "geodesic",
    scale: Spread = "rms",
) -> Tensor:
    """Normalise space parts (B, …, D, …) to the mean β and the spread γ.

    Args:
        s: Space parts.
        mean: β (D,), a space part.
        variance: γ, a positive scalar.
        curvature: c.
        statistics: What to normalise by; None is the batch's own.
        eps: Added to σ², or to the mean distance.
        dim: The axis of D.
        transport: As above.
        scale: As above.

    Raises:
        ValueError: a curvature that is not one positive number, a dtype other than a float's, or
            another shape.
    """
    check_curvature(curvature)
    check_one_number("curvature", curvature)
    check_one_number("variance", variance)
    check_shape("mean", mean, "D")
    check_axis("s", s, dim, len(mean), least=2)
    return _batch_norm(s, mean, variance, curvature, statistics, eps, dim, transport, scale)


@in_float32
def _batch_norm(
    s: Tensor,
    mean: Tensor,
    variance: Tensor,
    curvature: Curvature,
    statistics: MidpointStatistics | None,
    eps: float,
    dim: int,
    transport: Transport,
    scale: Spread,
) -> Tensor:
    kind = NormKind(transport, scale, space=True)
    given = moved_axis(s, dim, 1), mean, variance, curvature, statistics, eps
    return moved_axis(normalise(*given, kind=kind)[0], 1, dim)


class LorentzBatchNorm(MidpointNorm):
    """Batch normalisation of the hyperboloid, space parts in and out.

    Args:
        num_features: D, at least 1.
        curvature: c, or a shared `BallCurvature`.
        eps: Added to σ² or to the mean distance, above 0.
        momentum: Weight of a new batch in the running statistics, in [0, 1]; None averages all
            batches alike.
        track_running_stats: Whether evaluation uses running statistics.
        synchronised: Whether the processes of a distributed run normalise together; with
            `scale="rms"` only.
        dim: The axis of D.
        transport: As in `lorentz_batch_norm`.
        scale: As in `lorentz_batch_norm`.

    Shape:
        (B, D), (B, D, H, W) or any with D on `dim` -> the same.

    Raises:
        ValueError: a size or number out of range, or an unknown option; at the call, another
            shape.
    """

    input = output = "space"

    def __init__(
        self,
        num_features: int,
        *,
        curvature: float | BallCurvature = 1.0,
        eps: float = 1e-6,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        synchronised: bool = False,
        dim: int = 1,
        transport: Transport = "geodesic",
        scale: Spread = "rms",
    ) -> None:
        """Make β at the origin, γ = 1 and the statistics of points at a mean distance of 1."""
        if transport not in ("geodesic", "origin"):
            raise ValueError(f"transport must be 'geodesic' or 'origin', got {transport!r}")
        if scale not in ("rms", "mean"):
            raise ValueError(f"scale must be 'rms' or 'mean', got {scale!r}")
        if synchronised and scale == "mean":
            raise ValueError("synchronised=True needs scale='rms', got scale='mean'")
        super().__init__(
            num_features, curvature, eps, momentum, track_running_stats, synchronised, dim
        )
        self.transport: Transport = transport
        self.scale: Spread = scale

    def forward(self, s: Tensor) -> Tensor:
        """Normalise by the batch in training, by the running statistics in evaluation."""
        check_axis("s", s, self.dim, self.num_features, least=2)
        return _normalised(s, self)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{super().extra_repr()}, transport={self.transport!r}, scale={self.scale!r}"


@in_float32
def _normalised(s: Tensor, layer: LorentzBatchNorm) -> Tensor:
    """What a layer makes of s; in training the layer learns from the batch."""
    curvature = layer.curvature()
    if isinstance(curvature, Tensor):
        curvature = curvature.to(s.dtype)
    s = moved_axis(s, layer.dim, 1)
    given = layer.statistics(s, curvature, space=True)
    running = layer.following(s)
    mean, variance = layer.mean.to(s.dtype), layer.log_variance.to(s.dtype).exp()
    kind = NormKind(layer.transport, layer.scale, space=True)
    out, *_ = normalise(s, mean, variance, curvature, given, layer.eps, running, kind)
    return moved_axis(out, 1, layer.dim)
