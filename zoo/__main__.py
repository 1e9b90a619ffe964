"""Look around in the zoo: `python -m archzoo.zoo` or `archzoo-models`."""

import argparse
import sys

from . import list_models, model_info, residuals
from .axes.lowrank import methods
from .inspect.describe import describe, example_shape, measure, residual_of
from .registry import Registry, nearest, type_name
from .user_modules import import_modules

__all__ = ["main"]


def main() -> None:
    """List models and mechanisms, or describe one."""
    parser = argparse.ArgumentParser(
        prog="archzoo-models", description="List the models of the zoo, or describe one."
    )
    parser.add_argument(
        "pattern", nargs="?", default="*", help='a name, or a shell pattern such as "vit_*"'
    )
    parser.add_argument("--names", action="store_true", help="print names only, without building")
    parser.add_argument("--residuals", action="store_true", help="list the residual mechanisms")
    parser.add_argument("--lowrank", action="store_true", help="list the low-rank methods")
    parser.add_argument(
        "--imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module of your own, or ./FILE.py, with parts to list as well; may be repeated",
    )
    arguments = parser.parse_args()
    try:
        import_modules(arguments.imports)
    except ValueError as error:
        sys.exit(f"archzoo-models: {error}")
    if arguments.residuals or arguments.lowrank:
        print(_option_table(methods if arguments.lowrank else residuals, arguments.pattern))
        return
    names = list_models(arguments.pattern)
    if not names:
        hint = nearest(arguments.pattern, list_models())
        sys.exit(f"archzoo-models: no model matches {arguments.pattern!r}{hint}")
    if arguments.names:
        print("\n".join(names))
    elif names == [arguments.pattern]:
        print(describe(arguments.pattern))
    else:
        print(_model_table(names))


def _model_table(names: list[str]) -> str:
    rows = [("model", "parameters", "MACs", "input", "residual", "source")]
    for name in names:
        entry, size = model_info(name), measure(name)
        shape = "×".join(map(str, example_shape(entry)))
        residual = residual_of(entry)
        parameters, macs = f"{size.parameters / 1e6:.2f} M", f"{size.macs / 1e6:,.1f} M"
        rows.append((name, parameters, macs, f"{entry.kind} {shape}", residual, entry.source))
    return _table(rows)


def _option_table(registry: Registry, pattern: str) -> str:
    rows = [(registry.noun, "source", "options")]
    for name in registry.names(pattern):
        entry = registry[name]
        options = [f"{o.name}: {type_name(o.type)} = {o.default}" for o in entry.options.values()]
        rows.append((name, entry.source, ", ".join(options) or "none"))
    return _table(rows)


def _table(rows: list[tuple[str, ...]]) -> str:
    """Align the columns; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    main()
