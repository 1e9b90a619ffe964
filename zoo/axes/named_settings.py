"""How a part of a model is written: a name, or a mapping with a name and settings."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..registry import Entry, Option, Registry

__all__ = ["NamedSettings"]


@dataclasses.dataclass(frozen=True)
class NamedSettings:
    """One axis whose parts have settings of their own and some that all of them share.

    Args:
        word: Keyword of `create_model`, such as `lowrank`, which messages name.
        registry: Of the parts.
        common: Settings beside those of every part.
    """

    word: str
    registry: Registry
    common: Sequence[Option]

    def info(self, name: str) -> Entry:
        """Return what the registry knows of a part, with the settings that all share.

        Raises:
            ValueError: no such part; the message names the nearest.
        """
        entry = self.registry[name]
        shared = {option.name: option for option in self.common}
        return dataclasses.replace(entry, options={**entry.options, **shared})

    def split(self, spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Check a spec and return the part's name and the settings beside it.

        Raises:
            ValueError: the spec names no registered part, or a setting that it does not take.
        """
        if isinstance(spec, str):
            name, settings = spec, {}
        elif isinstance(spec, Mapping):
            settings = dict(spec)
            if "name" not in settings:
                raise ValueError(
                    f"{self.word}={dict(spec)!r} has no 'name'; give one of "
                    f"{', '.join(self.registry.names())}"
                )
            name = settings.pop("name")
        else:
            raise ValueError(f"{self.word} must be a name or a mapping with a name, got {spec!r}")
        self.info(name).check(settings)
        return name, settings

    def written(self, spec: str | Mapping[str, Any]) -> str | dict[str, Any]:
        """Write a spec as JSON would hold it: a name, or a mapping with what was changed.

        Raises:
            ValueError: as `split`.
        """
        name, settings = self.split(spec)
        options = self.info(name).options
        changed = {k: v for k, v in settings.items() if v != options[k].default}
        for key, value in changed.items():
            changed[key] = list(value) if isinstance(value, tuple) else value
        return {"name": name, **changed} if changed else name

    def make(self, spec: str | Mapping[str, Any]) -> Any:
        """Build the part that a spec names, without what all parts share.

        Raises:
            ValueError: an unknown name or setting, or one out of range.
        """
        name, settings = self.split(spec)
        own = self.registry[name].options
        try:
            return self.registry[name].build(**{k: v for k, v in settings.items() if k in own})
        except ValueError as error:
            raise ValueError(f"{self.word}={name}: {error}") from error

    def shared(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Take out of settings those that all parts share, with defaults for what is not there."""
        return {o.name: settings.pop(o.name, o.default) for o in self.common}
