"""Random command lines of `archzoo train` that should train: every axis drawn, sizes kept tiny.

What is drawn comes from the registries: a new model, residual, low-rank method, data set or
optimiser is drawn without a line here, with its choices and switches; numbers need a row in
`option_values.py`.
"""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archzoo.train.config import FACTS
from archzoo.zoo.axes.lowrank import method_info, methods
from archzoo.zoo.axes.residuals import residuals
from archzoo.zoo.backbones.lipschitz.lipschitz_resnet import TAKES
from archzoo.zoo.models import models
from archzoo.zoo.registry import Entry
from option_values import NUMBERS, draw_some, written

__all__ = ["draw_valid"]

SIDES = {"digits": 8, "mnist": 28, "fashion_mnist": 28, "cifar10": 32}
PATCHES = {8: (2, 4, 8), 16: (4, 8), 28: (7, 14), 32: (8, 16)}
BLOCKS = ("block_size", "num_blocks", "block_layers")
"""Three ways to say one thing, of which a residual takes one."""


def draw_valid(number: int, files: Path, optimizers: list[str]) -> list[str]:
    """Return the overrides of one run of at most three steps, the same for the same number.

    Args:
        number: From 0; models come in turn, the rest is random.
        files: What `write_files` wrote.
        optimizers: Names to draw from beside the configs of `optim`.
    """
    draw = random.Random(f"valid {number}")
    names = models.names()
    entry = models[names[number % len(names)]]
    data, side, batch = _data(draw, entry.kind, files)
    model = _model(draw, entry, side)
    lowrank = _lowrank(draw, entry, model) if draw.random() < 0.4 else {}
    optim = _optim(draw, entry, model, lowrank, optimizers)
    return [
        f"model={entry.name}",
        *_keys("model", model),
        *data,
        *([f"lowrank={lowrank.pop('name')}", *_keys("lowrank", lowrank)] if lowrank else ()),
        *optim,
        *_schedule(draw),
        *_trainer(draw, entry.kind, data[0].removeprefix("data="), batch),
        *_callbacks(draw, entry),
        f"logger={draw.choice(['[csv]', '[tensorboard]', '[csv,tensorboard]', '[none]'])}",
        f"seed={draw.choice([0, 1, 2**32 - 1])}",
    ]


def _keys(group: str, values: Mapping[str, Any]) -> list[str]:
    return [f"{group}.{key}={written(value)}" for key, value in values.items()]


def _data(draw: random.Random, kind: str, files: Path) -> tuple[list[str], int, int]:
    """Overrides of a data set of a kind, the side of its images, and a batch size."""
    if kind == "tokens":
        path = draw.choice([f"data.path={files}/text.txt", f"data.path={files}/texts"])
        length = draw.choice([4, 8, 16])
        return ["data=bytes", path, f"data.context_length={length}"], 0, draw.choice([1, 4, 8])
    if kind == "graph" and draw.random() < 0.5:
        name = draw.choice(["karate", "disease"])
        options = ["data.depth=3"] if name == "disease" else ["data.passes=3"]
        return [f"data={name}", *options, f"data.split={draw.randrange(5)}"], 0, 8
    if kind == "graph" and draw.random() < 0.5:
        name = draw.choice(["karate_links", "disease_links"])
        return [f"data={name}", f"data.negatives={draw.choice([1, 5])}"], 0, 8
    if kind in ("nodes", "graph"):
        name = draw.choice(["tree", "random_tree", "wordnet"])
        sizes = {
            "tree": [f"data.branching={draw.choice([2, 3])}", f"data.depth={draw.choice([3, 4])}"],
            "random_tree": [f"data.num_nodes={draw.choice([30, 60])}"],
            "wordnet": [f"data.root={files}", f"data.subset={draw.choice(['mammals', 'nouns'])}"],
        }[name]
        held = draw.choice([[], ["data.held_out=0.1"]])
        return [f"data={name}", *sizes, f"data.negatives={draw.choice([1, 5])}", *held], 0, 8
    if kind == "features" and draw.random() < 0.7:
        table = draw.choice([
            *("data.table=iris", "data.table=wine", "data.table=digits", "data.max_rows=90"),
            f"data.root={files}/tables data.table=mixed",
            f"data.root={files}/tables data.table=middle data.target=ripe",
        ])  # fmt: skip
        split = f"data.split={draw.randrange(5)}"
        return ["data=tabular", *table.split(), split], 0, draw.choice([2, 8, 16])
    name = draw.choice(["digits", "digits", "digits", "imagefolder", "mnist", "cifar10"])
    if name == "imagefolder":
        side = draw.choice([8, 16])
        place = draw.choice(["photos", "parts"])
        policy = draw.choice(["none", "crop_flip", "trivial_augment", "rand_augment"])
        options = {"root": f"{files}/{place}", "img_size": side, "resize": side + 2}
        options |= {"validation": 0.2, "policy": policy, "jitter": draw.choice([0.0, 0.2])}
        options["erasing"] = draw.choice([0.0, 0.5])
        return ["data=imagefolder", *_keys("data", options)], side, draw.choice([2, 4, 8])
    rest = {
        "digits": [f"data.augment={draw.choice(['true', 'false'])}"],
        "mnist": [f"data.root={files}", "data.validation=20"],
        "cifar10": [f"data.root={files}", "data.validation=20"],
    }[name]
    return [f"data={name}", *rest], SIDES[name], draw.choice([8, 16, 32])


def _model(draw: random.Random, entry: Entry, side: int) -> dict[str, Any]:
    """Sizes that train in milliseconds, and some of the other options."""
    options = entry.options
    heads = draw.choice([1, 2, 4]) if "num_heads" in options else 1
    stages = draw.choice([1, 2] if side == 28 else [1, 2, 3])
    sizes: dict[str, Any] = {
        "num_heads": heads, "width": heads * draw.choice([8, 16]), "depth": draw.choice([1, 2, 3]),
        "widths": [8, 8, 16][:stages], "depths": [draw.choice([1, 2]) for _ in range(stages)],
        "patch_size": draw.choice(PATCHES.get(side, (1,))),
    }  # fmt: skip
    chosen = {key: value for key, value in sizes.items() if key in options}
    given = (*sizes, *FACTS, "residual")
    chosen |= draw_some(draw, (o for o in options.values() if o.name not in given), 0.35)
    if "residual" in options and draw.random() < 0.7:
        chosen["residual"] = _residual(draw, draw.choice(residuals.names()), entry)
    if chosen.get("global_pool") == "":
        del chosen["global_pool"]  # features that no head reads, and a run has classes
    return {key: value for key, value in chosen.items() if key not in _excluded(entry, chosen)}


def _excluded(entry: Entry, chosen: Mapping[str, Any]) -> set[str]:
    """Options that the choice of another leaves without a meaning, and that models refuse then."""
    if chosen.get("geometry") == "euclidean" and entry.kind == "nodes":
        return {"curvature"}
    residual = chosen.get("residual", "")
    name = residual if isinstance(residual, str) else residual["name"]
    if name or "delta" in entry.name:
        # Branches that start at zero give some residuals no direction, and most norm their input.
        return {"short_window", "activation"}
    block = chosen.get("block", entry.options["block"].default if "block" in entry.options else "")
    if not block or block == "ldlt":
        return set()
    of_images = {"hidden_depth", "expansion", "activation", "split"} - TAKES.get(block, set())
    of_rows = {"hidden_depth", "wiring"}
    of_rows |= {"sandwich": {"expansion"}, "aol": {"expansion", "activation"}}.get(block, set())
    return of_images if entry.kind == "image" else of_rows


def _residual(draw: random.Random, name: str, entry: Entry) -> str | dict[str, Any]:
    """A mechanism with some of its options; in a ball its curvature is the model's."""
    options = residuals[name].options
    apart = {"eps", *BLOCKS, *({"curvature"} & entry.options.keys())}
    if entry.kind == "image" and "widths" in entry.options:
        apart |= {"expand", "compress"}  # images have no tokens to look along
    chosen = draw_some(draw, (o for o in options.values() if o.name not in apart), 0.3)
    if not chosen.get("learned"):
        chosen = {k: v for k, v in chosen.items() if k not in ("per_channel", "shared")}
    ways = [key for key in BLOCKS if key in options]
    if ways and draw.random() < 0.5:
        way = draw.choice(ways)
        chosen[way] = draw.choice(NUMBERS[way])
    return {"name": name, **chosen} if chosen else name


def _lowrank(draw: random.Random, entry: Entry, model: Mapping[str, Any]) -> dict[str, Any]:
    """A method that finds weights in the model, with some of its settings."""
    if entry.kind == "nodes":
        return {}
    matrices = "num_heads" in entry.options or entry.name.startswith("mlp")
    known = [n for n in methods.names() if matrices or n not in ("cola", "lost")]
    name = draw.choice(known)
    options = method_info(name).options.values()
    chosen = draw_some(draw, (o for o in options if o.name not in ("seed", "min_kernel")), 0.4)
    if name == "trp":
        chosen["min_kernel"] = 1  # linear layers too, or some models have no target
    return {"name": name, **chosen}


def _optim(
    draw: random.Random,
    entry: Entry,
    model: Mapping[str, Any],
    lowrank: Mapping[str, Any],
    optimizers: list[str],
) -> list[str]:
    if lowrank.get("name") == "switchlora":
        return ["optim=step_adamw"]
    on_manifold = entry.kind == "nodes" and model.get("geometry", "poincare") == "poincare"
    groups = ["riemannian_adam", "riemannian_sgd"]
    if not on_manifold:
        groups += ["adamw", "adamw", "muon", "sgd", "step_adamw", "named", "named"]
    group = draw.choice(groups)
    given = [f"optim.lr={draw.choice([1e-4, 1e-3])}", f"optim.weight_decay={draw.choice([0, 0.1])}"]
    if group == "named":
        return ["optim=step_adamw", f"optim.name={draw.choice(optimizers)}", *given]
    return [f"optim={group}", *given]


def _schedule(draw: random.Random) -> list[str]:
    name = draw.choice(["constant", "linear", "cosine", "wsd"])
    values = {"warmup": draw.choice([0.0, 0.05, 1.0]), "final": draw.choice([0.0, 0.1, 1.0])}
    if name == "wsd":
        values["cooldown"] = draw.choice([0.0, 0.2, 1.0])
    return [f"schedule={name}", *_keys("schedule", values)]


def _trainer(draw: random.Random, kind: str, data: str, batch: int) -> list[str]:
    length = {"steps": draw.choice([1, 2, 3])}
    values: dict[str, Any] = {"epochs": None, **length}
    if draw.random() < 0.1:
        values = {"epochs": 0.01, "steps": None}
    values |= {"batch_size": batch, "progress": False, "threads": 1, "device": "cpu", "workers": 0}
    values |= {
        "accumulate": draw.choice([1, 1, 2]),
        "clip_grad": draw.choice([None, None, 0.5, 0.0]),
        "amp": draw.choice(["off", "off", "bf16", "fp16"]),
        "log_every": draw.choice([1, 2, 10]),
        "evaluate_every": draw.choice([None, 1, 2]),
        "checkpoint_every": draw.choice([None, 1, 2]),
        "keep_checkpoints": draw.choice([1, 2]),
        "max_time": draw.choice([None, None, 60.0]),
        "grad_checkpointing": draw.random() < 0.15 and kind != "nodes",
        "deterministic": draw.random() < 0.15,
        "channels_last": draw.random() < 0.2,
        "compile": False,
    }
    images = data in (*SIDES, "imagefolder")
    values["mixup"] = draw.choice([0.0, 0.2]) if kind in ("image", "features") else 0.0
    values["cutmix"] = draw.choice([0.0, 0.0, 1.0]) if images else 0.0
    values["label_smoothing"] = draw.choice([0.0, 0.0, 0.1])
    return _keys("trainer", values)


def _callbacks(draw: random.Random, entry: Entry) -> list[str]:
    own: dict[str, list[str]] = {
        "ema": [f"callbacks.ema.decay={draw.choice([0.0, 0.9, 0.999])}"],
        "geometry": [f"callbacks.geometry.samples={draw.choice([1, 16])}"],
    }
    if entry.kind in ("image", "features"):
        own["margin_loss"] = [f"callbacks.margin_loss.offset={draw.choice([0.0, 0.5])}"]
    if entry.kind == "nodes":
        own["reconstruction"] = []
    if entry.kind == "tokens":
        own["sample"] = [
            "callbacks.sample.length=5",
            f"callbacks.sample.top_k={draw.choice([0, 9])}",
        ]
        own["sample"].append(f"callbacks.sample.temperature={draw.choice([0.0, 0.8])}")
    if not _has_trunk(entry):
        del own["geometry"]
    chosen = [name for name in own if draw.random() < 0.35]
    return [f"callbacks=[{','.join(chosen) or 'none'}]", *(o for name in chosen for o in own[name])]


def _has_trunk(entry: Entry) -> bool:
    return "residual" in entry.options
