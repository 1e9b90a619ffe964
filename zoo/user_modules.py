"""Modules of the user's own, outside this package, whose parts register themselves when imported.

    imports=[my_module]           importable, such as on PYTHONPATH
    imports=[./my_module.py]      a file

A model, residual, data set, low-rank method, adapter or callback that such a module registers is
then a choice like any other. A saved model names the modules that it cannot be built without.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .axes.adapters import presets
from .axes.lowrank import methods
from .axes.residuals import residuals
from .models import heads, models

__all__ = ["import_modules", "missing_modules", "modules_of"]

OURS = __name__.partition(".")[0]


def import_modules(names: Iterable[str]) -> list[str]:
    """Import each module once, and return its name, or the whole path of a file.

    The folder of a file is searched for what the file imports, as that of a script is.

    Args:
        names: Dotted names of modules, or paths that end in `.py`.

    Raises:
        ValueError: a module that is not there or cannot be imported, a file whose name another
            module has, or a part whose name is taken.
    """
    imported = []
    for name in names:
        try:
            imported.append(_import_file(name) if name.endswith(".py") else _import_name(name))
        except (ImportError, SyntaxError) as error:
            raise ValueError(f"imports=[{name}]: {' '.join(str(error).split())}") from error
    return imported


def missing_modules(names: Iterable[str]) -> list[str]:
    """List the modules that have not been imported."""
    return [name for name in names if name not in sys.modules]


def modules_of(name: str, options: Mapping[str, Any]) -> list[str]:
    """List the modules from outside this package without which a model cannot be built.

    Args:
        name: Of the model, as its recipe has it.
        options: Its changed keywords.
    """
    chosen = {
        "residual": residuals,
        "lowrank": methods,
        "adapter": presets,
        "classifier": heads,
    }
    parts = [(models, name), *((registry, options.get(key)) for key, registry in chosen.items())]
    found = []
    for registry, spec in parts:
        part = spec.get("name") if isinstance(spec, Mapping) else spec
        if part in registry:
            found.append(getattr(registry[part].build, "__module__", OURS))
    outside = [module for module in found if module.partition(".")[0] not in (OURS, "__main__")]
    return list(dict.fromkeys(outside))


def _import_name(name: str) -> str:
    """Import a module by its name."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it is there, and something that it imports is not
        beside = Path(*name.split(".")).with_suffix(".py")
        how = f"write imports=[./{beside}]" if beside.is_file() else "put it on PYTHONPATH"
        raise ImportError(f"there is no module {error.name}: {how}") from error
    return name


def _import_file(name: str) -> str:
    """Import a file under its own name, as `import` would from its folder."""
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise ImportError(f"there is no file {path}: put it back, or name it where it is now")
    if not path.stem.isidentifier():
        raise ImportError(f"{path.stem} is no name that Python can import: rename the file")
    spec = importlib.util.find_spec(path.stem)
    if spec is None or spec.origin is None:  # a mere folder of that name, such as a run's, is none
        sys.path.append(str(path.parent))
        importlib.invalidate_caches()
        spec = importlib.util.find_spec(path.stem)
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != path:
        raise ImportError(f"another module is called {path.stem}: rename the file")
    importlib.import_module(path.stem)
    return str(path)
