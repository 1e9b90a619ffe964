"""Hyperbolic geometry: pure functions on the ball and the hyperboloid, and layers over tangents."""

from . import lorentz, poincare
from .activation import PointActivation, poincare_relu, tangent_activation
from .compatibility import check_geometry
from .conv import PoincareConv2d, poincare_conv2d
from .curvature import BallCurvature, ChangeBall, check_one_ball, curvature_of, keep_one_ball
from .embedding import PoincareEmbedding, distance_logits
from .head import PoincareMLR, poincare_mlr
from .linear import PoincareLinear, poincare_linear
from .maths.ball import MARGINS, check_curvature, check_points, default_margin, project
from .maths.coordinates import (
    Coordinates,
    ball_to_velocity,
    tangent_to_velocity,
    velocity_to_ball,
    velocity_to_tangent,
)
from .midpoint import MidpointPool, midpoint_pool, velocity_midpoint
from .mobius_addition import mobius_add_tangents
from .norm import MidpointBatchNorm, midpoint_batch_norm
from .to_ball import ClipTangent, FromBall, ToBall, clip_tangent

__all__ = [
    "MARGINS",
    "BallCurvature",
    "ChangeBall",
    "ClipTangent",
    "Coordinates",
    "FromBall",
    "MidpointBatchNorm",
    "MidpointPool",
    "PoincareConv2d",
    "PoincareEmbedding",
    "PoincareLinear",
    "PoincareMLR",
    "PointActivation",
    "ToBall",
    "ball_to_velocity",
    "check_curvature",
    "check_geometry",
    "check_one_ball",
    "check_points",
    "clip_tangent",
    "curvature_of",
    "default_margin",
    "distance_logits",
    "keep_one_ball",
    "lorentz",
    "midpoint_batch_norm",
    "midpoint_pool",
    "mobius_add_tangents",
    "poincare",
    "poincare_conv2d",
    "poincare_linear",
    "poincare_mlr",
    "poincare_relu",
    "project",
    "tangent_activation",
    "tangent_to_velocity",
    "velocity_midpoint",
    "velocity_to_ball",
    "velocity_to_tangent",
]
