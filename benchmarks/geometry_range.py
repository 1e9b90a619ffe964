"""What numbers curved spaces serve: far points, extreme inputs, flat limits, and whole trainings.

Attention of points, in float32 and in half precision: queries, keys and values are clusters of
spread one half at R radii from the origin (c = 1, 64 tokens of 32 channels). The figure is the
largest geodesic distance between the output and that of float64 at the same numbers, in radii; it
is at most 2R. Half precision is autocast over float32 points, with recentring and without.
`published` is the form of public code in the same dtype: points with their time, scores and weights
written out, |⟨mean, mean⟩| held at 1e-8.

Bars: recentred half precision within 2e-2 radii up to R = 4, and float32 within 1e-3.

Whole models are in `geometry_limits.py`, trainings of 200 steps in `geometry_training.py`.
"""

from typing import Any

import torch
from archzoo.layers.hyperbolic import (
    HyperbolicAttention,
    hyperbolic_attention,
    lorentz,
    space_points,
)
from geometry_limits import limits
from geometry_training import training
from harness import Bar, Measurement, main
from torch import Tensor
from torch.nn import functional as F

RADII = (1.0, 2.0, 4.0, 6.0, 8.0)
HEADS, TOKENS, WIDTH = 4, 64, 32


def clusters(radius: float, seed: int) -> list[Tensor]:
    """Draw float32 queries, keys and values, each cluster in a direction of its own."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(3):
        direction = torch.randn(1, HEADS, 1, WIDTH, generator=g, dtype=torch.float64)
        centre = torch.tensor(radius).sinh() * F.normalize(direction, dim=-1)
        near = torch.randn(1, HEADS, TOKENS, WIDTH, generator=g, dtype=torch.float64)
        found.append(space_points.boost(0.5 * near / WIDTH**0.5, centre, 1.0).float())
    # Queries meet keys where keys are: scores are then not those of one key alone.
    found[0] = space_points.boost(0.5 * near / WIDTH**0.5, _centre(found[1]), 1.0).float()
    return found


def _centre(s: Tensor) -> Tensor:
    return space_points.centroid(s.double(), 1.0, over=2).unsqueeze(2)


def published(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as public code computes it."""
    q, k, v = (torch.cat([(1 + s.square().sum(-1, keepdim=True)).sqrt(), s], -1) for s in (q, k, v))
    flipped = torch.cat([-q[..., :1], q[..., 1:]], -1)
    mean = (flipped @ k.mT / WIDTH**0.5).softmax(-1) @ v
    product = lorentz.minkowski(mean, mean).abs().clamp_min(1e-8)
    return (mean / product.sqrt())[..., 1:]


def errors(radius: float, seed: int) -> dict[str, float]:
    """Return the error of each form, in radii."""
    given = clusters(radius, seed)
    exact = hyperbolic_attention(*(x.double() for x in given), 1.0)
    recentred, where_it_is = (HyperbolicAttention(HEADS, recentre=on) for on in (True, False))
    with torch.no_grad():
        found = {
            "float32": where_it_is(*given),
            "float32, recentred": recentred(*given),
            "float32, published": published(*given),
        }
        with torch.autocast("cpu", torch.bfloat16):
            found["bfloat16"] = where_it_is(*given)
            found["bfloat16, recentred"] = recentred(*given)
        found["bfloat16, published"] = published(*(x.bfloat16() for x in given))
    return {
        name: space_points.distance(x.double(), exact, 1.0).max().item()
        for name, x in found.items()
    }


def attention(quick: bool) -> tuple[list[dict[str, Any]], list[Bar]]:
    """Measure one seed or five."""
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for radius in RADII:
        found = [errors(radius, seed) for seed in range(1 if quick else 5)]
        worst = {name: max(each[name] for each in found) for name in found[0]}
        rows.append({"radii": radius} | worst)
        if radius <= 4:
            bars.append(
                Bar(f"bfloat16, recentred, R = {radius:g}", worst["bfloat16, recentred"], 2e-2)
            )
            bars.append(Bar(f"float32, R = {radius:g}", worst["float32"], 1e-3))
    return rows, bars


def measure(quick: bool) -> Measurement:
    """Measure attention, models and trainings."""
    torch.set_num_threads(1)
    rows, bars = [], []
    for part in (attention, limits, training):
        more, judged = part(quick)
        rows += more
        bars += judged
    return rows, bars


if __name__ == "__main__":
    main("geometry_range", measure)
