"""Lipschitz networks on real tables: clean and certified accuracy, ranks over sets, attacks.

What is compared, on which sets, folds and seeds, is in `ldlt_tabular.yaml`; how one is trained, in
`experiment=ldlt_tabular`, whose loop this script repeats in one process without a run's files.
Every trained network is certified by `archzoo.zoo.certify`, by construction or not, and attacked
(APGD) inside the radii of some of its test rows.

    ARCHZOO_DATA=DIR python benchmarks/ldlt_tabular.py       DIR holds the CSV files
    python benchmarks/ldlt_tabular.py                        sets that have a number at OpenML

Each point is appended to `results/ldlt_tabular_runs.jsonl` when it ends, and what stands there is
not run again, so that an interrupted comparison goes on where it was.
"""

import functools
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from archzoo.train.config import RunConfig, run_config
from archzoo.train.data import Batches, Splits, data_sets
from archzoo.train.engine.metrics import cross_entropy
from archzoo.train.engine.optim import make_optimizer
from archzoo.train.engine.schedule import learning_rate_factor
from archzoo.train.schemas import register_schemas
from archzoo.zoo import create_model
from archzoo.zoo.certify.certificate import Certificate
from archzoo.zoo.certify.certify_model import Method, certified_function, certify
from archzoo.zoo.certify.pgd import attack, margin_loss
from harness import RESULTS, Bar, Measurement, main
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from ranks import critical_difference, friedman, rank
from records import Records
from torch import Tensor, nn

PLAN: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_suffix(".yaml")))
METHODS: dict[str, Any] = PLAN["methods"]
EPS = [radius / 255 for radius in PLAN["eps"]]
FIGURES = ("clean", *(f"{radius}/255" for radius in PLAN["eps"]))
PLAIN = [name for name, method in METHODS.items() if method["model"] is None]


def sets() -> dict[str, dict[str, Any]]:
    """Return how each set is read, by its name."""
    root = os.environ.get("ARCHZOO_DATA")
    found = {}
    for name, number in (PLAN["bundled"] | PLAN["csv"]).items():
        if name in PLAN["bundled"]:
            found[name] = {"table": name}
        elif root is not None:
            found[name] = {"table": name, "root": str(Path(root).resolve())}
        elif number is not None:
            found[name] = {"table": f"openml:{number}"}
    return found


@functools.lru_cache(maxsize=1)
def load(table: str, root: str | None, split: int) -> Splits:
    """Read a set, cut and encoded for a split."""
    return data_sets.build(
        "tabular", table=table, root=root, split=split, max_rows=PLAN["max_rows"]
    )


@functools.lru_cache
def experiment() -> RunConfig:
    """Compose the experiment's config."""
    register_schemas()
    with initialize_config_module("archzoo.conf", version_base="1.3"):
        return run_config(compose("train", overrides=["experiment=ldlt_tabular", "run_dir=none"]))


def build(method: str, features: int, classes: int, **tried: Any) -> nn.Module:
    """Make a network of a method; a plain one has no constant to be told."""
    name, options = METHODS[method]["model"], METHODS[method]["options"]
    if name is None:
        width = options["width"]
        sizes = [features] + [width] * options["depth"]
        layers = [
            part
            for fan_in, fan_out in zip(sizes, sizes[1:], strict=False)
            for part in (nn.Linear(fan_in, fan_out), nn.ReLU())
        ]
        return nn.Sequential(*layers, nn.Linear(width, classes))
    return create_model(name, in_features=features, num_classes=classes, **options, **tried)


def train(method: str, splits: Splits, seed: int, steps: int, tried: dict[str, Any]) -> nn.Module:
    """Train as `archzoo train experiment=ldlt_tabular` does, and return the last weights."""
    config = experiment()
    optim = OmegaConf.to_object(OmegaConf.structured(config.optim))  # a copy
    assert isinstance(optim, type(config.optim))
    optim.weight_decay = tried.get("weight_decay", optim.weight_decay)
    options = {key: value for key, value in tried.items() if key != "weight_decay"}
    start(seed)
    model = build(method, splits.shape[0], splits.num_classes, **options)
    start(seed)
    optimizer = make_optimizer(model, optim)
    size = min(config.trainer.batch_size, len(splits.train))
    model.train()
    step, epoch = 0, 0
    while step < steps:
        order = Batches(
            len(splits.train), size, seed=seed, epoch=epoch, shuffle=True, drop_last=True
        )
        for keys in order:
            if step == steps:
                break
            factor = learning_rate_factor(step, steps, **vars(config.schedule))
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            inputs, targets = splits.train.__getitems__(keys)
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
        epoch += 1
    return model.eval()


def start(seed: int) -> None:
    """Seed the generators as a run does."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def fold(splits: Splits, name: str) -> tuple[Tensor, Tensor]:
    """Return a whole fold."""
    rows = getattr(splits, name)
    return rows.__getitems__([(0, i) for i in range(len(rows))])


def bound(model: nn.Module, splits: Splits, name: str, method: Method) -> Certificate:
    """Certify a network on a fold."""
    x, y = fold(splits, name)
    return certify(model, x, y, eps=(), method=method, attack=False, estimate=False)


def accuracies(certificate: Certificate) -> list[float]:
    """Return clean and certified accuracies."""
    correct, radius = certificate.correct, certificate.radius
    assert correct is not None and radius is not None
    shares = [correct, *(correct & (radius > eps) for eps in EPS)]
    return [float(share.double().mean()) for share in shares]


def falsify(model: nn.Module, x: Tensor, certificate: Certificate) -> dict[str, Any]:
    """Attack rows, evenly spread over the fold, inside their radii; nothing may fall."""
    assert certificate.radius is not None and certificate.predicted is not None
    count = min(PLAN["attack"]["samples"], len(x))
    rows = torch.arange(count) * len(x) // count
    rows = rows[certificate.radius[rows] > 0]
    if not len(rows):
        return {"attacked": 0, "violations": 0}
    runner = certified_function(model, x)
    centre, classes = x[rows].double(), certificate.predicted[rows]
    radii = PLAN["attack"]["inside"] * certificate.radius[rows]
    steps = PLAN["attack"]["steps"]
    moved = attack(runner, centre, classes, radii, norm="l2", box=None, steps=steps)
    with torch.no_grad():
        before, after = (margin_loss(runner(z), classes) for z in (centre, moved))
    return {
        "attacked": len(rows),
        "violations": int((~(after < 0)).sum()),
        "margin left": float((after / before).median()),
    }


def point(method: str, place: dict[str, Any], seed: int, steps: int) -> dict[str, Any]:
    """Train what a method may choose from, take the better on the validation fold, and test it."""
    began = time.process_time()
    splits = load(place["table"], place.get("root"), seed)
    ((knob, values),) = METHODS[method]["try"].items()
    tried, best = [], None
    for value in values:
        model = train(method, splits, seed, steps, {knob: value})
        # The matrix inequality takes seconds on a plain network, so its choice does without.
        found = accuracies(bound(model, splits, "validation", "product"))
        tried.append({knob: value, "validation": found})
        if best is None or statistics.mean(found) > best[0]:
            best = statistics.mean(found), value, model
    assert best is not None
    _, value, model = best
    certificate = bound(model, splits, "test", "auto")
    return {
        "tried": tried,
        "chosen": value,
        "test": accuracies(certificate),
        "rows": [len(splits.train), len(splits.validation), len(splits.test)],
        "features": splits.shape[0],
        "classes": splits.num_classes,
        "parameters": sum(p.numel() for p in model.parameters()),
        "lipschitz": certificate.lipschitz,
        "bound": certificate.method,
        **falsify(model, fold(splits, "test")[0], certificate),
        "seconds": round(time.process_time() - began, 2),
    }


def measure(quick: bool) -> Measurement:
    """Run every point that is missing and make the table."""
    torch.set_num_threads(1)
    experiment()
    if quick:
        places = {name: {"table": name} for name in ("iris", "wine")}
        runs = {
            (name, method, 0): point(method, place, 0, 30)
            for name, place in places.items()
            for method in METHODS
        }
        return table(runs, [0]), bars(runs)[:1]
    records = Records(RESULTS / "ldlt_tabular_runs.jsonl")
    runs = {}
    for name, place in sets().items():
        for seed in PLAN["seeds"]:
            for method in METHODS:
                table_name = place["table"]
                key = {"set": name, "from": table_name, "method": method, "seed": seed}
                key["steps"] = PLAN["steps"]
                runs[name, method, seed] = records.get(
                    key,
                    lambda m=method, p=place, s=seed: point(m, p, s, PLAN["steps"]),
                )
        print(f"{name} is done", flush=True)
    return table(runs, PLAN["seeds"]), bars(runs)


def table(runs: dict[tuple[str, str, int], Any], seeds: list[int]) -> list[dict[str, Any]]:
    """Compare the methods by each figure: means over sets and seeds, wins, ranks and tests."""
    names = list(dict.fromkeys(name for name, _, _ in runs))
    rows = []
    for i, figure in enumerate(FIGURES):
        each = np.array(
            [[[runs[n, m, s]["test"][i] for s in seeds] for m in METHODS] for n in names]
        )
        means = each.mean(2)
        ours = [j for j, m in enumerate(METHODS) if m not in PLAIN]
        everyone, constructed = rank(means), rank(means[:, ours])
        tests = [friedman(ranks)[1] for ranks in (everyone, constructed)]
        for j, method in enumerate(METHODS):
            rows.append(
                {
                    "accuracy": figure,
                    "method": method,
                    "mean, %": round(100 * float(means[:, j].mean()), 2),
                    "± over seeds": round(100 * spread(each[:, j]), 2),
                    "wins": int((means[:, j] == means.max(1)).sum()),
                    "rank": round(float(everyone[:, j].mean()), 3),
                    "p": float(f"{tests[0]:.3g}"),
                    "CD": round(critical_difference(len(METHODS), len(names)), 3),
                    "rank, Lipschitz": (
                        round(float(constructed[:, ours.index(j)].mean()), 3) if j in ours else None
                    ),
                    "p, Lipschitz": float(f"{tests[1]:.3g}"),
                    "CD, Lipschitz": round(critical_difference(len(ours), len(names)), 3),
                }
            )
    return rows


def spread(figures: np.ndarray) -> float:
    """Standard error over seeds of a mean over sets (sets, seeds); each seed has its own folds."""
    seeds = figures.mean(0).tolist()
    return statistics.stdev(seeds) / len(seeds) ** 0.5 if len(seeds) > 1 else float("nan")


def bars(runs: dict[tuple[str, str, int], Any]) -> list[Bar]:
    """No radius may be beaten; enough rows must have been attacked, on enough sets."""
    seconds = sum(run["seconds"] for run in runs.values())
    return [
        Bar("violated radii", sum(run["violations"] for run in runs.values()), 0),
        Bar("attacked rows", sum(run["attacked"] for run in runs.values()), 20_000, False),
        Bar("sets", len({name for name, _, _ in runs}), 25, False),
        Bar("CPU minutes, one thread", round(seconds / 60, 1), 60),
    ]


if __name__ == "__main__":
    main("ldlt_tabular", measure)
