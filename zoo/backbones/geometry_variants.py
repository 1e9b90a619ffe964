"""Models that differ from another in their geometry: a name each, and one line of a table."""

from collections.abc import Callable
from typing import Any

from ..axes.geometry import GeometryName
from ..models import models, register_model
from ..network import Network
from .gpt import gpt_nano, gpt_tiny
from .mlp import mlp_tiny
from .resnet import resnet20, resnet_nano
from .vit import vit_nano, vit_tiny

__all__ = ["GEOMETRIES"]

GEOMETRIES: list[tuple[str, Callable[..., Network], GeometryName]] = [
    ("lorentz_vit_nano", vit_nano, "lorentz"),
    ("lorentz_vit_tiny", vit_tiny, "lorentz"),
    ("poincare_vit_nano", vit_nano, "poincare"),
    ("lorentz_gpt_nano", gpt_nano, "lorentz"),
    ("lorentz_gpt_tiny", gpt_tiny, "lorentz"),
    ("lorentz_resnet_nano", resnet_nano, "lorentz"),
    ("lorentz_resnet20", resnet20, "lorentz"),
    ("lorentz_mlp_tiny", mlp_tiny, "lorentz"),
]
"""Name, model and geometry; size, input and residual are the model's."""

TITLES = {"lorentz": "on the hyperboloid", "poincare": "in the Poincaré ball"}
SPACES = {"lorentz": "Hyperboloid", "poincare": "Poincaré ball"}
SOURCES = {"lorentz": "arXiv:2105.14686", "poincare": "arXiv:2006.08210"}


def _register(name: str, base: Callable[..., Network], space: GeometryName) -> None:
    """Give a model in another geometry a name of its own."""

    def build(geometry: GeometryName = space, **options: Any) -> Network:
        return base(geometry=geometry, **options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{base.__name__} {TITLES[space]}."
    about = {**models[base.__name__].about, "geometry": SPACES[space]}
    kind = models[base.__name__].kind
    register_model(source=SOURCES[space], kind=kind, extends=base, **about)(build)


for _variant in GEOMETRIES:
    _register(*_variant)
