"""Say in one line what is wrong with the overrides, before Hydra does in ten."""

import importlib.resources
import re
from collections.abc import Sequence

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..zoo.registry import nearest
from .config import unknown_key
from .errors import UsageError
from .schemas import choices as stored_choices
from .schemas import groups as stored_groups

__all__ = ["choices", "compose_config", "explain_overrides", "groups"]

SWEEPING = ("-m", "--multirun")
FLAGS = (
    *SWEEPING,
    *("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--resolve", "-p", "--package"),
    *("-r", "--run", "-sc", "--shell-completion", "-cp", "--config-path", "-cn", "--config-name"),
    *("-cd", "--config-dir", "--experimental-rerun", "-i", "--info"),
)
"""Flags of Hydra's command line; argparse takes a long one by its beginning, too."""
EXTRAS = {
    "hydra/launcher": ("slurm", "submitit_local", "submitit_slurm"),
    "hydra/sweeper": ("sweep", "optuna"),
}
"""Groups of Hydra's own, each with the extra that brings further choices."""


def explain_overrides(arguments: Sequence[str]) -> None:
    """Compose the config once and turn a failure into one line.

    A sweep (`seed=0,1`) is checked at its first point. Arguments with Hydra's own flags that need a
    value (`--config-dir`, …) are left to Hydra.

    Raises:
        UsageError: an unknown flag, group, choice or key, a value of another type, or several
            values outside a sweep.
    """
    _check_flags(arguments)
    overrides = [a for a in arguments if not a.startswith("-")]
    if any(a.startswith("--") and a != "--multirun" for a in arguments):
        return
    if GlobalHydra.instance().is_initialized():
        return
    sweep = any(a in SWEEPING or a.startswith("hydra.mode=") for a in arguments)
    first = [point for text in overrides if (point := _first_point(text, sweep))]
    parsed = OverridesParser.create().parse_overrides(first)
    _check_choices(parsed)
    _check_switches(parsed, compose_config("train", first))


def _check_choices(overrides: Sequence[Override]) -> None:
    """Refuse a choice that is no name, and a recipe that is not there, both of which Hydra misses.

    It ends at the first in a traceback; the recipe's group is optional, so it passes that over.

    Raises:
        UsageError: there is no such choice.
    """
    known_groups = groups()
    for override in overrides:
        group, value = override.key_or_group, override.value()
        if group not in known_groups or override.is_delete() or isinstance(value, list):
            continue
        known = choices(group)
        named = isinstance(value, (str, QuotedString)) or value is None
        missing = group == "recipe" and str(value) not in (*known, "None", "null")
        if not named or missing:
            raise UsageError(f"{group}={value}: no such choice{nearest(str(value), known)}")


def _check_switches(overrides: Sequence[Override], config: DictConfig) -> None:
    """Refuse numbers but 0 and 1 where a switch is meant: OmegaConf takes any for `true`.

    Raises:
        UsageError: naming the key and the number.
    """
    for override in overrides:
        value, key = override.value(), override.key_or_group
        if isinstance(value, (int, float)) and value not in (0, 1) and not override.is_delete():
            known = OmegaConf.select(config, key, throw_on_resolution_failure=False)
            if isinstance(known, bool):
                raise UsageError(f"{key}: value {value} must be true or false")


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose a config of archzoo by its name.

    Raises:
        UsageError: in one line, an unknown group, choice or key, or a value of another type.
    """
    try:
        with initialize_config_module("archzoo.conf", version_base="1.3"):
            return compose(name, overrides=list(overrides))
    except MissingConfigException as error:
        raise UsageError(_missing(error)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_mismatch(error)) from error


def _check_flags(arguments: Sequence[str]) -> None:
    """Refuse a misspelt flag, which argparse does in many lines.

    Raises:
        UsageError: naming the flag and the nearest ones.
    """
    for argument in arguments:
        name = argument.partition("=")[0]
        short = name in FLAGS
        long = name.startswith("--") and any(flag.startswith(name) for flag in FLAGS)
        if name.startswith("-") and not short and not long:
            raise UsageError(f"{name}: no such flag{nearest(name, FLAGS)}; settings are key=value")


def _first_point(text: str, sweep: bool) -> str | None:
    """The first value of a sweep; None for one without values, such as an interval.

    Raises:
        UsageError: what cannot be read, or several values where one run is asked for.
    """
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        said = _mismatch(error)
        raise UsageError(f"{text}: {said}; write key=value, such as trainer.steps=100") from error
    if not override.key_or_group:
        raise UsageError(f"{text}: there is no key; write key=value, such as trainer.steps=100")
    if not override.is_sweep_override():
        return text
    if not sweep:
        raise UsageError(
            f"{text}: several values are a sweep; add -m to run one after another, or write one "
            f"value (a list is written [1,2], and text with a comma is quoted twice)"
        )
    if not (override.is_choice_sweep() or override.is_range_sweep()):
        return None
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


def _missing(error: MissingConfigException) -> str:
    """A choice that a group does not have."""
    wanted = error.missing_cfg_file
    if isinstance(wanted, str) and "/" in wanted:
        group, _, choice = wanted.rpartition("/")
        extra, *brought = EXTRAS.get(group, ("",))
        if choice in brought:
            return f'{group}={choice} is not installed; pip install "archzoo[{extra}]"'
        # Hydra names no options where several are chosen at once, as in callbacks=[ema,sample].
        known = error.options or choices(group)
        return f"{group}={choice}: no such choice{nearest(choice, known)}"
    return " ".join(str(error).split())


def choices(group: str) -> list[str]:
    """The choices of a group: files, and what signatures make."""
    folder = importlib.resources.files("archzoo.conf") / group
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    files = [name.removesuffix(".yaml") for name in names if name.endswith(".yaml")]
    return sorted({*files, *stored_choices(group)})


def groups() -> set[str]:
    """The groups of `archzoo.conf` and those that signatures make."""
    folders = importlib.resources.files("archzoo.conf").iterdir()
    return {*stored_groups(), *(f.name for f in folders if f.is_dir() and f.name[0] != "_")}


def _mismatch(error: BaseException) -> str:
    """A key that is not there or a value that does not fit."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not isinstance(cause, OmegaConfBaseException):
        missing = re.match(r"Could not delete from config\. '(.*)' does not exist", said[0])
        if missing:
            return f"~{missing[1]}: there is no {missing[1]} to take away; leave it out"
        return " ".join(said[:2])
    reason = str(cause.msg or cause).splitlines()[0].rstrip(".")
    key = str(cause.full_key or cause.key)
    if re.match(r"Key .* (not in|is not in)", reason):
        parent = cause.parent_node
        known = [str(k) for k in parent] if isinstance(parent, DictConfig) else []
        return unknown_key(key, known)
    if union := re.search(r" is incompatible with type hint 'Union\[(.*)\]'", reason):
        kinds = {"bool": "true or false", "str": "text", "int": "a whole number"}
        wanted = " or ".join(kinds.get(kind, kind) for kind in union[1].split(", "))
        return f"{key}: {reason[0].lower()}{reason[1 : union.start()]} does not fit; write {wanted}"
    if reason.endswith("is not Optional"):
        default = cause.child_node
        return f"{key}: null is no value of it; write one, or leave {key} out for {default}"
    return f"{key}: {reason[0].lower()}{reason[1:]}"
