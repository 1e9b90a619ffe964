"""Train the weights that the package ships, and write them with their cards.

    python benchmarks/train_pretrained.py vit_nano_block_attnres/digits …    all, without a name

`train_pretrained.yaml` says how each is trained. Every seed is a run of `archzoo train` under
`build/pretrained`, which goes on where it was interrupted and is not run again where it ended. The
seed in the middle by the validation fold ships (of two, the worse), in half precision where that
moves no figure of the validation fold by more than `HALF`. The weights then replace those in
`zoo/pretrained`, whose card states what the stored file does on the test fold.

ARCHZOO_DATA is the folder with `FashionMNIST/raw`, WORDNET that with `data.noun`.
"""

import argparse
import copy
import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from archzoo.train.subject.card_figures import HEADLINES, card_figures, certified_figures
from archzoo.train.subject.given_data import model_on_data
from archzoo.train.subject.given_model import find_model, find_run
from archzoo.train.subject.model_on_data import ModelOnData
from archzoo.train.subject.run_card import run_card
from archzoo.zoo.share.pretrained import SHIPPED, config_digest
from archzoo.zoo.share.save_load import WEIGHTS, save_model
from archzoo.zoo.share.weights_card import CARD, WeightsCard, write_card

HERE = Path(__file__).parent
RECIPES: dict[str, Any] = yaml.safe_load((HERE / "train_pretrained.yaml").read_text())
RUNS = HERE.parent / "build" / "pretrained"
HALF = {"accuracy": 0.002, "bits_per_byte": 0.002, "map": 0.0005}
LARGEST = 1_000_000  # bytes of a file that ships
ATTACKED = 1000  # samples of a test fold that radii are attacked on; a larger one is only proved
LICENCE = "apache-2.0"


def root_of(name: str) -> list[str]:
    """Where the data of weights lie, as a setting; nothing for what comes with the installation."""
    variable = RECIPES[name].get("root")
    if variable is None:
        return []
    if variable not in os.environ:
        raise SystemExit(f"{name} needs {variable}=DIR, the folder of its data")
    return [f"data.root={Path(os.environ[variable]).absolute()}"]


def train(name: str, seed: int, runs: Path) -> Path:
    """Train a seed, or go on with it; return the folder of the run."""
    folder = runs / name.replace("/", "-") / f"seed-{seed}"
    command = [
        *(sys.executable, "-W", "ignore", "-m", "archzoo.train", *RECIPES[name]["train"]),
        *(f"seed={seed}", *root_of(name), f"run_dir={folder}", "resume=auto"),
        *("logger=[csv]", "trainer.progress=false"),
    ]
    subprocess.run(command, check=True)
    return folder


def on_data(place: Any, name: str, data: str, options: dict[str, Any]) -> ModelOnData:
    """A model at a place on the data of the weights' name."""
    roots = [word.partition("=")[2] for word in root_of(name)]
    given = {"root": roots[0]} if roots else {}
    return model_on_data(place, {"name": data, **options, **given})


def middle(figures: dict[int, dict[str, float]], headline: str) -> int:
    """The seed in the middle by the validation fold; of two, the worse."""
    sign = -1 if headline.startswith("bits") else 1
    ordered = sorted(figures, key=lambda seed: sign * figures[seed]["validation"])
    return ordered[(len(ordered) - 1) // 2]


def stored(model: Any, folder: Path, half: bool) -> Path:
    """Save a model in single or half precision."""
    model = copy.deepcopy(model).half() if half else model
    return save_model(model, folder)


def write(name: str, runs: dict[int, Path]) -> WeightsCard:
    """Choose a seed, store its weights, measure them and put them in the place of older ones."""
    recipe, tag = RECIPES[name], name.partition("/")[2]
    figures: dict[int, dict[str, float]] = {}
    for seed, folder in runs.items():
        place = find_run(str(folder))
        subject = on_data(place, name, str(place.data), {})
        headline = HEADLINES.get(subject.splits.kind, "accuracy")
        figures[seed] = {f: card_figures(subject, f)[headline] for f in ("validation", "test")}
    seed = middle(figures, headline)
    card, model = run_card(str(runs[seed])), find_run(str(runs[seed])).load()
    options = {key: value for key, value in card.data.items() if key != "name"}
    SHIPPED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SHIPPED, prefix=".unfinished-") as place:
        folder, half = stored(model, Path(place) / "new", True), True
        subject = on_data(find_model(str(folder)), name, card.data["name"], options)
        moved = abs(card_figures(subject, "validation")[headline] - figures[seed]["validation"])
        if not moved <= HALF[headline]:
            half = False
            shutil.rmtree(folder)
            stored(model, folder, half)
            subject = on_data(find_model(str(folder)), name, card.data["name"], options)
        size = (folder / WEIGHTS).stat().st_size
        if size > LARGEST:
            raise SystemExit(f"{name} has {size} bytes, more than {LARGEST}; train a smaller model")
        levels, few = recipe.get("certify", []), len(subject.splits.test) <= ATTACKED
        card = dataclasses.replace(
            card,
            tag=tag,
            default=bool(recipe.get("default", False)),
            sha256=config_digest(folder),
            data_digest=_digest(subject),
            licence=LICENCE,
            seeds={str(each): found for each, found in figures.items()},
            headline=headline,
            metrics=card_figures(subject),
            certified=certified_figures(subject, levels, attack=few) if levels else {},
            precision="float16" if half else "float32",
            note=recipe.get("note", "").replace("PYTHON", platform.python_version()),
        )
        write_card(card, folder / CARD)
        _replace(SHIPPED / name.replace("/", "-"), folder, Path(place) / "old")
    return card


def _replace(target: Path, new: Path, old: Path) -> None:
    """Put a folder in the place of another, which comes back if that fails."""
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def _digest(subject: ModelOnData) -> str:
    """The digest of the test fold, where the data set records one."""
    about = subject.splits.about
    return str(about.get("sha256", {}).get("test") or about.get("file sha256", ""))


def main() -> None:
    """Train and write what the command names."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL/TAG", help="all where none is named")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the runs lie")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.names or RECIPES:
        if name not in RECIPES:
            raise SystemExit(f"no weights {name!r} in train_pretrained.yaml: {', '.join(RECIPES)}")
        runs = {seed: train(name, seed, arguments.runs) for seed in RECIPES[name]["seeds"]}
        card = write(name, runs)
        print(json.dumps(dataclasses.asdict(card), indent=2), flush=True)


if __name__ == "__main__":
    main()
