"""The user's own modules, named on the command line or recorded by a run."""

from collections.abc import Iterable, Sequence

from ..zoo.user_modules import import_modules
from .errors import RunError

__all__ = ["import_given", "import_parts"]


def import_given(arguments: Sequence[str]) -> None:
    """Import what a command names as `imports=[…]`, before the parts that it chooses are looked up.

    Raises:
        RunError: no list of modules, or a module that cannot be imported.
    """
    named = [text for text in arguments if text.lstrip("+").startswith("imports=")]
    if named:  # a third of a second of imports, which a command that lists names does without
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        for text in named:
            try:
                override = OverridesParser.create().parse_override(text)
                names = None if override.is_sweep_override() else override.value()
            except HydraException:
                names = None
            if not isinstance(names, list):
                raise RunError(f"{text}: imports is a list, such as imports=[my_module,./mine.py]")
            import_parts(map(str, names))


def import_parts(names: Iterable[str], run: str | None = None) -> list[str]:
    """Import modules and return their names, files by their whole paths.

    Args:
        names: Modules, or files.
        run: The run that recorded them, for the message.

    Raises:
        RunError: one cannot be imported.
    """
    try:
        return import_modules(names)
    except ValueError as error:
        raise RunError(f"{run} was trained with {error}" if run else str(error)) from error
