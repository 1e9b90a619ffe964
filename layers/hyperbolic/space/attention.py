"""Hyperbolic attention: scaled-dot-product attention with one more channel, exactly.

Queries, keys and values are points of the hyperboloid by their space parts (`maths.space_parts`).
With the scores g⟨q, k⟩_L/√d and the centroid of the values,

    Q = g [q, −X_q],    K = [k, h_k],    V = [v, h_v]
    out = drop(SDPA(Q, K, V))

so that every kernel of `scaled_dot_product_attention` serves, with its memory linear in the tokens.
Moving all queries and keys by one isometry changes nothing, and moving all values moves the output.
In flat space the weights are softmax(g(q·k − ‖k‖²/2)/√d): ordinary attention where keys are
equally long, as after QK-norm without a gain.

Safe ranges: R ≤ 6 radii in float32; in half precision R ≤ 2, with `recentring` for points that lie
within 2 radii of their centre. After QK-norm R = asinh(√(c d)).

Source: Chen et al. 2022, "Fully hyperbolic neural networks", arXiv:2105.14686, eq. 6; Shimizu et
al. 2021, arXiv:2006.08210, §3.6 (`score="distance"`); Alyoussef et al., HexFormer (`tangent`).
Differs from them: theirs has scores 2(r² + ⟨q, k⟩_L)/scale + bias, which is g = 2√d/scale since
what is equal for all keys leaves the softmax. Scores of c⟨q, k⟩_L would make flat space a mean.
"""

# Shape letters: B batch, H heads, T tokens, D width of a head.

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...autocast import autocasts, without_autocast
from ...decay import exclude_from_decay
from ...fast_path import faster
from ...sizes import check_sizes
from .._fast.fused_space import fused_attention, fused_covector, fused_drop, fused_lift
from ..curvature import BallCurvature, curvature_of
from ..maths.ball import Curvature, check_curvature
from ..maths.shape_checks import check_shape
from ..maths.space_parts import covector, drop, lift
from .distance_scores import distance_weights
from .recentring import Centre, around, by_head, centre_of
from .space_points import boost, from_tangent, to_tangent

__all__ = ["HyperbolicAttention", "attend_lifted", "hyperbolic_attention"]

Score = Literal["inner", "distance"]
Aggregate = Literal["centroid", "tangent"]


def attend_lifted(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    curvature: Curvature,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    grouped: bool = False,
) -> Tensor:
    """Return what attention makes of Q, K and V, each one channel longer than a space part.

    Args:
        query: `covector` of the queries (B, H, T, D + 1).
        key: `lift` of the keys (B, H, S, D + 1), as a decoder may keep it.
        value: `lift` of the values, likewise.
        curvature: c.
        mask: As in `scaled_dot_product_attention`. A query that may see nothing gives the origin.
        causal: Whether a token sees those before it and itself only.
        scale: Of the scores; None is 1/√D.
        grouped: Whether several heads of queries share one of keys and values.

    Returns:
        Space parts (B, H, T, D) in at least float32.
    """
    with without_autocast(query):
        mean = _mean(query, key, value, mask, causal, scale, grouped)
        return faster(fused_drop, drop, mean, curvature)


def _mean(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
    grouped: bool,
) -> Tensor:
    """Return the weighted means of V in at least float32."""
    scale = (query.shape[-1] - 1) ** -0.5 if scale is None else scale
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(query.dtype)
    mean = F.scaled_dot_product_attention(
        query, key, value, mask, is_causal=causal, scale=scale, enable_gqa=grouped
    )
    return mean.to(torch.promote_types(mean.dtype, torch.float32))


def hyperbolic_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    curvature: Curvature,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    gain: Tensor | None = None,
    scale: float | None = None,
    score: Score = "inner",
    aggregate: Aggregate = "centroid",
    centre: Centre | None = None,
    grouped: bool = False,
) -> Tensor:
    """Return attention of points, space parts (B, H, T, D) in the dtype of the query.

    Lifts, centroids and boosts are computed in at least float32; the kernel runs in the dtype of
    autocast where that is on, otherwise in that of the query.

    Args:
        query: Space parts (B, H, T, D).
        key: Space parts (B, H, S, D).
        value: Space parts (B, H, S, D).
        curvature: c.
        mask: As in `scaled_dot_product_attention`. A query that may see nothing gives the origin.
        causal: Whether a token sees those before it and itself only.
        gain: g > 0, broadcasts over (B, H, T, 1); None is 1.
        scale: Of the scores; None is 1/√D.
        score: `inner` is g⟨q, k⟩_L, `distance` is −g d(q, k), whose weights are written out.
        aggregate: `centroid`, or `tangent`: exp₀ of the mean of logarithms, which moves with
            rotations only.
        centre: What is carried to the origin for the kernel; None is nothing.
        grouped: Whether several heads of queries share one of keys and values.

    Raises:
        ValueError: a curvature that is not positive, another shape, or an unknown score or
            aggregate.
    """
    check_curvature(curvature)
    check_options(score, aggregate)
    width = query.shape[-1]
    for name, x in {"query": query, "key": key, "value": value}.items():
        check_shape(name, x, "B", "H", "T", width)
    factor: float = width**-0.5 if scale is None else scale
    dtype, narrow = query.dtype, kernel_dtype(query)
    wide = torch.promote_types(dtype, torch.float32)
    with without_autocast(query):
        query, key, value = (x.to(wide) for x in (query, key, value))
        back = None
        if centre is not None:
            centre = Centre(*(x.to(wide) for x in centre))
            query, key, moved = around(centre, query, key, value, curvature)
            # Logarithms are those at the origin, so that values stay where they are.
            if aggregate == "centroid":
                value, back = moved, by_head(centre.value, query)
        if aggregate == "centroid":
            value = faster(fused_lift, lift, value, curvature)
        else:
            # A channel of zeros, since kernels want keys and values of one width.
            value = F.pad(to_tangent(value, curvature), (0, 1))
        if score == "inner":
            query = faster(fused_covector, covector, query, curvature, gain).to(narrow)
            key, value = faster(fused_lift, lift, key, curvature).to(narrow), value.to(narrow)
            mean = _mean(query, key, value, mask, causal, factor, grouped)
        else:
            key, value = by_head(key, query), by_head(value, query)
            steepness = factor if gain is None else factor * gain
            weights = distance_weights(
                query, key, curvature, mask=mask, causal=causal, gain=steepness
            )
            mean = weights @ value
        if aggregate == "tangent":
            out = from_tangent(mean[..., :width], curvature)
        else:
            out = faster(fused_drop, drop, mean, curvature)
        return (out if back is None else boost(out, back, curvature)).to(dtype)


def kernel_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which attention multiplies tensors such as x."""
    if x.dtype == torch.float64 or not autocasts(x):
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)


def check_options(score: str, aggregate: str) -> None:
    """Refuse what attention has no rule for.

    Raises:
        ValueError: an unknown score or aggregate.
    """
    if score not in ("inner", "distance"):
        raise ValueError(f"score must be 'inner' or 'distance', got {score!r}")
    if aggregate not in ("centroid", "tangent"):
        raise ValueError(f"aggregate must be 'centroid' or 'tangent', got {aggregate!r}")


class HyperbolicAttention(nn.Module):
    """Attention of points between the projections of a block, with one learned gain a head.

    Args:
        num_heads: H, at least 1.
        curvature: c, or a shared `BallCurvature`.
        score: As in `hyperbolic_attention`.
        aggregate: As in `hyperbolic_attention`.
        recentre: Whether points are moved around their centroids for the kernel; None is where it
            runs in half precision.

    Shape:
        queries (B, H, T, D), keys and values (B, H, S, D) -> (B, H, T, D), all space parts. Keys
        and values may also be what `kept` made of them.

    Raises:
        ValueError: num_heads < 1, a curvature that is not positive, or an unknown option; at the
            call, another number of heads.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        curvature: float | BallCurvature = 1.0,
        score: Score = "inner",
        aggregate: Aggregate = "centroid",
        recentre: bool | None = None,
    ) -> None:
        """Make gains of 1."""
        super().__init__()
        check_sizes(1, num_heads=num_heads)
        check_options(score, aggregate)
        self.curvature = curvature_of(curvature)
        self.score: Score = score
        self.aggregate: Aggregate = aggregate
        self.recentre = recentre
        self.log_gain = nn.Parameter(torch.zeros(num_heads))
        exclude_from_decay(self, "log_gain")

    def reset_parameters(self) -> None:
        """Set the gains to 1."""
        nn.init.zeros_(self.log_gain)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        centre: Centre | None = None,
    ) -> Tensor:
        """Attend; a decoder gives what it keeps, and the centre of its prompt, which stays."""
        check_shape("query", query, "B", self.log_gain.shape[0], "T", "D")
        curvature = self.curvature()
        lifted = key.shape[-1] > query.shape[-1]
        if lifted and mask is None:
            out = fused_attention(query, key, value, self.log_gain, curvature)
            if out is not None:
                return out
        gain = self.log_gain.exp()[:, None, None]
        gain = gain.to(torch.promote_types(query.dtype, torch.float32))
        grouped = key.shape[1] != query.shape[1]
        if lifted:
            with without_autocast(query):
                lifted = faster(fused_covector, covector, query, curvature, gain)
            given = lifted, key, value, curvature
            out = attend_lifted(*given, mask=mask, causal=causal, grouped=grouped)
            return out.to(query.dtype)
        if centre is None:
            centre = self.centre_of_prompt(key, value)
        return hyperbolic_attention(
            *(query, key, value, curvature),
            mask=mask,
            causal=causal,
            gain=gain,
            score=self.score,
            aggregate=self.aggregate,
            centre=centre,
            grouped=grouped,
        )

    def centre_of_prompt(self, key: Tensor, value: Tensor) -> Centre | None:
        """Return what points are moved around, or None where they stay; a decoder keeps it."""
        if self._recentres(key) and key.numel():
            return centre_of(key, value, self.curvature())
        return None

    def kept(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a decoder keeps of its tokens: lifts, where the kernel reads just those."""
        if self._recentres(key) or self.score != "inner" or self.aggregate != "centroid":
            return key, value
        curvature = self.curvature()
        first, second = (faster(fused_lift, lift, x, curvature) for x in (key, value))
        return first, second

    def _recentres(self, key: Tensor) -> bool:
        """Whether points are moved around their centroids."""
        return kernel_dtype(key).itemsize < 4 if self.recentre is None else self.recentre

    def extra_repr(self) -> str:
        """Show the options."""
        return (
            f"num_heads={len(self.log_gain)}, score={self.score!r}, "
            f"aggregate={self.aggregate!r}, recentre={self.recentre}"
        )
