"""Models that differ from another in residual or geometry alone: a name each, a line of a table."""

from collections.abc import Callable
from typing import Any

from ..axes.geometry import GeometryName
from ..axes.residuals import ResidualSpec, residuals
from ..models import models, register_model
from ..network import Network
from .gcn import gcn_nano, gcn_small
from .gpt import gpt_124m, gpt_353m, gpt_nano, gpt_tiny
from .mlp import mlp_small, mlp_tiny
from .poincare_resnet import poincare_resnet20
from .resnet import resnet20, resnet_nano
from .vit import vit_base, vit_nano, vit_small, vit_tiny

__all__ = ["GEOMETRIES", "VARIANTS"]

VARIANTS = [
    ("vit_nano_block_attnres", vit_nano, "block_attnres"),
    ("vit_tiny_block_attnres", vit_tiny, "block_attnres"),
    ("vit_small_block_attnres", vit_small, "block_attnres"),
    ("vit_base_block_attnres", vit_base, "block_attnres"),
    ("gpt_nano_block_attnres", gpt_nano, "block_attnres"),
    ("gpt_tiny_block_attnres", gpt_tiny, "block_attnres"),
    ("gpt_124m_block_attnres", gpt_124m, "block_attnres"),
    ("gpt_353m_block_attnres", gpt_353m, "block_attnres"),
    ("gpt_124m_delta", gpt_124m, "delta"),
    ("gpt_124m_delta_cc", gpt_124m, "delta_cc"),
    ("resnet_nano_block_attnres", resnet_nano, "block_attnres"),
    ("resnet20_block_attnres", resnet20, "block_attnres"),
    ("mlp_small_block_attnres", mlp_small, "block_attnres"),
    ("poincare_resnet20_gyro_attnres", poincare_resnet20, "gyro_block_attnres"),
]
"""Name, model and residual; size, input and geometry are the model's, the source the residual's."""

TITLES = {
    "block_attnres": "Block Attention Residuals",
    "delta": "Deep Delta Learning on the plain stream",
    "delta_cc": "Deep Delta Learning on a state of four columns",
    "gyro_block_attnres": "Block Attention Residuals of the ball in each stage",
}


def _register(name: str, base: Callable[..., Network], mechanism: str) -> None:
    """Give a model with another residual a name of its own."""

    def build(residual: ResidualSpec = mechanism, **options: Any) -> Network:
        return base(residual=residual, **options)

    entry = models[base.__name__]
    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{base.__name__} with {TITLES[mechanism]}."
    source = residuals[mechanism].source
    register_model(source=source, kind=entry.kind, extends=base, **entry.about)(build)


for _variant in VARIANTS:
    _register(*_variant)


GEOMETRIES: list[tuple[str, Callable[..., Network], GeometryName]] = [
    ("lorentz_vit_nano", vit_nano, "lorentz"),
    ("lorentz_vit_tiny", vit_tiny, "lorentz"),
    ("poincare_vit_nano", vit_nano, "poincare"),
    ("lorentz_gpt_nano", gpt_nano, "lorentz"),
    ("lorentz_gpt_tiny", gpt_tiny, "lorentz"),
    ("lorentz_resnet_nano", resnet_nano, "lorentz"),
    ("lorentz_resnet20", resnet20, "lorentz"),
    ("lorentz_mlp_tiny", mlp_tiny, "lorentz"),
    ("lorentz_gcn_nano", gcn_nano, "lorentz"),
    ("lorentz_gcn_small", gcn_small, "lorentz"),
    ("poincare_gcn_nano", gcn_nano, "poincare"),
    ("poincare_gcn_small", gcn_small, "poincare"),
]
"""Name, model and geometry; size, input and residual are the model's."""

SPACES = {
    "lorentz": ("on the hyperboloid", "Hyperboloid", "arXiv:2105.14686"),
    "poincare": ("in the Poincaré ball", "Poincaré ball", "arXiv:2006.08210"),
}
"""Where a model is, its space, and the source of its layers."""


def _register_in(name: str, base: Callable[..., Network], space: GeometryName) -> None:
    """Give a model in another geometry a name of its own."""

    def build(geometry: GeometryName = space, **options: Any) -> Network:
        return base(geometry=geometry, **options)

    where, geometry, source = SPACES[space]
    entry = models[base.__name__]
    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{base.__name__} {where}."
    about = {**entry.about, "geometry": geometry}
    register_model(source=source, kind=entry.kind, extends=base, **about)(build)


for _variant in GEOMETRIES:
    _register_in(*_variant)
