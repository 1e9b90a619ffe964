"""The page of everything that has a name, docs/reference.md.

`python -m tests.reference` writes it, and the written parts of the other pages (`docs/written.py`).
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from archzoo.train.callbacks import callbacks, distillations
from archzoo.train.command_line.known_commands import names, summary
from archzoo.train.data import data_sets
from archzoo.train.engine.loggers import loggers
from archzoo.zoo import residuals
from archzoo.zoo.axes.adapters import presets
from archzoo.zoo.axes.lowrank import methods
from archzoo.zoo.inspect.describe import residual_of
from archzoo.zoo.models import heads, models
from archzoo.zoo.registry import Entry, Registry

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference.md"

HEAD = """# Everything by name

Written from the registries by `python -m tests.reference`; a test compares. A module of your own
adds to every list here ([extend.md](extend.md)).
"""


def linked(source: str) -> str:
    """A source with its arXiv numbers as links."""
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[\1](https://arxiv.org/abs/\1)", source)


def shown(value: Any) -> str:
    """A default as the command line spells it."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./*-]+", value) else json.dumps(value)
    return json.dumps(value if isinstance(value, int | float | None) else list(value))


def keys(entry: Entry) -> str:
    """The keywords of a builder with their defaults."""
    return ", ".join(f"`{o.name}={shown(o.default)}`" for o in entry.options.values())


def table(*rows: Iterable[str]) -> str:
    """A table whose first row is its head."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(cells[0]), *lines[1:]])


def parts(registry: Registry, *, source: bool = True) -> str:
    """A registry with what its entries are, where they come from and what they take."""
    head = ("name", "what it is", *["source"] * source, "keys and defaults")
    entries = [registry[name] for name in registry.names()]
    rows = [(f"`{e.name}`", e.summary, *[linked(e.source)] * source, keys(e)) for e in entries]
    return table(head, *rows)


def page() -> str:
    """The whole page."""
    known = [models[name] for name in models.names()]
    sections = {
        "Commands": table(
            ("command", "what it does"),
            *((f"`archzoo {name}`", summary(name)) for name in names()),
        ),
        "Models": table(
            ("`model=`", "what it is", "reads", "residual", "geometry", "weights", "source"),
            *(
                (
                    f"`{e.name}`", e.summary, e.kind, f"`{residual_of(e)}`",
                    e.about["geometry"], e.about["weights"], linked(e.source),
                )
                for e in known
            ),
        ),
        "Residuals: `residual=`": parts(residuals),
        "Low-rank methods: `lowrank=`": parts(methods),
        "Distillation: `distill=`": parts(distillations),
        "Adapters: `adapter=`": parts(presets),
        "Heads: `classifier=`": parts(heads),
        "Data sets: `data=`": parts(data_sets),
        "Callbacks: `callbacks=[…]`": parts(callbacks, source=False),
        "Loggers: `logger=[…]`": parts(loggers, source=False),
    }  # fmt: skip
    return "\n".join([HEAD, *(f"## {name}\n\n{text}\n" for name, text in sections.items())])


if __name__ == "__main__":
    from .docs.written import write_parts

    PAGE.write_text(page())
    write_parts()
