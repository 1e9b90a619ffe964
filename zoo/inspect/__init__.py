"""Looking inside a model: depth mixing, orders, pictures, sizes."""

from .depth_mixing import Trace, depth_mixing_matrix, shadowing, trace
from .describe import describe, example_shape, measure, residual_of
from .disk import plot_disk, plot_tree, project_to_disk
from .plots import new_figure, plot_depth_mixing, plot_magnitudes
from .residual_expansion import residual_expansion

__all__ = [
    "Trace",
    "depth_mixing_matrix",
    "describe",
    "example_shape",
    "measure",
    "new_figure",
    "plot_depth_mixing",
    "plot_disk",
    "plot_magnitudes",
    "plot_tree",
    "project_to_disk",
    "residual_expansion",
    "residual_of",
    "shadowing",
    "trace",
]
