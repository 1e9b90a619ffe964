"""What models vary along, by name: residuals, geometries, low-rank methods and adapters."""

from .adapters import adapter_info, apply_adapter, make_adapter, presets, saved_adapter
from .geometry import Geometry, GeometryName, HeadName, Init, make_geometry
from .lowrank import apply_lowrank, make_method, merge_lowrank, method_info, methods, saved_lowrank
from .residuals import ResidualSpec, make_residual, residual_config, residuals

__all__ = [
    "Geometry",
    "GeometryName",
    "HeadName",
    "Init",
    "ResidualSpec",
    "adapter_info",
    "apply_adapter",
    "apply_lowrank",
    "make_adapter",
    "make_geometry",
    "make_method",
    "make_residual",
    "merge_lowrank",
    "method_info",
    "methods",
    "presets",
    "residual_config",
    "residuals",
    "saved_adapter",
    "saved_lowrank",
]
