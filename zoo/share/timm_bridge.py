"""Make every model of the zoo available to timm's `create_model` and training script."""

import sys
import types
from collections.abc import Callable
from typing import Any

from ..models import build_model, list_models, models

__all__ = ["register_with_timm"]

# Keywords that timm passes to every builder and that say nothing where they are empty.
TIMM_ONLY = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
    "scriptable",
)


def register_with_timm() -> list[str]:
    """Register every model under its own name and return the names; a second call does nothing.

    Raises:
        ValueError: timm has a model of the same name.
    """
    from timm.models import is_model
    from timm.models import register_model as register

    module = sys.modules.setdefault("archzoo_timm", types.ModuleType("archzoo_timm"))
    new = [name for name in list_models() if not hasattr(module, name)]
    taken = [name for name in new if is_model(name)]
    if taken:
        raise ValueError(f"timm already has models named {taken}; nothing was registered")
    for name in new:
        build = _adapter(name)
        setattr(module, name, build)
        register(build)
    return list_models()


def _adapter(name: str) -> Callable[..., Any]:
    """Wrap a builder so that it takes timm's keywords and refuses those it cannot honour."""

    def build(**keywords: Any) -> Any:
        known = models[name].options
        if keywords.get("pretrained"):
            raise ValueError(f"{name} has no pretrained weights; use pretrained=False")
        options = {}
        for key, value in keywords.items():
            empty = value is None or value == 0.0 or value is False
            if key not in known and (key in TIMM_ONLY or empty):
                continue
            options[key] = value
        return build_model(name, **options)

    build.__name__ = build.__qualname__ = name
    build.__module__ = "archzoo_timm"
    build.__doc__ = models[name].summary
    return build
