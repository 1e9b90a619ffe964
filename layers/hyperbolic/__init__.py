"""Hyperbolic geometry: pure functions of points, and layers over tangents and space parts."""

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
from .maths.space_parts import covector, drop, lift
from .midpoint import MidpointPool, midpoint_pool, velocity_midpoint
from .mobius_addition import mobius_add_tangents
from .norm import MidpointBatchNorm, midpoint_batch_norm
from .space import space_points
from .space.attention import HyperbolicAttention, attend_lifted, hyperbolic_attention
from .space.centroid_pool import CentroidPool
from .space.gated_linear import GatedLorentzLinear, gated_linear
from .space.hyperplane_linear import HyperplaneLinear, hyperplane_linear
from .space.lorentz_conv import LorentzConv2d, lorentz_conv2d
from .space.lorentz_head import LorentzMLR, LorentzPrototypes, lorentz_mlr, prototype_logits
from .space.lorentz_linear import LorentzLinear, lorentz_linear
from .space.lorentz_norm import LorentzBatchNorm, lorentz_batch_norm
from .space.point_projection import PointProjection
from .space.recentring import Centre, centre_of
from .space.tangent_norm import TangentNorm, tangent_norm
from .to_ball import ClipTangent, FromBall, ToBall, clip_tangent

__all__ = [
    "MARGINS",
    "BallCurvature",
    "Centre",
    "CentroidPool",
    "ChangeBall",
    "ClipTangent",
    "Coordinates",
    "FromBall",
    "GatedLorentzLinear",
    "HyperbolicAttention",
    "HyperplaneLinear",
    "LorentzBatchNorm",
    "LorentzConv2d",
    "LorentzLinear",
    "LorentzMLR",
    "LorentzPrototypes",
    "MidpointBatchNorm",
    "MidpointPool",
    "PoincareConv2d",
    "PoincareEmbedding",
    "PoincareLinear",
    "PoincareMLR",
    "PointActivation",
    "PointProjection",
    "TangentNorm",
    "ToBall",
    "attend_lifted",
    "ball_to_velocity",
    "centre_of",
    "check_curvature",
    "check_geometry",
    "check_one_ball",
    "check_points",
    "clip_tangent",
    "covector",
    "curvature_of",
    "default_margin",
    "distance_logits",
    "drop",
    "gated_linear",
    "hyperbolic_attention",
    "hyperplane_linear",
    "keep_one_ball",
    "lift",
    "lorentz",
    "lorentz_batch_norm",
    "lorentz_conv2d",
    "lorentz_linear",
    "lorentz_mlr",
    "midpoint_batch_norm",
    "midpoint_pool",
    "mobius_add_tangents",
    "poincare",
    "poincare_conv2d",
    "poincare_linear",
    "poincare_mlr",
    "poincare_relu",
    "project",
    "prototype_logits",
    "space_points",
    "tangent_activation",
    "tangent_norm",
    "tangent_to_velocity",
    "velocity_midpoint",
    "velocity_to_ball",
    "velocity_to_tangent",
]
