"""Compose and run small runs in this process."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from archzoo.train.callbacks import callbacks, distillations
from archzoo.train.config import RunConfig, run_config
from archzoo.train.data import data_sets
from archzoo.train.engine.loggers import loggers
from archzoo.train.run import run
from archzoo.train.schemas import register_schemas
from archzoo.zoo.axes.adapters import presets
from archzoo.zoo.axes.lowrank import methods
from archzoo.zoo.models import models
from archzoo.zoo.registry import Entry
from hydra import compose, initialize_config_module

TINY = [
    "model=mlp_nano",
    "data=digits",
    "~recipe",
    "trainer.epochs=null",
    "trainer.steps=12",
    "trainer.batch_size=32",
    "trainer.log_every=4",
    "trainer.evaluate_every=6",
    "trainer.progress=false",
    "optim=adamw",
    "callbacks=[none]",
    "logger=[csv]",
]
"""A run of a second: an MLP on the digits, without the mixing that the digits are trained with."""


REGISTRIES = (models, data_sets, methods, distillations, presets, callbacks, loggers)
STORED: list[Entry] = []
"""What Hydra knows the schemas of."""


def store_schemas() -> None:
    """Tell Hydra about every part with a name, which takes a tenth of a second, where it is new."""
    entries = [registry[name] for registry in REGISTRIES for name in registry.names()]
    if [*map(id, entries)] != [*map(id, STORED)]:
        register_schemas()
        STORED[:] = entries


def configure(*overrides: str, folder: Path | None = None, base: Sequence[str] = TINY) -> RunConfig:
    """Compose the tiny run, or another base, with overrides."""
    store_schemas()
    place = [] if folder is None else [f"run_dir={folder}"]
    with initialize_config_module("archzoo.conf", version_base="1.3"):
        return run_config(compose("train", overrides=[*base, *place, *overrides]))


def train(folder: Path, *overrides: str) -> float:
    """Run the tiny run into a folder and return its validation metric."""
    return run(configure(*overrides, folder=folder))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the last checkpoint."""
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    return state["model"]


def equal_weights(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same bits."""
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def rows(folder: Path) -> list[dict[str, str]]:
    """What a run logged."""
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))
