"""What `--help` says, of `archzoo` and of each command."""

import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .known_commands import names, summary

__all__ = ["command_help", "described", "spelt", "whole_help"]


def whole_help() -> str:
    """Every command in a line, and what they have in common."""
    known = names()
    width = max(map(len, known))
    rows = [f"  {name:<{width}}  {summary(name)}" for name in known]
    return "\n".join(
        [
            "archzoo COMMAND [WORD …] [key=value …]",
            "",
            "Residual, hyperbolic, Lipschitz and low-rank architectures, trained and measured.",
            "",
            *rows,
            "",
            "archzoo COMMAND --help says what a command takes, with examples; --json prints what",
            "it found as JSON. Exit codes: 0; 1 for what failed or is refuted; 2 for wrong usage.",
            "",
            "  archzoo train                               the default run, a minute",
            "  archzoo list residuals                      what residual= may be",
            "  archzoo train model.residual=attnres        another residual",
            "  archzoo --version",
        ]
    )


def command_help(name: str, function: Callable[..., Any]) -> str:
    """The docstring of a command's module, then a line for every key: default, type, meaning."""
    from .arguments import in_words  # imports torch, which the list of commands does not need

    parameters = inspect.signature(function).parameters.values()
    shown, told = [], described(function)
    words = []
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            words.append(f"{p.name.upper()}…")
        elif p.kind is p.POSITIONAL_OR_KEYWORD:
            words.append(p.name.upper() if p.default is p.empty else f"[{p.name.upper()}]")
        key = p.name.upper() if p.kind is p.VAR_POSITIONAL else p.name
        default = "" if p.default is p.empty else f"={spelt(p.default)}"
        shown.append((f"{key}{default}", in_words(p.annotation), told.get(p.name, "")))
    lines = [f"archzoo {' '.join([name, *words])} [key=value …] [--json]", ""]
    lines += [(sys.modules[function.__module__].__doc__ or "").strip(), "", "Keys and defaults:"]
    for key, kind, meaning in shown:
        lines += [f"  {key}", f"      {kind}: {meaning}" if meaning else f"      {kind}"]
    return "\n".join(lines)


def described(function: Callable[..., Any]) -> Mapping[str, str]:
    """What the docstrings of a command, and of the schemas that it takes, say of each parameter."""
    found: dict[str, str] = {}
    known = inspect.signature(function).parameters
    schemas = reversed(getattr(function, "schemas", ()))
    bases = (base for schema in schemas for base in reversed(getattr(schema, "__mro__", (schema,))))
    for source in (*bases, function):
        part = re.search(r"^Args:\n((?: .*\n?|\n(?= ))*)", inspect.getdoc(source) or "", re.M)
        for entry in re.split(r"^ {4}(?=\S)", part[1] if part else "", flags=re.M)[1:]:
            key, _, text = entry.partition(":")
            found[key.lstrip("*")] = " ".join(text.split())
    return {key: text for key, text in found.items() if key in known or key == "options"}


def spelt(value: Any) -> str:
    """A default as the command line spells it."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./*-]+", value) else json.dumps(value)
    if isinstance(value, Sequence):
        return f"[{','.join(map(spelt, value))}]"
    return json.dumps(value)
