"""The commands of `archzoo`: one for every file in `train/commands/`.

The file `train/commands/NAME.py` holds the function `NAME`, or `NAME_` where Python has a name like
that. The function's signature is the schema of the command line, its module's docstring the help.
Names and summaries are read without importing a command, most of which import torch.
"""

import ast
import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

from .. import commands
from .answer import Answer

__all__ = ["command", "names", "summary"]


def names() -> list[str]:
    """List the commands."""
    found = pkgutil.iter_modules(commands.__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def summary(name: str) -> str:
    """The first line of a command's docstring, without its full stop."""
    source = (Path(commands.__path__[0]) / f"{name}.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].rstrip(".")


def command(name: str) -> Callable[..., Answer | None]:
    """Import a command and return its function."""
    module = importlib.import_module(f"{commands.__name__}.{name}")
    return getattr(module, name if hasattr(module, name) else f"{name}_")
