"""Poincaré embeddings of WordNet's mammals beside gensim's and a composition of geoopt's parts.

Every method embeds the same 1,180 nodes by the same 6,540 relations for the same number of epochs,
in batches of 50 with 10 negatives, and one evaluator (`archzoo.train.measures.reconstruction`)
ranks the relations by each method's own final points. Rates are those of one relation: gensim adds
up the gradients of a batch, the others average them, so that their `lr` is 50 times as large.
The learning rate is the best of a small grid by MAP at seed 0, for every method and dimension; in
float64, at 5 dimensions only, it is that of ours in float32. The first tenth of the epochs is
gensim's burn-in at a tenth of the rate; that of the others rises linearly over it.

Set WORDNET to the folder with `data.noun`; the default is where Debian's `wordnet-base` puts it.
Each run is appended to `results/wordnet_mammals_runs.csv` when it ends. What stands there is not
run again, so an interrupted comparison goes on where it was. `--quick` embeds a small tree instead.
"""

import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from archzoo.layers.hyperbolic import poincare
from archzoo.train.data import Batches, RelationFold, data_sets, loader
from archzoo.train.engine.schedule import learning_rate_factor
from archzoo.train.measures.reconstruction import reconstruction
from harness import RESULTS, Bar, Measurement, interleaved, main
from torch import Tensor
from torch.nn import functional as F

RUNS = RESULTS / "wordnet_mammals_runs.csv"
FIELDS = ("method", "dim", "rate", "seed", "mean_rank", "map")
WORDNET = str(Path(os.environ.get("WORDNET", "/usr/share/wordnet")).absolute())
MAMMALS = ("data=wordnet", f"data.root={WORDNET}")
TREE = ("data=tree", "data.branching=3", "data.depth=4")
BATCH, NEGATIVES, EPOCHS, SEEDS, DIMS = 50, 10, 100, (0, 1), (5, 10)
RATES = (0.1, 0.2, 0.4)
OURS = {
    "ours, float32": (),
    "ours, float64": ("model.precision=float64",),
    "ours, Euclidean": ("model.geometry=euclidean",),
}
GEOOPT = {"geoopt, float32": torch.float32, "geoopt, float64": torch.float64}
METHODS = (*OURS, *GEOOPT, "gensim")
# What precision and margin change alone: at 5 dimensions, at the rate of ours in float32.
AS_OURS: dict[str, str] = dict.fromkeys(("ours, float64", "geoopt, float64"), "ours, float32")
FLAT_RATES = (0.01, 0.02, 0.04)  # squared distances diverge at the rates of the ball
Figures = dict[str, float]


def grid(method: str) -> tuple[float, ...]:
    """The rates that a method is tried at."""
    more = {"ours, Euclidean": FLAT_RATES, "gensim": (*RATES, 0.8)}  # the best of three was an edge
    return more.get(method, RATES)


def run_ours(
    method: str, dim: int, rate: float, seed: int, epochs: int, data: tuple[str, ...]
) -> tuple[Figures, float]:
    """Train with the command line; return the figures and the seconds of an epoch of training."""
    with tempfile.TemporaryDirectory() as place:
        command = [
            *(sys.executable, "-W", "ignore", "-m", "archzoo.train"),
            *("experiment=wordnet_mammals", *data, *OURS[method]),
            *(f"model.dim={dim}", f"optim.lr={rate * BATCH}", f"seed={seed}"),
            *(f"trainer.epochs={epochs}", f"run_dir={place}/run", "logger=[csv]"),
            *("trainer.evaluate_every=1000000", "trainer.progress=false", "trainer.log_every=8"),
        ]
        subprocess.run(command, check=True, cwd=place, stdout=subprocess.DEVNULL)
        folder = Path(place) / "run"
        with (folder / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
        size = json.loads((folder / "data.json").read_text())["sizes"]["train"]
        speed = statistics.median(float(row["samples_per_second"]) for row in rows)
        return json.loads((folder / "reconstruction.json").read_text()), size / speed


def run_geoopt(
    method: str, dim: int, rate: float, seed: int, epochs: int, fold: RelationFold
) -> tuple[Figures, float]:
    """Train a geoopt parameter by geoopt's distance and optimiser in a plain loop."""
    import geoopt

    torch.manual_seed(seed)
    start = torch.empty(fold.num_nodes, dim, dtype=GEOOPT[method]).uniform_(-1e-3, 1e-3)
    parameter: Any = geoopt.ManifoldParameter  # its __new__ is followed by no type checker
    points = parameter(start, manifold=geoopt.PoincareBall(1.0).to(GEOOPT[method]))
    optimizer = geoopt.optim.RiemannianSGD([points], lr=rate * BATCH)
    per_epoch, step = len(fold) // BATCH, 0
    started = time.perf_counter()
    for epoch in range(epochs):
        batches = Batches(len(fold), BATCH, seed=seed, epoch=epoch, shuffle=True, drop_last=True)
        for nodes, targets in loader(fold, batches):
            factor = learning_rate_factor(
                step, epochs * per_epoch, name="constant", warmup=0.1, cooldown=1.0, final=0.0
            )
            optimizer.param_groups[0]["lr"] = rate * BATCH * factor
            optimizer.zero_grad()
            found = F.embedding(nodes, points)
            logits = -points.manifold.dist(found[:, :1], found[:, 1:])
            F.cross_entropy(logits, targets).backward()
            optimizer.step()
            step += 1
    seconds = (time.perf_counter() - started) / epochs
    return figures(points.detach().double(), fold), seconds


def run_gensim(
    method: str, dim: int, rate: float, seed: int, epochs: int, fold: RelationFold
) -> tuple[Figures, float]:
    """Train gensim's model with its defaults but for rate, dimension, batch and burn-in."""
    from gensim.models.poincare import PoincareModel

    pairs = [(str(u), str(v)) for u, v in fold.relations.tolist()]
    burn_in = epochs // 10
    model = PoincareModel(
        pairs, size=dim, alpha=rate, negative=NEGATIVES, burn_in=burn_in,
        burn_in_alpha=rate / 10, seed=seed,
    )  # fmt: skip
    started = time.perf_counter()
    model.train(epochs - burn_in, batch_size=BATCH)
    seconds = (time.perf_counter() - started) / epochs
    rows = [torch.from_numpy(model.kv[str(node)]) for node in range(fold.num_nodes)]
    return figures(torch.stack(rows).double(), fold), seconds


def figures(points: Tensor, fold: RelationFold) -> Figures:
    """Rank a peer's relations by distances in float64."""

    def distances(nodes: Tensor) -> Tensor:
        return poincare.distance(points[nodes][:, None], points, 1.0)

    return reconstruction(distances, fold.relations, fold.known, fold.num_nodes)


def run(
    method: str, dim: int, rate: float, seed: int, epochs: int, quick: bool
) -> tuple[Figures, float]:
    """Run one point; return mean rank and MAP, and the seconds of an epoch."""
    if method in OURS:
        return run_ours(method, dim, rate, seed, epochs, TREE if quick else MAMMALS)
    call = run_gensim if method == "gensim" else run_geoopt
    return call(method, dim, rate, seed, epochs, relations(quick))


def relations(quick: bool) -> RelationFold:
    """The fold that all methods train on and are evaluated by."""
    if quick:
        return data_sets.build("tree", branching=3, depth=4, negatives=NEGATIVES).train
    return data_sets.build("wordnet", root=WORDNET, negatives=NEGATIVES).train


def recorded() -> dict[tuple[str, int, float, int], Figures]:
    """Read the figures of every run that has ended."""
    if not RUNS.exists():
        return {}
    with RUNS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (r["method"], int(r["dim"]), float(r["rate"]), int(r["seed"])): {
            key: float(r[key]) for key in ("mean_rank", "map")
        }
        for r in rows
    }


def point(method: str, dim: int, rate: float, seed: int) -> Figures:
    """Return a point's figures, from the record or by training it."""
    key = (method, dim, rate, seed)
    if key not in recorded():
        found, _ = run(*key, EPOCHS, False)
        fresh = not RUNS.exists()
        with RUNS.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if fresh:
                writer.writeheader()
            writer.writerow(dict(zip(FIELDS, (*key, *found.values()), strict=True)))
        print(f"{key}: {found}", flush=True)
    return recorded()[key]


def measure(quick: bool) -> Measurement:
    """Train every point that is missing, time an epoch of each method, and make the table."""
    torch.set_num_threads(1)
    dims, rows = (2,) if quick else DIMS, []
    best: dict[tuple[str, int], float] = {}
    found: dict[tuple[str, int], list[Figures]] = {}
    for method in METHODS:
        if quick:
            best[method, 2] = grid(method)[1]
            found[method, 2] = [run(method, 2, best[method, 2], 0, 10, True)[0]]
            continue
        leader = AS_OURS.get(method, method)
        for dim in dims if leader == method else dims[:1]:
            scores = {rate: point(leader, dim, rate, 0)["map"] for rate in grid(leader)}
            best[method, dim] = max(scores, key=scores.__getitem__)
            found[method, dim] = [point(method, dim, best[method, dim], seed) for seed in SEEDS]
    timed: dict[str, Callable[[], float]] = {
        m: lambda m=m: run(m, dims[0], best[m, dims[0]], 0, 2, quick)[1] for m in METHODS
    }
    seconds = interleaved(timed, 1 if quick else 3)
    for (method, dim), results in found.items():
        rate, tried = best[method, dim], grid(method)
        ranks, precisions = ([r[key] for r in results] for key in ("mean_rank", "map"))
        rows.append(
            {
                "method": method,
                "dim": dim,
                "mean rank": round(statistics.mean(ranks), 3),
                "its spread": round(spread(ranks), 3),
                "MAP": round(statistics.mean(precisions), 4),
                "MAP's spread": round(spread(precisions), 4),
                "rate": rate,
                "rate at the grid's edge": rate in (tried[0], tried[-1]),
                f"s/epoch, dim {dims[0]}": round(statistics.median(seconds[method]), 3),
            }
        )
    return rows, [] if quick else bars(found)


def spread(values: list[float]) -> float:
    """Half the difference of the extremes; with one seed it is unknown."""
    return (max(values) - min(values)) / 2 if len(values) > 1 else math.nan


def bars(found: dict[tuple[str, int], list[Figures]]) -> list[Bar]:
    """Ours in float32 must not be behind gensim's, on the mean over the seeds."""
    judged = []
    for dim in DIMS:
        ours, theirs = (
            {k: statistics.mean(r[k] for r in found[m, dim]) for k in ("mean_rank", "map")}
            for m in ("ours, float32", "gensim")
        )
        judged += [
            Bar(f"mean rank at {dim} dimensions, against gensim's", ours["mean_rank"],
                theirs["mean_rank"]),
            Bar(f"MAP at {dim} dimensions, against gensim's", ours["map"], theirs["map"], False),
        ]  # fmt: skip
    return judged


if __name__ == "__main__":
    main("wordnet_mammals", measure)
