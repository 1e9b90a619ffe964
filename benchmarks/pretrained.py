"""Evaluate every set of weights that the package ships, and compare with what its card says.

    ARCHZOO_DATA=DIR WORDNET=DIR python benchmarks/pretrained.py --check

ARCHZOO_DATA is the folder with `FashionMNIST/raw`, WORDNET that with `data.noun`; weights whose
data are not there are left out. Figures are of the whole test fold; certificates are proved anew.
The table of `docs/weights.md` is made of the result file by `python -m tests.weights_page`.
`train_pretrained.py` trains the weights.
"""

import os
from pathlib import Path
from typing import Any

import torch
from archzoo.train.errors import RunError
from archzoo.train.subject.card_figures import card_figures, certified_figures, levels_of
from archzoo.train.subject.given_data import model_on_data
from archzoo.train.subject.given_model import find_model
from archzoo.zoo.share.pretrained import shipped_folder, weights_cards
from archzoo.zoo.share.save_load import WEIGHTS
from archzoo.zoo.share.weights_card import WeightsCard
from harness import Bar, Measurement, main

ROOTS = {
    "fashion_mnist": os.environ.get("ARCHZOO_DATA", "data"),
    "wordnet": os.environ.get("WORDNET", "/usr/share/wordnet"),
}
FEW = ("digits", "tabular")  # seconds
MOST = {"accuracy": 0.003, "bits_per_byte": 0.002, "map": 0.002}
"""By how much another processor may move a figure: one of 360 digits, else its last place."""


def found_of(card: WeightsCard) -> dict[str, float]:
    """The figures of stored weights now.

    Raises:
        RunError: their data are not there.
    """
    root = ROOTS.get(str(card.data["name"]))
    given = {} if root is None else {"root": str(Path(root).absolute())}
    subject = model_on_data(find_model(f"pretrained:{card.name}"), given)
    figures = card_figures(subject)
    if card.certified:
        figures |= certified_figures(subject, levels_of(card.certified))
    return figures


def row(card: WeightsCard, found: dict[str, float]) -> dict[str, Any]:
    """A line of the table: what the card says and what was found."""
    said: dict[str, float] = {**card.metrics, **card.certified}
    told = {
        "weights": card.name,
        "figure": card.headline,
        "card": round(card.metrics[card.headline], 5),
        "found": round(found[card.headline], 5),
        "difference": max(abs(found[key] - said[key]) for key in (card.headline, *card.certified)),
        "KB": round((shipped_folder(card) / WEIGHTS).stat().st_size / 1000, 1),
        "precision": card.precision,
    }
    for name in card.certified:
        if "/" in name:
            told |= {f"certified {name}": round(said[name], 5), f"found {name}": found[name]}
    return told


def measure(quick: bool) -> Measurement:
    """Evaluate all weights whose data are there."""
    torch.set_num_threads(1)
    rows, missing = [], []
    for card in weights_cards().values():
        if card.hub is not None or (quick and card.data["name"] not in FEW):
            continue
        try:
            rows.append(row(card, found_of(card)))
        except RunError as error:
            missing.append(f"{card.name}: {error}")
    bars = []
    for metric, most in MOST.items():
        differences = [one["difference"] for one in rows if one["figure"] == metric]
        if differences:
            bars.append(Bar(f"largest difference from a card, {metric}", max(differences), most))
    bars.append(Bar("KB of the largest file", max(one["KB"] for one in rows), 1000))
    bars.append(Bar("KB of all files", sum(one["KB"] for one in rows), 8000))
    return rows, bars, missing


if __name__ == "__main__":
    main("pretrained", measure)
