"""Which residual keeps two seeds connected: barriers between networks before and after matching.

Networks of two seeds are trained alike by `archzoo train` on Fashion-MNIST, with one learning rate
and one weight decay for all, since both decide how well networks connect. The units of the second
are put in the places that `archzoo.zoo.matching` finds, and losses and accuracies are measured at
25 points of the straight way between the two, before and after; batch norms get new statistics at
each. A barrier is that of three pairs of three seeds, mean ± standard deviation.

The rate and the decay were chosen on seeds 0 and 1 of `mlp_small`, where matching lowers the
barrier of the test loss by a factor of 7.7, and by one of 3.6 with Muon as `archzoo train` has it.
The ascent of the paper alone, from every unit at its place, gives 3.3 and 2.8. What is kept is of
other seeds.

`mlp_small` is measured on the whole test fold, and on as many training images. The table of
residuals has a ViT of four blocks over 16 patches and a ResNet of two stages behind a stem of
stride 4, each in two widths, after one pass over the training images, on the first 1,000 test
images.

    ARCHZOO_DATA=DIR python benchmarks/connect.py             DIR holds FashionMNIST/raw
    ARCHZOO_DATA=DIR python benchmarks/connect.py --minutes 10 vit
    ARCHZOO_DATA=DIR python benchmarks/connect.py --picture docs/connect.png

The second form measures the rows of one model and starts no further pair after some minutes; the
first pair of every row comes before the second of any. The first form shows and judges what is
kept, and measures one pair where there is none. Runs lie in `runs/connect` and go on where they
stopped; each pair is kept in `results/connect_runs.jsonl`, and what stands there is not measured
again. The third form draws what is kept.
"""

import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from archzoo.train.subject.given_data import model_on_data
from archzoo.train.subject.given_model import find_model
from archzoo.zoo.inspect import new_figure
from archzoo.zoo.matching import barrier, match, permute, singular_alignment
from archzoo.zoo.share import replacing
from harness import RESULTS, Bar, Measurement, main
from records import Records
from runs import trained

FOLDER = Path(__file__).parent.parent / "runs" / "connect"
RESIDUALS = ["add", "scaled", "attnres", "block_attnres", "delta", "hyper_connections", "mhc"]
POINTS = 25
IMAGES = ("data=fashion_mnist", "data.augment=false")
ALIKE = ("optim=adamw", "optim.lr=0.003", "optim.weight_decay=0.5", "callbacks=[none]")
VIT = ("model=vit_nano", "model.img_size=28", "model.patch_size=7")
RESNET = ("model=resnet_nano", "model.img_size=28", "model.stem=imagenet")
Row = tuple[str, str, int]
"""A model, its residual and its width."""
Seeds = tuple[int, int]
PAIRS: list[Seeds] = [(2, 3), (2, 4), (3, 4)]  # of others than those that settings were chosen on
WIDTHS: dict[str, tuple[int, int]] = {"vit": (32, 64), "resnet": (16, 32)}
ROWS: list[Row] = [
    ("mlp_small", "add", 128),
    *(
        (model, residual, widths[i])
        for i in range(2)
        for model, widths in WIDTHS.items()
        for residual in RESIDUALS
    ),
]
WHERE = {"mlp_small": {"test": 10_000, "train": 10_000}}
HERE = {"test": 1_000}  # of the others
LEAST_RATIO = 5.0


def overrides(model: str, residual: str, width: int) -> list[str]:
    """What `archzoo train` is told."""
    chosen = [*IMAGES, *ALIKE, f"model.residual={residual}"]
    if model == "mlp_small":
        size = ("model=mlp_small", f"model.width={width}")
        return [*chosen, *size, "trainer.epochs=4", "trainer.batch_size=256"]
    chosen += ["trainer.epochs=1", "trainer.batch_size=128"]
    if model == "vit":
        return [*chosen, *VIT, f"model.width={width}"]
    return [*chosen, *RESNET, f"model.widths=[{width},{2 * width}]"]


def train(told: Sequence[str], folder: Path, seed: int) -> None:
    """Train a network, from where it stopped."""
    trained([*told, "resume=auto", "trainer.threads=1"], seed, folder)


def pair(folders: Sequence[Path], where: dict[str, int]) -> dict[str, Any]:
    """Match two networks and measure what is between them, before and after."""
    subject = model_on_data(find_model(str(folders[0])))
    a, b = subject.model, find_model(str(folders[1])).load()
    matching = match(a, b)
    alignment = {"before": singular_alignment(a, b, matching.spec)}
    alignment["after"] = singular_alignment(a, b, matching.spec, matching.permutations)
    found: dict[str, Any] = {
        "agreement": [matching.before, matching.after],
        "sweeps": matching.sweeps,
        "alignment": {
            when: round(statistics.mean(each.values()), 4) for when, each in alignment.items()
        },
    }
    renewed = list(subject.drawn(2560, 256))
    for split, samples in where.items():
        batches = list(itertools.islice(subject.batches(split, 1000), max(1, samples // 1000)))
        way = {"before": barrier(a, b, batches, statistics=renewed, points=POINTS)}
        moved = permute(find_model(str(folders[1])).load(), matching.spec, matching.permutations)
        way["after"] = barrier(a, moved, batches, statistics=renewed, points=POINTS)
        found[split] = {
            when: {
                "loss": [round(x, 5) for x in each.loss],
                "accuracy": [round(x, 5) for x in each.accuracy],
                "own loss": [round(x, 5) for x in each.own_loss],
                "own accuracy": [round(x, 5) for x in each.own_accuracy],
                "loss barrier": each.of_loss,
                "accuracy barrier": each.of_accuracy,
            }
            for when, each in way.items()
        }
    return found


def measured(row: Row, seeds: Seeds, records: Records) -> dict[str, Any]:
    """A pair of seeds of a row, trained and measured now where it is not kept."""
    model, residual, width = row
    root = Path(os.environ.get("ARCHZOO_DATA", "data")).resolve()
    told = [*overrides(*row), f"data.root={root}"]
    places = [FOLDER / f"{model}-{residual}-{width}-{seed}" for seed in seeds]

    def run() -> dict[str, Any]:
        for seed, place in zip(seeds, places, strict=True):
            train(told, place, seed)
        found = pair(places, WHERE.get(model, HERE))
        print(model, residual, width, seeds, told_of(found), flush=True)
        return found

    key = {"model": model, "residual": residual, "width": width, "seeds": list(seeds)}
    return records.get(key, run)


def told_of(found: dict[str, Any]) -> str:
    """Loss barriers of a pair."""
    test = found["test"]
    return f"{test['before']['loss barrier']:.3f} -> {test['after']['loss barrier']:.3f}"


def shown(row: Row, found: Sequence[dict[str, Any]], split: str = "test") -> dict[str, Any]:
    """A row of the table: means over the pairs, with standard deviations."""
    model, residual, width = row
    ends = [share for one in found for share in one[split]["before"]["own accuracy"]]
    made: dict[str, Any] = {"model": model, "residual": residual, "width": width, "fold": split}
    made["pairs"] = len(found)
    made["accuracy, %"] = round(100 * statistics.mean(ends), 2)
    for what, scale in (("loss barrier", 1.0), ("accuracy barrier", 100.0)):
        for when in ("before", "after"):
            figures = [scale * one[split][when][what] for one in found]
            spread = statistics.stdev(figures) if len(figures) > 1 else 0.0
            made[f"{what}, {when}"] = round(statistics.mean(figures), 4)
            made[f"{what}, {when} ±"] = round(spread, 4)
    for when in ("before", "after"):
        made[f"alignment, {when}"] = round(
            statistics.mean(one["alignment"][when] for one in found), 3
        )
    return made


def ratio(found: Sequence[dict[str, Any]], split: str = "test") -> float:
    """By how much matching lowers the loss barrier, in the mean over pairs."""
    before, after = (
        statistics.mean(one[split][when]["loss barrier"] for one in found)
        for when in ("before", "after")
    )
    return before / max(after, 1e-9)


def measure(quick: bool) -> Measurement:
    """Make the table of all that is kept; the first pair is measured where it is not."""
    torch.set_num_threads(1)
    if quick:
        return brief()
    records = Records(RESULTS / "connect_runs.jsonl")
    measured(ROWS[0], PAIRS[0], records)
    found = {row: known(records, row) for row in ROWS}
    rows = [
        shown(row, pairs, split)
        for row, pairs in found.items()
        if pairs
        for split in WHERE.get(row[0], HERE)
    ]
    kept = found[ROWS[0]]
    bar = Bar("mlp_small: test-loss barrier before over after", ratio(kept), LEAST_RATIO, False)
    missing = sum(len(PAIRS) - len(pairs) for pairs in found.values())
    told = f"{missing} of {len(PAIRS) * len(found)} pairs are not measured yet"
    return rows, [bar], [f"{told}; --minutes goes on with them"] if missing else []


def known(records: Records, row: Row) -> list[dict[str, Any]]:
    """The pairs of a row that are kept."""
    return [one for one in records.known if (one["model"], one["residual"], one["width"]) == row]


def some(minutes: float, model: str) -> None:
    """Run what is missing of a model, until some time has passed."""
    torch.set_num_threads(1)
    started, records = time.monotonic(), Records(RESULTS / "connect_runs.jsonl")
    for seeds, row in itertools.product(PAIRS, [row for row in ROWS if row[0] == model]):
        if time.monotonic() - started > 60 * minutes:
            return
        measured(row, seeds, records)


def brief() -> Measurement:
    """A few steps on the digits, to see that all of it runs."""
    rows = []
    digits = ("data=digits", "trainer.batch_size=64", "trainer.epochs=null", "trainer.steps=30")
    with tempfile.TemporaryDirectory() as place:
        for model, residual in (("mlp_nano", "add"), ("resnet_nano", "attnres")):
            folders = [Path(place) / f"{model}-{seed}" for seed in (0, 1)]
            for seed, folder in enumerate(folders):
                told = [*digits, *ALIKE, f"model={model}", f"model.residual={residual}"]
                train(told, folder, seed)
            rows.append(shown((model, residual, 0), [pair(folders, {"test": 1000})]))
    return rows, []


def draw(out: Path) -> None:
    """Draw the barriers of every residual before and after, and the way of `mlp_small`."""
    records = Records(RESULTS / "connect_runs.jsonl")
    figure: Any = new_figure(11.0, 3.6)
    axes = figure.subplots(1, 3)
    kept = known(records, ROWS[0])
    for when, colour in (("before", "tab:orange"), ("after", "tab:blue")):
        for i, one in enumerate(kept):
            way = one["test"][when]["loss"]
            shares = [k / (len(way) - 1) for k in range(len(way))]
            axes[0].plot(shares, way, color=colour, lw=1.3, label=None if i else when)
    axes[0].set(title=f"mlp_small, {len(kept)} pairs", xlabel="share of the second seed")
    axes[0].set(ylabel="test loss, nats")
    axes[0].legend(frameon=False)
    for panel, (model, widths) in zip(axes[1:], WIDTHS.items(), strict=True):
        for width, marker, aside in zip(widths, ("o", "s"), (-0.15, 0.15), strict=True):
            places = [i + aside for i in range(len(RESIDUALS))]
            for when, colour in (("before", "tab:orange"), ("after", "tab:blue")):
                figures = [barriers(records, (model, name, width), when) for name in RESIDUALS]
                size = "narrower" if width == widths[0] else "wider"
                label = f"{size}, {when}" if model == "vit" else None
                panel.plot(figures, places, marker, color=colour, label=label, ms=5)
        panel.set_yticks(range(len(RESIDUALS)), RESIDUALS)
        panel.invert_yaxis()
        title = f"{model}, widths {widths[0]} and {widths[1]}"
        panel.set(title=title, xlabel="test-loss barrier, nats")
        panel.set_xlim(left=0)
    figure.legend(
        *axes[1].get_legend_handles_labels(),
        loc="outside lower right",
        ncols=4,
        frameon=False,
        fontsize=8,
    )
    for panel in axes:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    with replacing(out) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def barriers(records: Records, row: Row, when: str) -> float:
    """The mean loss barrier of a row's pairs; not a number where none is kept."""
    found = [one["test"][when]["loss barrier"] for one in known(records, row)]
    return statistics.mean(found) if found else float("nan")


FORMS: dict[str, Callable[..., None]] = {
    "--picture": lambda out: draw(Path(out)),
    "--minutes": lambda minutes, model: some(float(minutes), model),
}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in FORMS:
        FORMS[sys.argv[1]](*sys.argv[2:])
    else:
        main("connect", measure)
