"""Hyperbolic geometry: the Poincaré ball and the hyperboloid as pure functions."""

from . import lorentz, poincare
from .ball import MARGINS, check_curvature, check_points, default_margin, project

__all__ = [
    "MARGINS",
    "check_curvature",
    "check_points",
    "default_margin",
    "lorentz",
    "poincare",
    "project",
]
