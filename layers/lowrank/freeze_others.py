"""Freezing what is no target of a method, with patterns on names for what stays trained."""

import difflib
import fnmatch
from collections.abc import Collection, Sequence

from torch import nn

__all__ = ["check_patterns", "freeze_others", "matches"]


def check_patterns(model: nn.Module, patterns: Sequence[str], setting: str = "train_also") -> None:
    """Refuse patterns on names of parameters, or of modules around them, that match nothing.

    Args:
        model: Has the names.
        patterns: Of the shell.
        setting: How the message calls them.

    Raises:
        ValueError: naming the pattern and the nearest names.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or names[:3]
            raise ValueError(
                f"{setting}: {pattern!r} matches no parameter; give patterns on names such as "
                f"{', '.join(near)}"
            )


def freeze_others(model: nn.Module, kept: Collection[int], patterns: Sequence[str]) -> list[str]:
    """Freeze every parameter but some, in place, and return the names of those that were trained.

    Args:
        model: Changed in place.
        kept: Parameters that are left as they are, by id.
        patterns: On full names of others that are.
    """
    frozen = []
    for name, parameter in model.named_parameters():
        left = id(parameter) in kept or any(matches(name, p) for p in patterns)
        if parameter.requires_grad and not left:
            parameter.requires_grad_(False)
            parameter.grad = None  # an optimiser would go on stepping on the last one
            frozen.append(name)
    return frozen


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern matches a parameter's name, or that of a module around it."""
    parts = name.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))
