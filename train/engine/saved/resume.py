"""What a run that goes on may ask for: its own config again, but for a list of settings.

Everything that decides the run's numbers must be what it was. Free are the settings of `FREE`,
which decide where and how the same numbers are made, and the length, which may grow.
"""

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ...config import OptimConfig, RunConfig, ScheduleConfig, TrainerConfig
from ...errors import RunError

__all__ = ["FREE", "GROWS", "conflict", "continued", "decisive", "difference", "run_config_of"]

FREE = (
    *("name", "run_dir", "resume", "other_data", "imports", "data.root", "logger"),
    *("trainer.device", "trainer.parallel", "trainer.threads", "trainer.workers"),
    *("trainer.log_every", "trainer.checkpoint_every", "trainer.keep_checkpoints"),
    *("trainer.max_time", "trainer.progress"),
)
"""Settings, or whole groups, that a run may change when it goes on."""

GROWS = ("trainer.steps", "trainer.epochs")
"""Settings that may be larger than they were; the learning rate follows the new length."""

EVERYWHERE = ("experiment", "recipe", "sweep")
"""Groups whose files set keys of any other group."""


def continued(
    recorded: Mapping[str, Any], asked: Mapping[str, Any], given: Collection[str] | None = None
) -> dict[str, Any]:
    """Return the config that a run goes on with.

    Args:
        recorded: The run's resolved config.
        asked: That of the command which goes on with it.
        given: The keys and groups that the command itself named; what it left out is as recorded.
            None is all.

    Raises:
        RunError: it asks for something else than was recorded; the first such key is named.
    """
    before, now = dict(_leaves(recorded)), dict(_leaves(asked))
    changed = {}
    for key in [*before, *(key for key in now if key not in before)]:
        if given is not None and not any(_within(key, name) for name in given):
            continue
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if not (any(_within(key, free) for free in FREE) or _grows(key, old, new)):
            raise RunError(
                f"{key}={_shown(new)}, but the run has {key}={_shown(old)}; leave it out to go on "
                f"with the run, or start another one without resume"
            )
        changed[key] = new
    return _with_leaves(recorded, changed)


def difference(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """Say why a run cannot go on with a config, or return None where it can."""
    try:
        continued(recorded, asked)
    except RunError as error:
        return str(error)
    return None


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return by dotted key what of a config decides a run's numbers, but for its length.

    It is what the files of a run hold of its config: two runs of it write the same files.
    """
    free = (*FREE, *GROWS)
    return {k: v for k, v in _leaves(config) if not any(_within(k, name) for name in free)}


def conflict(written: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Say what tells the run that a file was written by from this one, or return None.

    Args:
        written: What `decisive` returned then; what that version did not know decides nothing.
        config: Of this run.
    """
    now = decisive(config)
    for key, old in written.items():
        if now.get(key) != old:
            return f"{key}={_shown(old)} there, {key}={_shown(now.get(key))} here"
    return None


def run_config_of(plain: Mapping[str, Any]) -> RunConfig:
    """Make the typed config of a resolved one; settings that it does not know have their defaults.

    Raises:
        RunError: it has settings that this version does not know.
    """
    parts = {"optim": OptimConfig, "schedule": ScheduleConfig, "trainer": TrainerConfig}
    try:
        typed = {name: make(**plain[name]) for name, make in parts.items()}
        return RunConfig(**{**plain, **typed})
    except (TypeError, KeyError) as error:
        raise RunError(f"config.yaml is damaged or of another version: {error}") from error


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; what is None decides nothing, as if it were absent."""
    for name, value in config.items():
        if isinstance(value, Mapping) and (value or not prefix):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def _within(key: str, name: str) -> bool:
    return name in EVERYWHERE or key == name or key.startswith(f"{name}.")


def _grows(key: str, old: Any, new: Any) -> bool:
    return key in GROWS and old is not None and new is not None and new > old


def _with_leaves(config: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a config with other values at dotted keys; None takes a key away."""
    result = copy.deepcopy(dict(config))
    for key, value in changed.items():
        *path, last = key.split(".")
        place = result
        for name in path:
            place[name] = place.get(name) or {}
            place = place[name]
        place[last] = value
        if value is None and len(path) > 1:  # a callback's or a logger's setting, or all of it
            del place[last]
    return result


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
