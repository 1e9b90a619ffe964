"""Say in one line what is wrong with the overrides, before Hydra does in ten."""

import importlib.resources
import re
from collections.abc import Sequence

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ..zoo.registry import nearest
from .errors import RunError
from .schemas import choices as stored_choices

__all__ = ["compose_config", "explain_overrides"]


def explain_overrides(arguments: Sequence[str]) -> None:
    """Compose the config once and turn a failure into one line.

    A sweep (`seed=0,1`) is checked at its first point. Arguments with Hydra's own flags that need a
    value (`--config-dir`, …) are left to Hydra.

    Raises:
        RunError: an unknown group, choice or key, or a value of another type.
    """
    overrides = [a for a in arguments if not a.startswith("-")]
    if any(a.startswith("--") and a != "--multirun" for a in arguments):
        return
    if GlobalHydra.instance().is_initialized():
        return
    try:
        first = [point for text in overrides if (point := _first_point(text))]
    except HydraException as error:
        raise RunError(_mismatch(error)) from error
    compose_config("train", first)
    _check_recipe(first)


def _check_recipe(overrides: Sequence[str]) -> None:
    """Refuse a recipe that is not there: the group is optional, so Hydra would pass it over.

    Raises:
        RunError: there is no such file.
    """
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group == "recipe" and not override.is_delete():
            choice, known = str(override.value()), _choices("recipe")
            if choice not in (*known, "None", "null"):
                raise RunError(f"recipe={choice}: no such choice{nearest(choice, known)}")


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose a config of archzoo by its name.

    Raises:
        RunError: in one line, an unknown group, choice or key, or a value of another type.
    """
    try:
        with initialize_config_module("archzoo.conf", version_base="1.3"):
            return compose(name, overrides=list(overrides))
    except MissingConfigException as error:
        raise RunError(_missing(error)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise RunError(_mismatch(error)) from error


def _first_point(text: str) -> str | None:
    """The first value of a sweep; None for one without values, such as an interval."""
    override = OverridesParser.create().parse_override(text)
    if not override.is_sweep_override():
        return text
    if not (override.is_choice_sweep() or override.is_range_sweep()):
        return None
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


def _missing(error: MissingConfigException) -> str:
    """A choice that a group does not have."""
    wanted = error.missing_cfg_file
    if isinstance(wanted, str) and "/" in wanted:
        group, _, choice = wanted.rpartition("/")
        # Hydra names no options where several are chosen at once, as in callbacks=[ema,sample].
        known = error.options or _choices(group)
        return f"{group}={choice}: no such choice{nearest(choice, known)}"
    return " ".join(str(error).split())


def _choices(group: str) -> list[str]:
    """The choices of a group: files, and what signatures make."""
    folder = importlib.resources.files("archzoo.conf") / group
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    files = [name.removesuffix(".yaml") for name in names if name.endswith(".yaml")]
    return [*files, *stored_choices(group)]


def _mismatch(error: BaseException) -> str:
    """A key that is not there or a value that does not fit."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not isinstance(cause, OmegaConfBaseException):
        return " ".join(said[:2])
    reason = str(cause.msg or cause).splitlines()[0].rstrip(".")
    key = str(cause.full_key or cause.key)
    if re.match(r"Key .* (not in|is not in)", reason):
        parent = cause.parent_node
        known = [str(k) for k in parent] if isinstance(parent, DictConfig) else []
        group = key.rpartition(".")[0]
        where = f"{group} has" if group else "there is"
        hint = nearest(str(cause.key), known) if known else ""
        return f"{key}: {where} no key {str(cause.key)!r}{hint}"
    return f"{key}: {reason[0].lower()}{reason[1:]}"
