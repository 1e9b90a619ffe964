"""Six novels of Jane Austen in `$ARCHZOO_DATA/austen`, and bits per byte of a model on some."""

import os
from pathlib import Path

import torch
from archzoo.train.data import Batches, data_sets, loader
from archzoo.train.engine.half_precision import autocast
from archzoo.train.engine.metrics import evaluate
from torch import nn

__all__ = ["NAMES", "bits_per_byte", "novels", "stand_ins"]

NAMES = (
    *("emma", "mansfieldpark", "northangerabbey"),
    *("persuasion", "prideprejudice", "sensesensibility"),
)


def novels() -> Path:
    """The folder of the corpus."""
    place = Path(os.environ.get("ARCHZOO_DATA", "data")) / "austen"
    if not place.is_dir():
        raise SystemExit(f"{place} was not found; set ARCHZOO_DATA to the folder that holds austen")
    return place


def stand_ins(folder: Path) -> Path:
    """Six texts of the project's own sources under the names of the novels, for quick runs."""
    root = Path(__file__).parents[1]
    parts = ("layers/lowrank", "layers/residual", "layers/lipschitz", "zoo/share", "train", "zoo")
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in zip(NAMES, parts, strict=True):
        sources = sorted((root / part).glob("*.py"))
        (folder / f"{name}.txt").write_text("".join(path.read_text() for path in sources))
    return folder


def bits_per_byte(
    model: nn.Module,
    folder: Path,
    pattern: str,
    context_length: int,
    *,
    fold: str = "test",
    amp: str = "off",
    batch_size: int = 16,
) -> float:
    """Bits per byte of a fold of the novels that a pattern names, one after the other."""
    splits = data_sets.build(
        "bytes", path=str(folder), pattern=pattern, context_length=context_length
    )
    texts = getattr(splits, fold)
    batches = loader(texts, Batches(len(texts), batch_size, seed=0, epoch=0, shuffle=False))
    device = torch.device("cpu")
    figures = evaluate(model, batches, "tokens", device, lambda: autocast("cpu", amp))
    return round(figures["bits_per_byte"], 4)
