"""Hyperbolic geometry: pure functions on the ball and the hyperboloid, and layers over tangents."""

from . import lorentz, poincare
from .ball import MARGINS, check_curvature, check_points, default_margin, project
from .conv import PoincareConv2d, poincare_conv2d
from .coordinates import (
    ball_to_velocity,
    tangent_to_velocity,
    velocity_to_ball,
    velocity_to_tangent,
)
from .curvature import BallCurvature, check_one_ball
from .linear import PoincareLinear, poincare_linear
from .norm import MidpointBatchNorm, midpoint_batch_norm

__all__ = [
    "MARGINS",
    "BallCurvature",
    "MidpointBatchNorm",
    "PoincareConv2d",
    "PoincareLinear",
    "ball_to_velocity",
    "check_curvature",
    "check_one_ball",
    "check_points",
    "default_margin",
    "lorentz",
    "midpoint_batch_norm",
    "poincare",
    "poincare_conv2d",
    "poincare_linear",
    "project",
    "tangent_to_velocity",
    "velocity_to_ball",
    "velocity_to_tangent",
]
