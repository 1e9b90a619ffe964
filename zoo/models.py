"""The registry of models: a builder function each."""

from collections.abc import Callable
from typing import Any, TypeVar

from ..layers.hyperbolic import check_geometry
from .lowrank import apply_lowrank
from .network import Network
from .registry import Entry, Registry
from .trunk import Trunk

__all__ = ["build_model", "list_models", "model_info", "models", "register_model"]

Build = TypeVar("Build", bound=Callable[..., Network])

models = Registry("model")


def register_model(
    *,
    source: str,
    kind: str,
    geometry: str = "Euclidean",
    weights: str = "dense",
    extends: Callable[..., Any] | None = None,
) -> Callable[[Build], Build]:
    """Decorate a builder function: its name becomes the model's, its signature the schema.

    Args:
        source: The paper, such as `arXiv:2603.15031`.
        kind: What the model reads: `image`, `features`, `tokens` or `nodes`.
        geometry: The space its features live in.
        weights: What its weight matrices are made of.
        extends: The class or builder that receives the builder's `**options`.

    Raises:
        ValueError: the name is taken.
    """
    return models.register(
        source=source, kind=kind, extends=extends, geometry=geometry, weights=weights
    )


def list_models(pattern: str = "*") -> list[str]:
    """List the names that match a shell pattern, such as `"vit_*attnres"`."""
    return models.names(pattern)


def model_info(name: str) -> Entry:
    """Return what the registry knows of a model: source, kind, options with types and defaults.

    Raises:
        ValueError: no such model; the message names the nearest.
    """
    return models[name]


def build_model(name: str, **overrides: Any) -> Network:
    """Build a registered model and note on it how it was made.

    Args:
        name: Of the model.
        overrides: Keywords of its builder, and `lowrank`, which every model takes.

    Raises:
        ValueError: unknown name or keyword, a value of another type or out of range, or layers in
            a sequence that do not read what the one before returns.
    """
    entry = models[name]
    lowrank = overrides.pop("lowrank", None)
    entry.check(overrides)
    model = entry.build(**overrides)
    check_geometry(model)
    for module in model.modules():
        if isinstance(module, Trunk):
            module.check_branches()
    changed = {k: v for k, v in overrides.items() if v != entry.options[k].default}
    model.recipe = (name, changed)
    if lowrank is not None:
        apply_lowrank(model, lowrank)
    return model
