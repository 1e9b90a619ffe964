"""The arguments of commands on a finished run: `key=value` pairs read into a typed dataclass."""

from collections.abc import Sequence
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from ..errors import RunError
from ..override_errors import compose_config

__all__ = ["print_help", "read_fields"]

Schema = TypeVar("Schema")


def read_fields(name: str, schema: type[Schema], arguments: Sequence[str]) -> Schema:
    """Read arguments into the fields of a dataclass, one of which is `run`.

    Args:
        name: What the config is called while Hydra composes it.
        schema: The dataclass.
        arguments: `key=value` pairs.

    Raises:
        RunError: in one line, a flag, an unknown key, a value of another type, or no run.
    """
    ConfigStore.instance().store(name=name, node=schema)
    flags = [argument for argument in arguments if argument.startswith("-")]
    if flags:
        raise RunError(f"{flags[0]}: arguments are key=value, such as run=DIR; --help lists them")
    node = compose_config(name, arguments)
    if OmegaConf.is_missing(node, "run"):
        raise RunError("run is missing; name a run folder with run=DIR")
    config = OmegaConf.to_object(node)
    assert isinstance(config, schema)
    return config


def print_help(text: str | None, place: str, schema: type[Any]) -> None:
    """Print a command's docstring, its keys and their defaults."""
    print((text or "").strip())
    print(f"\nKeys and defaults ({place} says what they mean):")
    print("  " + OmegaConf.to_yaml(OmegaConf.structured(schema)).strip().replace("\n", "\n  "))
