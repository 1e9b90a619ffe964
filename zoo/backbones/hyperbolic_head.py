"""Euclidean backbones with a hyperbolic head: clipped features, distances to hyperplanes.

Source: Guo et al. 2022, "Clipped Hyperbolic Classifiers Are Super-Hyperbolic Classifiers",
arXiv:2107.11472; for vision transformers Ermolov et al. 2022, arXiv:2203.10833.
Differs from them: a tangent enters the head as it is, with no point of the ball in between.
"""

import functools
from typing import Any

from ...layers.hyperbolic import BallCurvature, PoincareMLR
from ..models import heads, register_model, use_named_head
from ..network import ImageSize, Network
from .vit import VisionTransformer, vit_tiny

__all__ = ["use_hyperbolic_head"]

CLIPPED = "arXiv:2107.11472"
GEOMETRY = "Euclidean, head in the Poincaré ball"


def use_hyperbolic_head(
    model: Network,
    *,
    curvature: float | None = None,
    learned_curvature: bool = False,
    clip: float | None = 1.0,
) -> Network:
    """Give any model a fresh head of distances to hyperplanes of the ball.

    Args:
        model: A model of the zoo; changed in place.
        curvature: c > 0; None is 1, or the ball that the model itself lies in.
        learned_curvature: Whether c is learned; a model's own ball is learned or not as it is.
        clip: Longest feature vector that enters the ball; None is any.

    Returns:
        The model.

    Raises:
        ValueError: a curvature or a clip that is not positive, or a curvature for a model that
            lies in a ball already.
    """
    settings = {"curvature": curvature, "learned_curvature": learned_curvature, "clip": clip}
    use_named_head(model, {"name": "hyperbolic", **settings})
    return model


@heads.register(source=CLIPPED)
def hyperbolic(
    model: Network,
    *,
    curvature: float | None = None,
    learned_curvature: bool = False,
    clip: float | None = 1.0,
) -> None:
    """Distances to hyperplanes of the ball, of features that are clipped."""
    if model.shared.get("coordinates") == "space":
        raise ValueError(
            f"{type(model).__name__} has geometry='lorentz', and a clipped head reads tangents of "
            f"the ball; choose its own head='mlr' instead"
        )
    ball = model.shared.get("curvature")
    if ball is None:
        ball = BallCurvature(1.0 if curvature is None else curvature, learned=learned_curvature)
    elif curvature is not None or learned_curvature:
        raise ValueError(
            f"{type(model).__name__} lies in a ball, and its head in the same one; leave curvature "
            f"and learned_curvature out, got {curvature} and {learned_curvature}"
        )
    model.use_head(functools.partial(PoincareMLR, curvature=ball, clip=clip))


@register_model(source=CLIPPED, kind="image", geometry=GEOMETRY, extends=vit_tiny)
def hyperbolic_vit_head(
    curvature: float = 1.0,
    learned_curvature: bool = False,
    clip: float | None = 1.0,
    **options: Any,
) -> VisionTransformer:
    """ViT-Ti/16 with a hyperbolic head."""
    ball = {"curvature": curvature, "learned_curvature": learned_curvature, "clip": clip}
    model = vit_tiny(**options)
    use_hyperbolic_head(model, **ball)
    return model


@register_model(source=CLIPPED, kind="image", geometry=GEOMETRY, extends=hyperbolic_vit_head)
def hyperbolic_vit_head_nano(
    num_classes: int = 10,
    in_chans: int = 1,
    img_size: ImageSize = 8,
    patch_size: int = 2,
    width: int = 64,
    depth: int = 4,
    num_heads: int = 4,
    **options: Any,
) -> VisionTransformer:
    """The smallest ViT, as `vit_nano`, with a hyperbolic head."""
    image = {"in_chans": in_chans, "img_size": img_size, "patch_size": patch_size}
    sizes = {"width": width, "depth": depth, "num_heads": num_heads}
    return hyperbolic_vit_head(num_classes=num_classes, **image, **sizes, **options)
