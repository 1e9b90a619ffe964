"""Adapters on images: four networks trained on half of Fashion-MNIST, then turned or given others.

A base is trained on the classes 0 to 4, once a seed (`experiment=half_fashion_mnist`). It is
adapted to the same classes turned by 90°, where nothing but the adapter is trained, and to the
classes 5 to 9, where the head is trained beside every adapter (`experiment=adapt_fashion_mnist`).
Presets train about as many numbers as a LoRA of a given rank, and the rate is the best of a grid by
validation (`adapter_runs.py`). A third task turns by 180° and adapts the first layer too: half a
turn is a Kronecker product of two flips, which a ring of one component can express, and a quarter
of a turn is none.

    ARCHZOO_DATA=DIR python benchmarks/adapter_images.py --check         DIR holds FashionMNIST/raw
    ARCHZOO_DATA=DIR python benchmarks/adapter_images.py --runs vit turned      the runs of one task

What has ended is kept in `results/adapter_images_runs.jsonl`, a line a run, and is not run again.
Bases lie in `build/` and are trained where they are missing.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from adapter_claims import Claim, judged
from adapter_runs import SEEDS, Adapted, Task, chosen, methods, row, told_of
from archzoo.train.subject.evaluation import fold_figures
from archzoo.train.subject.given_data import model_on_data
from archzoo.train.subject.given_model import find_model
from archzoo.zoo import create_model
from archzoo.zoo.share import unsealed
from harness import UNTRACKED, Bar, Measurement, main
from runs import Runs, Told, trained
from scipy.stats import spearmanr
from spread import summary, verdict

BASES = UNTRACKED / "adapter_images"
HEAD = ("head.*",)
RATES = (0.003, 0.01, 0.03)
OUTER = (0.1, 0.3, 1.0, 0.001, 0.0003)
SOME = ("lora", "dora", "lora_xs", "lora_sb", "svfit", "randlora", "sara", "tlora")
THREE = ("lora", "lora_sb", "tlora")
FEW = ("lora", "dora", "lora_xs", "randlora", "tlora")
CLAIMS = (
    Claim("tlora", "better", "lora", "arXiv:2501.08727"),
    Claim("dora", "better", "lora", "arXiv:2402.09353"),
    Claim("lora_sb", "better", "lora_xs", "arXiv:2411.19557"),
    Claim("lora_sb", "better", "lora", "arXiv:2411.19557"),
    Claim("randlora", "better", "lora", "arXiv:2502.00987"),
    Claim("increlora", "better", "lora", "arXiv:2308.12043"),
    Claim("miss", "better", "lora", "arXiv:2409.15371"),
    Claim("sara", "as good", "lora", "arXiv:2409.06633"),
    Claim("lora", "as good", "all weights", "arXiv:2106.09685"),
)


@dataclass(frozen=True)
class Subject:
    """A network, how its base is trained, and what is compared on it.

    Attributes:
        model: Its name.
        options: Keywords of its builder, beside those that the data decide.
        base: Further overrides of the base's run.
        more: Further overrides of every run.
        rank: Of the LoRA whose trained numbers all presets meet.
        tasks: Names of presets by task; None is all of the registry.
    """

    model: str
    options: Mapping[str, Any]
    base: Told
    more: Told
    rank: int
    tasks: Mapping[str, Sequence[str] | None]


IMAGES = {"num_classes": 5, "img_size": 28, "in_chans": 1}
"""What the data decide of a network."""

SHORT = ("trainer.steps=60", "trainer.evaluate_every=60", "data.validation=2000")
LONG = ("trainer.steps=300", "trainer.evaluate_every=300")
SUBJECTS = {
    "vit": Subject(
        "vit_nano", {"patch_size": 7}, ("optim.lr=0.002", "trainer.steps=400"), (), 4,
        {"turned": None, "new": SOME, "half turn": FEW},
    ),
    "resnet": Subject(
        "resnet20", {}, LONG, (*SHORT, "trainer.amp=bf16"), 2, {"turned": SOME, "new": THREE},
    ),
    "poincare": Subject(
        "poincare_resnet_tiny", {}, ("optim.lr=0.006",), (), 2, {"turned": FEW, "new": THREE},
    ),
    "ldlt": Subject(
        "ldlt_resnet_tiny", {}, (*LONG, "optim.lr=0.01"), SHORT, 2, {"turned": THREE},
    ),
}  # fmt: skip
"""By the name of a sweep."""

TASKS: dict[str, Told] = {
    "turned": (),
    "new": ("data.rotation=0", "data.classes=[5,6,7,8,9]"),
    "half turn": ("data.rotation=180",),
}
FIRST_STEP = "adapter.step=0.0005"
"""The step that LoRA-SB starts with: that of a rate of 0.005 after one of ten steps of warm-up."""
FIRST_LAYER = 'adapter.targets=["patch_embed.proj", "trunk.*"]'


def base(name: str, seed: int) -> Path:
    """The folder of a base, which is trained where it is missing."""
    folder, subject = BASES / f"{name}-{seed}", SUBJECTS[name]
    if not (folder / "result.json").exists():
        told = ("experiment=half_fashion_mnist", *made(subject), *subject.more, *subject.base)
        trained([*told, "resume=auto", *places()], seed, folder)
    return folder


def bases(name: str) -> None:
    """Train the bases that are missing."""
    for seed in SEEDS:
        base(name, seed)


def made(subject: Subject) -> Told:
    """Overrides that name a model."""
    options = (f"model.{key}={value}" for key, value in subject.options.items())
    return (f"model={subject.model}", *options)


def places() -> Told:
    """Where this machine keeps the images."""
    return (f"data.root={Path(os.environ.get('ARCHZOO_DATA', 'data')).resolve()}",)


def task_of(subject: Subject, which: str) -> Task:
    """What is compared."""
    options = {**subject.options, **IMAGES}
    told = ("experiment=adapt_fashion_mnist", *made(subject), *subject.more, *TASKS[which])
    return Task(subject.model, told, "accuracy", HEAD, 64, options)


def overrides(subject: Subject, which: str) -> dict[str, Told]:
    """Overrides of all methods that are compared on a task."""
    task = task_of(subject, which)
    found = methods(task, subject.rank, subject.tasks[which])
    if which == "half turn":
        del found["head alone"]
    if subject.rank > 2:
        found["tlora, one component"] = told_of(task, "tlora", {"rank": 1})
    more = {"new": ('adapter.train_also=["head.*"]',), "half turn": (FIRST_LAYER,)}.get(which, ())
    if "lora_sb" in found:
        found["lora_sb"] += (FIRST_STEP,)
    adapted = {name for name, told in found.items() if told[0].startswith("adapter=")}
    return {name: (*told, *more) if name in adapted else told for name, told in found.items()}


def swept(name: str, which: str, *only: str) -> dict[str, Adapted]:
    """Results of a task of a network by method, or of some methods, run where they are missing."""
    subject, start = SUBJECTS[name], f"init={BASES / name}-{{seed}}"
    runs = Runs("adapter_images", False, *places(), start, before=partial(bases, name))
    task, found = task_of(subject, which), {}
    for method, told in overrides(subject, which).items():
        if only and method not in only:
            continue
        also = ALSO.get(method) if (name, which) == COUNTED else None
        found[method] = chosen(runs, task, told, rates=RATES, outer=OUTER, also=also)
    return found


def unadapted(name: str, which: str) -> list[float]:
    """The accuracy of the bases on the test fold of a task that has their classes, seed by seed."""
    runs, found = Runs("adapter_images", False), []
    for seed in SEEDS:
        key = {"unadapted": name, "task": which, "seed": seed}
        found.append(runs.records.get(key, partial(accuracy, name, which, seed))["accuracy"])
    return found


def accuracy(name: str, which: str, seed: int) -> dict[str, float]:
    """The accuracy of one base on a task."""
    degrees = {"turned": 90, "half turn": 180}[which]
    root = places()[0].removeprefix("data.root=")
    place = find_model(str(base(name, seed)))
    subject = model_on_data(place, {"root": root, "rotation": degrees})
    how: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}
    return {"accuracy": fold_figures(subject, "test", batch_size=250, **how)[0]["accuracy"]}


def ranks(folder: Path) -> dict[str, int]:
    """The rank of every weight at the end of a run."""
    return json.loads((folder / "ranks.jsonl").read_text().splitlines()[-1])["ranks"]


def changes(folder: Path) -> dict[str, float]:
    """The Frobenius norm of the change of every matrix since a run's start."""
    start = unsealed((folder / "init.json").read_bytes())["init"]
    after, before = (create_model(f"local-dir:{p}").state_dict() for p in (folder, start))
    return {
        name.removesuffix(".weight"): float((value - before[name]).norm())
        for name, value in after.items()
        if name.endswith(".weight") and value.dim() > 1
    }


ALSO = {"all weights": changes, "increlora": ranks}
COUNTED = ("vit", "turned")
"""The task on which ranks are compared with changes."""


def measure(quick: bool) -> Measurement:
    """Run what is missing, and make the table."""
    torch.set_num_threads(1)
    if quick:
        return brief(), []
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for name, subject in SUBJECTS.items():
        for which in subject.tasks:
            told, judging = judged_task(name, which, swept(name, which))
            rows, bars = rows + told, bars + judging
    return rows, bars


def brief() -> list[dict[str, Any]]:
    """A base of thirty steps and two adapters of ten, to see that all of it runs."""
    subject = SUBJECTS["poincare"]
    short = ("trainer.steps={0}", "trainer.evaluate_every={0}")
    with tempfile.TemporaryDirectory() as place:
        told = ("experiment=half_fashion_mnist", *made(subject), *subject.base, *places())
        trained([*told, *(one.format(30) for one in short)], 0, Path(place) / "base")
        runs = Runs("adapter_images", True, *places(), f"init={place}/base")
        rows = []
        for method in ("lora", "tlora"):
            told = (*task_of(subject, "turned").told, *overrides(subject, "turned")[method])
            one = runs.result([*told, *(each.format(10) for each in short)], 0)
            rows.append({"method": method, **one["test"], "trained": one["adapter"]["trained"]})
    return rows


def judged_task(
    name: str, which: str, found: Mapping[str, Adapted]
) -> tuple[list[dict[str, Any]], list[Bar]]:
    """Rows of the methods and claims of one task of a network, and what must hold of them.

    Methods are compared by the points over a LoRA of the same seed, whose base is the same one.
    """
    task, case = task_of(SUBJECTS[name], which), {"network": name, "task": which}
    points = {m: [100 * f for f in one.figures("test", "accuracy")] for m, one in found.items()}
    over = {m: less(figures, points["lora"]) for m, figures in points.items()}
    if which == "new":
        start = points["head alone"]
    else:
        start = [100 * share for share in unadapted(name, which)]
    rows: list[dict[str, Any]] = []
    for method, one in found.items():
        told = row(method, one, found["lora"], task)
        told |= dict(zip(("accuracy", "standard error"), summary(points[method]), strict=True))
        told |= {"validation": 100 * told["validation"], "seeds": points[method]}
        told["against lora"] = verdict([-x for x in over[method]], [0.0] * len(SEEDS))
        told["gain"], told["gain, standard error"] = summary(less(points[method], start))
        rows.append({**case, **told})
    mean, error = summary(start)
    rows.append({**case, "method": "before", "accuracy": mean, "standard error": error})
    rows += [{**case, **claim} for claim in judged(CLAIMS, over, more_is_better=True)]
    if "svfit" in found:
        rows.append({**case, **share_of_gain(points, start)})
    if (name, which) == COUNTED:
        rows.append({**case, **ranks_follow(found)})
    least = min(
        summary(less(points[m], start))[0] for m in over if m not in ("lq_lora", "head alone")
    )
    what = f"{name}, {which}: least gain of a method over the start, points"
    return rows, [Bar(what, least, 0.0, at_most=False)]


def less(figures: Sequence[float], others: Sequence[float]) -> list[float]:
    """Differences seed by seed."""
    return [one - other for one, other in zip(figures, others, strict=True)]


def share_of_gain(points: Mapping[str, Sequence[float]], start: Sequence[float]) -> dict[str, Any]:
    """The claim that a few singular values give nine tenths of what a LoRA gives."""
    gains = (less(points[method], start) for method in ("svfit", "lora"))
    shares = [one / other for one, other in zip(*gains, strict=True)]
    mean, error = summary(shares)
    return {
        "claim": "svfit 90 % of the gain of lora",
        "source": "arXiv:2409.05926",
        "found": f"{100 * mean:.1f} ± {100 * error:.1f} %",
        "reproduced": mean >= 0.9,
    }


def ranks_follow(found: Mapping[str, Adapted]) -> dict[str, Any]:
    """The claim that IncreLoRA's ranks are where all weights change the most when they are free."""
    agreements = []
    for grown, free in zip(found["increlora"].runs, found["all weights"].runs, strict=True):
        names = list(grown["ranks"])
        pair = [grown["ranks"][n] for n in names], [free["changes"][n] for n in names]
        agreements.append(float(spearmanr(*pair)[0]))  # type: ignore[arg-type]
    mean, error = summary(agreements)
    return {
        "claim": "increlora ranks where all weights change",
        "source": "arXiv:2308.12043",
        "found": f"rank correlation {mean:.2f} ± {error:.2f}",
        "reproduced": mean - 2 * error > 0,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--runs"]:
        torch.set_num_threads(1)
        swept(*sys.argv[2:])
        if sys.argv[3] != "new":
            unadapted(*sys.argv[2:4])
    else:
        main("adapter_images", measure)
