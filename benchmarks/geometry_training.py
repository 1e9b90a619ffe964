"""Whether training in a curved space stays finite at the learning rate of flat space.

Every backbone, in either curved space and at four curvatures, trains from several seeds as
`archzoo train` does by default: Muon with AdamW for vectors and tables, a warm-up and a cosine, no
clipping of gradients. The rate is that of the default run, for the GPT that of
`experiment=bytes_gpt`. Sizes are small, since a number that is not finite needs no large one.

A run counts where the loss of every step and every parameter at the end is finite. Its last loss,
of 20 steps, stands beside that of the flat twin. Runs are appended to
`results/geometry_training_runs.jsonl` as they end, and what stands there is not run again.
"""

import functools
import itertools
import math
import statistics
from collections.abc import Iterator
from typing import Any

import torch
from archzoo.train.config import OptimConfig
from archzoo.train.data import Batches, Fold, data_sets, loader
from archzoo.train.engine.optim import make_optimizer
from archzoo.train.engine.schedule import learning_rate_factor
from archzoo.zoo import create_model
from harness import RESULTS, Bar
from records import Records
from torch import Tensor
from torch.nn import functional as F

__all__ = ["training"]

STEPS, SEEDS, CURVATURES = 200, 20, (0.01, 0.1, 1.0, 10.0)
CURVED = ("lorentz", "poincare")
BACKBONES: dict[str, dict[str, Any]] = {
    "vit_nano": {"width": 32, "depth": 2, "num_heads": 2},
    "gpt_nano": {"width": 32, "depth": 2, "num_heads": 2, "context_length": 32},
    "resnet_nano": {"widths": (8, 16), "depths": (1, 1), "in_chans": 1, "img_size": 8},
    "mlp_nano": {"in_features": 64, "num_classes": 10},
}
RATES = {"gpt_nano": 0.02}
RATE = 0.01
BATCH = {"gpt_nano": 8}
MUON = {
    "fallback_no_weight_decay": True,
    "fallback_list": ["embedding*", "head*", "patch_embed*", "stem*"],
}
LAST = 20
Row = dict[str, Any]


def fold_of(name: str) -> Fold:
    """The digits, or bytes of Python's standard library."""
    if name == "gpt_nano":
        return data_sets.build("bytes", context_length=32).train
    return data_sets.build("digits").train


def batches(fold: Fold, name: str, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of all epochs."""
    size = BATCH.get(name, 16)
    for epoch in itertools.count():
        cut = Batches(len(fold), size, seed=seed, epoch=epoch, shuffle=True, drop_last=True)
        for x, y in loader(fold, cut):
            yield x.flatten(1) if name == "mlp_nano" else x, y


def run(fold: Fold, name: str, geometry: str, curvature: float | None, seed: int) -> Row:
    """Train one model, and return its last loss, or the step whose loss is not finite."""
    torch.manual_seed(seed)
    options = BACKBONES[name] | {"geometry": geometry, "curvature": curvature}
    if name == "resnet_nano":
        options["num_classes"] = 10
    model = create_model(name, **options)
    rate = RATES.get(name, RATE)
    config = OptimConfig(name="muon", lr=rate, weight_decay=0.2, options=MUON)
    optimizer = make_optimizer(model, config)
    losses = []
    for step, (x, y) in enumerate(itertools.islice(batches(fold, name, seed), STEPS)):
        factor = learning_rate_factor(
            step, STEPS, name="cosine", warmup=0.05, cooldown=0.2, final=0.0
        )
        for group in optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    found = torch.stack(losses)
    finite = found.isfinite()
    parameters = all(bool(p.isfinite().all()) for p in model.parameters())
    return {
        "finite": bool(finite.all()) and parameters,
        "step": None if finite.all() else int((~finite).nonzero()[0]),
        "loss": round(found[-LAST:].mean().item(), 4) if finite.all() else None,
    }


def training(quick: bool) -> tuple[list[Row], list[Bar]]:
    """Train all models, or one of them from one seed, and count the runs that are not finite."""
    records = Records(RESULTS / "geometry_training_runs.jsonl")
    seeds = range(1 if quick else SEEDS)
    rows: list[Row] = []
    for name in ["mlp_nano"] if quick else BACKBONES:
        fold = fold_of(name)
        points: list[tuple[str, float | None]] = [("euclidean", None)]
        for geometry, curvature in [*points, *itertools.product(CURVED, CURVATURES)]:
            found = []
            for seed in seeds:
                point = (name, geometry, curvature, seed)
                key = dict(zip(("model", "geometry", "curvature", "seed"), point, strict=True))
                found.append(records.get(key, functools.partial(run, fold, *point)))
            losses = [each["loss"] for each in found if each["finite"]]
            rows.append(
                {
                    "model": name,
                    "geometry": geometry,
                    "curvature": curvature,
                    "runs": len(found),
                    "not finite": sum(not each["finite"] for each in found),
                    "last loss": statistics.mean(losses) if losses else math.nan,
                    "largest": max(losses, default=math.nan),
                }
            )
    bars = [
        Bar(
            f"{geometry}, runs that are not finite",
            sum(row["not finite"] for row in rows if row["geometry"] == geometry),
            0,
        )
        for geometry in CURVED
    ]
    return rows, bars
