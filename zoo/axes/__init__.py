"""What models vary along, by name: residuals, geometries and low-rank methods."""

from .geometry import Geometry, GeometryName, HeadName, Init, make_geometry
from .lowrank import apply_lowrank, make_method, merge_lowrank, method_info, methods, saved_lowrank
from .residuals import ResidualSpec, make_residual, residual_config, residuals

__all__ = [
    "Geometry",
    "GeometryName",
    "HeadName",
    "Init",
    "ResidualSpec",
    "apply_lowrank",
    "make_geometry",
    "make_method",
    "make_residual",
    "merge_lowrank",
    "method_info",
    "methods",
    "residual_config",
    "residuals",
    "saved_lowrank",
]
