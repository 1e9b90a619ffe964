"""How long a run is to be: `trainer.steps` or `trainer.epochs`, whichever the command names."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

__all__ = ["take_back_the_other"]

LENGTHS = {"trainer.steps": "trainer.epochs", "trainer.epochs": "trainer.steps"}


def take_back_the_other(arguments: Sequence[str]) -> tuple[str, ...]:
    """Add `trainer.epochs=null` to a command that names `trainer.steps` alone, and vice versa.

    A config of `conf/` may have set the other. Where both are named, the check of the run says so;
    what cannot be read is left to `explain_overrides`. With `resume=FOLDER` the folder's config has
    only what the command names changed, so nothing is added.
    """
    resumed = [text.partition("=")[2] for text in arguments if text.startswith("resume=")]
    if any(folder not in ("auto", "null") for folder in resumed):
        return tuple(arguments)
    parser, given = OverridesParser.create(), {}
    for text in arguments:
        if text.lstrip("+~").startswith(tuple(LENGTHS)):
            try:
                override = parser.parse_override(text)
            except HydraException:
                continue
            taken_back = override.is_delete() or override.value() is None
            given[override.key_or_group] = not taken_back
    added = [f"{LENGTHS[key]}=null" for key, kept in given.items() if kept and LENGTHS.get(key)]
    return (*arguments, *(text for text in added if text.removesuffix("=null") not in given))
