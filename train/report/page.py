"""A report: one file of HTML that needs no network, no script and no other file."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...zoo.share.atomic_write import replacing
from ..errors import RunError
from .certified_curves import certified_curves
from .charts.markup import Markup, element
from .group_costs import costs_of_group, trade_offs
from .learning_curves import further_curves, learning_curves
from .model_charts import disk_charts, gate_charts, mixing_charts
from .model_views import ModelView, look_inside
from .page_style import POLICY, STYLE
from .rank_charts import rank_charts
from .result_table import result_table
from .run_facts import not_whole, run_facts
from .run_groups import Group, group_runs
from .run_record import RunRecord, find_runs, read_run

__all__ = ["report_page", "write_report"]

FRONT = "Means over runs, with a standard deviation to each side; dashes join the Pareto front."
WORDS = (
    "Metrics of the best model, means ± standard deviations over runs. Kept is what a forward pass "
    "keeps for its backward pass, peak the parameters and the most that both add to them, step the "
    "time of both; times are medians. Training is the time of a sample as the runs logged it."
)
MIXING = (
    "What each branch reads of each source, in the first run of a point; each on its own colour "
    "scale. Routing mass is not causal importance (arXiv:2606.13168)."
)


def write_report(
    places: Sequence[Path], out: Path, *, inside: bool = True
) -> dict[str, list[dict[str, Any]]]:
    """Write the page of runs, and of folders of runs such as a sweep, whole or not at all.

    Args:
        places: Folders.
        out: The file.
        inside: Whether models are rebuilt and looked into, which needs their data.

    Returns:
        The points with their results, and the runs with their troubles, as JSON holds them.

    Raises:
        ValueError: a place holds no run.
        OSError: the file cannot be written.
    """
    runs = [read_run(path) for path in find_runs(list(places))]
    groups = group_runs(runs)
    asked = " ".join(place.name or str(place) for place in places)
    text = report_page(runs, groups, asked, inside=inside)
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    points = []
    for group in groups:
        tested = group.tested()
        told = None if tested is None else dataclasses.asdict(tested)
        paths = [str(run.path) for run in group.runs]
        points.append({"point": group.label, "metric": group.metric, "test": told, "runs": paths})
    return {
        "points": points,
        "runs": [{"run": str(run.path), "trouble": run.trouble} for run in runs],
    }


def report_page(
    runs: Sequence[RunRecord], groups: Sequence[Group], asked: str, *, inside: bool = True
) -> Markup:
    """The page.

    Args:
        runs: All that were found.
        groups: Those of them that have a config.
        asked: The names of the places.
        inside: Whether models are looked into.
    """
    views, blind = _views(groups) if inside else ({}, {})
    costs = [costs_of_group(group, views.get(group.label)) for group in groups]
    broken = not_whole(runs, blind)
    sections: list[tuple[str, str, Sequence[Markup]]] = [
        ("Result against cost", FRONT, trade_offs(groups, costs)),
        ("Learning curves", _seeds(groups), learning_curves(groups)),
        ("Certificates and attacks", "", certified_curves(groups)),
        ("Depth mixing", MIXING, mixing_charts(views)),
        ("Gates", "", gate_charts(groups, views)),
        ("Ranks and spectra", "", [chart for group in groups for chart in rank_charts(group)]),
        ("Poincaré disks", "", disk_charts(views)),
        ("Further metrics", "", further_curves(groups)),
    ]
    blocks: list[tuple[str, Sequence[Markup | None]]] = []
    if groups:
        below = element("p", WORDS, class_="note")
        blocks.append(("Results", [result_table(groups, costs), below]))
    for title, words, charts in sections:
        if charts:
            told = element("p", words, class_="soft") if words else None
            blocks.append((title, [told, element("div", charts, class_="charts")]))
    if broken is not None:
        told = element("p", "What could be read of them is shown all the same.", class_="soft")
        blocks.append(("Runs that are not whole", [told, broken]))
    if groups:
        blocks.append(("Configs, machines, commands", run_facts(groups)))
    return _document(_title(groups, len(runs)), asked, blocks)


def _views(groups: Sequence[Group]) -> tuple[dict[str, ModelView], dict[str, str]]:
    """Look into the first ended run of each group; why not, by the path of the run."""
    views, blind = {}, {}
    for group in groups:
        for run in group.ended[:1]:
            try:
                views[group.label] = look_inside(run)
            except (RunError, ValueError) as error:
                blind[str(run.path)] = str(error)
    return views, blind


def _seeds(groups: Sequence[Group]) -> str:
    most = max((len(group.runs) for group in groups), default=1)
    return "Means over runs; a band is one standard deviation to each side." if most > 1 else ""


def _title(groups: Sequence[Group], runs: int) -> str:
    models: Mapping[str, None] = dict.fromkeys(
        str((group.runs[0].config.get(part) or {}).get("name", "?"))
        for group in groups
        for part in ("model", "data")
    )
    told = ", ".join(models) if 0 < len(models) <= 4 else f"{len(groups)} points"
    return f"{told}: {runs} run{'s' * (runs > 1)}"


def _document(
    title: str, asked: str, blocks: Sequence[tuple[str, Sequence[Markup | None]]]
) -> Markup:
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    links = [element("a", name, href=f"#part{i}") for i, (name, _) in enumerate(blocks)]
    body = element(
        "body",
        element("h1", title),
        element("p", "archzoo report ", element("code", asked), class_="soft"),
        element("nav", links),
        [
            element("section", element("h2", name), parts, id=f"part{i}")
            for i, (name, parts) in enumerate(blocks)
        ],
    )
    return Markup("<!doctype html>\n" + element("html", head, body, lang="en") + "\n")
