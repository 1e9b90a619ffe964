"""The registry of models: a builder function each."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..layers.hyperbolic import check_geometry
from .axes.adapters import apply_adapter
from .axes.lowrank import apply_lowrank
from .network import Network
from .recipe import Recipe, record
from .registry import Entry, Registry
from .trunk import Trunk

__all__ = [
    "HeadSpec",
    "build_model",
    "heads",
    "list_models",
    "model_info",
    "models",
    "register_model",
    "use_named_head",
]

Build = TypeVar("Build", bound=Callable[..., Network])

HeadSpec = str | Mapping[str, Any]

models = Registry("model")

heads = Registry("classifier", given=("model",))
"""Functions `(model, **settings)` that give a model a fresh head of their kind."""


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
        source: Where it comes from, such as `arXiv:2603.15031`, `Nesterov (1983)` or an address.
        kind: What the model reads: `image`, `features`, `tokens`, `nodes` or `graph`; a model of
            a `graph` reads `nodes` too.
        geometry: The space its features live in.
        weights: What its weight matrices are made of.
        extends: The class or builder that receives the builder's `**options`.

    Raises:
        ValueError: the name is taken.
    """
    return models.register(
        source=source, kind=kind, extends=extends, geometry=geometry, weights=weights
    )


def use_named_head(model: Network, spec: HeadSpec) -> None:
    """Give a model a fresh head of a registered kind, and note it on the model.

    Args:
        model: Changed in place.
        spec: A name, or a mapping with `name` and settings.

    Raises:
        ValueError: an unknown name or setting, or one out of range.
    """
    settings: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "name" not in settings:
        raise ValueError(
            f"classifier={settings!r} has no 'name'; give one of {', '.join(heads.names())}"
        )
    name = settings.pop("name")
    heads.build(name, model, **settings)
    defaults = {key: option.default for key, option in heads[name].options.items()}
    changed = {key: value for key, value in settings.items() if value != defaults[key]}
    record(model, classifier={"name": name, **changed} if changed else name)


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
        overrides: Keywords of its builder, and three that every model takes: `classifier`, the
            kind of its head, `lowrank` and `adapter`.

    Raises:
        ValueError: unknown name or keyword, a value of another type or out of range, or layers in
            a sequence that do not read what the one before returns.
    """
    entry = models[name]
    classifier, lowrank = overrides.pop("classifier", None), overrides.pop("lowrank", None)
    adapter = overrides.pop("adapter", None)
    entry.check(overrides)
    model = entry.build(**overrides)
    check_geometry(model)
    for module in model.modules():
        if isinstance(module, Trunk):
            module.check_branches()
    changed = {k: v for k, v in overrides.items() if v != entry.options[k].default}
    model.recipe = Recipe(name, changed)
    if classifier is not None:
        use_named_head(model, classifier)
    if lowrank is not None:
        apply_lowrank(model, lowrank)
    if adapter is not None:
        apply_adapter(model, adapter)
    return model
