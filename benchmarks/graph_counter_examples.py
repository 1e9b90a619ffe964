"""Where a curved space gains nothing, and what weights of low rank cost a hyperbolic network.

- `disease`: which nodes of a tree are ill, by F1 on five splits. The norm and the normalisation of
  neighbourhoods are the best of three by the mean validation F1 of all splits.
- Digits: the default run of `vit_nano` beside that of `lorentz_vit_nano`, by accuracy.
- Sparse spectral training of a Lorentz `gcn`, 16 wide, with 2 of 16 pairs active, beside the same
  network of full rank and one whose matrices are frozen but for a LoRA of that rank. The gap closed
  is (SST - LoRA) / (full - LoRA), as in arXiv:2405.15481; it says nothing where full and LoRA are
  not apart.

Set WORDNET to the folder with `data.noun`.
"""

import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from graph_runs import SPACES
from harness import Bar, Measurement, main
from runs import Runs, Told, text
from spread import apart

WORDNET = str(Path(os.environ.get("WORDNET", "/usr/share/wordnet")).absolute())
SPLITS, SEEDS = (0, 1, 2, 3, 4), (0, 1, 2)
DISEASE = (
    *("model=gcn_nano", "data=disease", "data.split={seed}", "data.passes=10", "model.depth=3"),
    *("optim=adamw", "optim.lr=0.01", "optim.weight_decay=0", "callbacks=[none]"),
    *("trainer.epochs=null", "trainer.steps=400", "trainer.batch_size=512"),
    *("trainer.evaluate_every=100", "trainer.threads=1"),
)
SHAPES: tuple[Told, ...] = (
    ("model.norm=layer", "model.normalise=symmetric"),
    ("model.norm=layer", "model.normalise=row"),
    ("model.norm=none", "model.normalise=row"),
)
LORENTZ = SPACES["Lorentz"]
RANKS: dict[str, Told] = {
    "full rank": (),
    "SST": ("lowrank=sst", "lowrank.rank=2", "lowrank.resample_every=30", "lowrank.rewarm=5"),
    "frozen LoRA": ("lowrank=relora", "lowrank.rank=2", "lowrank.merge_every=0"),
}
LINKS = (
    *("experiment=graph_wordnet", "model.width=16", "model.normalise=row", "optim.lr=0.03"),
    *LORENTZ,
)


def measure(quick: bool) -> Measurement:
    """Train what is missing, and make a row of each model."""
    torch.set_num_threads(1)
    runs = Runs("graph_counter_examples", quick)
    short = ("trainer.steps=5", "trainer.evaluate_every=5") if quick else ()
    splits, seeds, shapes = ((0, 1), (0, 1), SHAPES[:1]) if quick else (SPLITS, SEEDS, SHAPES)
    rows: list[dict[str, Any]] = []
    for space in ("flat, distance", "Poincaré", "Lorentz"):
        told = (*DISEASE, *short, *(() if space.startswith("flat") else SPACES[space]))
        figures, chosen = runs.tested(told, shapes, "f1", splits, choose_by=len(splits))
        rows.append(_row("disease, F1", space.partition(",")[0], figures, chosen))
    accuracies = {}
    for name in ("vit_nano", "lorentz_vit_nano"):
        told = (f"model={name}", "trainer.threads=1")
        told = (*told, "trainer.epochs=null", *short) if quick else told
        accuracies[name], _ = runs.tested(told, [()], "accuracy", seeds)
        rows.append(_row("digits, accuracy", name, accuracies[name]))
    rows += _low_rank(runs, "disease, F1", (*DISEASE, *short, *LORENTZ, *SHAPES[-1]), "f1", splits)
    if not quick:
        links = Runs("graph_counter_examples", quick, f"data.root={WORDNET}")
        rows += _low_rank(links, "WordNet's mammals, AUC", LINKS, "auc", seeds)
    lead = statistics.mean(accuracies["vit_nano"]) - statistics.mean(accuracies["lorentz_vit_nano"])
    what = "accuracy of vit_nano on the digits above that of lorentz_vit_nano"
    return rows, [] if quick else [Bar(what, lead, 0.01)]


def _low_rank(
    runs: Runs, task: str, told: Told, metric: str, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Rows of full rank, SST and LoRA, and the share of the gap that SST closes."""
    found = {
        name: runs.tested((*told, *options), [()], metric, seeds)[0]
        for name, options in RANKS.items()
    }
    full, sst, lora = map(statistics.mean, found.values())
    shown = apart(found["full rank"], found["frozen LoRA"]) and full > lora
    closed = (sst - lora) / (full - lora) if shown else math.nan
    rows = [_row(f"{task}, Lorentz, 16 wide", name, figures) for name, figures in found.items()]
    rows[1]["gap closed"] = f"{100 * closed:.0f} %" if shown else "no gap shown"
    return rows


def _row(task: str, model: str, figures: Sequence[float], chosen: Told = ()) -> dict[str, Any]:
    return {
        "task": task,
        "model": model,
        "figure": text(figures),
        "runs": len(figures),
        "chosen": ", ".join(one.partition(".")[2] for one in chosen),
    }


if __name__ == "__main__":
    main("graph_counter_examples", measure)
