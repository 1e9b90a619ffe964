"""What each run was: its settings, the machine it ran on, and the command that made it."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from .charts.markup import Markup, element
from .result_table import table
from .run_groups import Group
from .run_record import RunRecord

__all__ = ["not_whole", "run_facts"]


def not_whole(runs: Sequence[RunRecord], further: Mapping[str, str]) -> Markup | None:
    """The runs that are broken, unfinished or could not be looked into, each with its reasons.

    Args:
        runs: All that there are.
        further: Why the model of a group was not looked into, by the path of its run.
    """
    items = []
    for run in runs:
        why = [*run.trouble]
        if str(run.path) in further:
            why.append(f"its model was not looked into: {further[str(run.path)]}")
        if why:
            reasons = element("ul", [element("li", reason) for reason in why])
            items.append(element("li", element("code", str(run.path)), reasons))
    return element("ul", items) if items else None


def run_facts(groups: Sequence[Group]) -> list[Markup]:
    """A closed block a group: the command of each run, its machine, its config."""
    return [
        element(
            "details",
            element("summary", f"{group.label} ({_count(len(group.runs))})"),
            table(["run", "seed", "command"], [_command(run) for run in group.runs]),
            _environment(group.runs[0]),
            element("h4", f"config of {group.runs[0].path.name}"),
            element("pre", yaml.safe_dump(_plain(group.runs[0].config), sort_keys=False)),
        )
        for group in groups
    ]


def _count(runs: int) -> str:
    return f"{runs} run{'s' * (runs > 1)}"


def _command(run: RunRecord) -> list[str]:
    words = run.environment.get("command")
    told = shlex.join(map(str, words)) if isinstance(words, list) else "not recorded"
    return [str(run.path), str(run.config.get("seed", "")), element("code", told)]


def _environment(run: RunRecord) -> Markup | None:
    facts = dict(run.environment)
    facts.pop("command", None)
    versions = facts.pop("versions", None)
    if isinstance(versions, Mapping):
        facts |= versions
    if not facts:
        return None
    rows = [[str(key), str(value)] for key, value in facts.items() if value is not None]
    return element("div", element("h4", f"environment of {run.path.name}"), table(["", ""], rows))


def _plain(value: Any) -> Any:
    """What YAML writes without tags."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
