"""Adapters of a byte-level GPT that knows four novels, to two that it does not know.

`gpt_tiny` (`experiment=novels_gpt`) is trained once on four of Jane Austen's novels and adapted to
the two others (`experiment=adapt_novels`): every preset of the registry at about the numbers that a
LoRA of rank 8 trains, all weights and the head alone beside it (`adapter_runs.py` has the rules).
The presets' claims are judged by two standard errors over three seeds, which draw the adapters and
the order of the data; the base is one.

ARCHZOO_DATA holds `austen`. Each run is appended to `results/adapter_novels_runs.jsonl` when it
ends; the base is made anew where it is missing, in `build/benchmarks/adapters`.
"""

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from adapter_claims import NOVELS, judged
from adapter_runs import Adapted, Task, chosen, methods, row
from archzoo.zoo import create_model
from harness import UNTRACKED, Bar, Measurement, main
from novels import bits_per_byte, novels, stand_ins
from runs import Runs, trained
from spread import summary

RANK = 8
CONTEXT = 128
BASE = ("experiment=novels_gpt",)
ADAPT = ("experiment=adapt_novels",)
NEW = "[ns]*.txt"
SMALL = ("model.width=32", "model.depth=1", "model.num_heads=1", "data.context_length=32")
"""Of quick runs."""


class Bed:
    """The base, where it lies, and the runs that start from it.

    Args:
        folder: Of what is made once, the base before all.
        quick: Whether all is tiny and nothing is kept.
    """

    def __init__(self, folder: Path = UNTRACKED / "adapters", quick: bool = False) -> None:
        """Name the folders; nothing is trained before it is needed."""
        self.folder, self.quick = folder, quick
        self.text = stand_ins(folder / "text") if quick else novels()
        self.small = SMALL if quick else ()
        self.context = 32 if quick else CONTEXT
        options: dict[str, Any] = {"context_length": self.context}
        if quick:
            options |= {"width": 32, "depth": 1, "num_heads": 1}
        short = ("trainer.steps=6", "trainer.evaluate_every=6") if quick else ()
        told = (*ADAPT, *self.small, *short)
        # One rate and one seed where figures are of no interest.
        self.grid: dict[str, Any] = {"rates": (0.003,), "outer": (), "seeds": (0,)} if quick else {}
        self.task = Task("gpt_tiny", told, "bits_per_byte", ["embedding.*"], 8, options)

    def runs(self, name: str, *more: str, start: Path | None = None) -> Runs:
        """Runs that start from the base, or from what was made of it."""
        place = self.folder / "base" if start is None else start
        return Runs(
            name, self.quick, f"data.path={self.text}", f"init={place}", *more, before=self.base
        )

    @functools.cache  # noqa: B019
    def base(self) -> Path:
        """Train the base where it is missing."""
        place = self.folder / "base"
        if not (place / "result.json").is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            short = ("trainer.steps=30", "trainer.evaluate_every=30") if self.quick else ()
            told = (*BASE, *self.small, *short, f"data.path={self.text}", "resume=auto")
            trained(told, 0, place)
        return place

    def bits(self, model: torch.nn.Module, pattern: str = NEW, fold: str = "test") -> float:
        """Bits per byte of a model on some novels."""
        return bits_per_byte(model, self.text, pattern, self.context, fold=fold, amp="bf16")


def swept(bed: Bed, names: Sequence[str] | None = None) -> dict[str, Adapted]:
    """Adapt by all methods, or by those that are named."""
    runs = bed.runs("adapter_novels")
    told = methods(bed.task, 4 if bed.quick else RANK)
    return {
        name: chosen(runs, bed.task, told[name], **bed.grid)
        for name in told
        if names is None or name in names
    }


def with_bed(measured: Callable[[Bed], Measurement], quick: bool) -> Measurement:
    """Measure with the base, or with a tiny one that is gone afterwards."""
    torch.set_num_threads(1)
    if not quick:
        return measured(Bed())
    with tempfile.TemporaryDirectory() as place:
        return measured(Bed(Path(place), quick=True))


def measure(quick: bool) -> Measurement:
    """Run what is missing, and make the table, the claims and the bars."""
    return with_bed(_measure, quick)


def _measure(bed: Bed) -> Measurement:
    start = unadapted(bed)
    found = swept(bed)
    order = sorted(found, key=lambda name: summary(found[name].figures("test", "bits_per_byte"))[0])
    rows: list[dict[str, Any]] = [
        {"part": "presets", **row(name, found[name], found["lora"], bed.task)} for name in order
    ]
    bars = [
        Bar(
            f"bits per byte of {name} over those of the base",
            max(found[name].figures("test", "bits_per_byte")) / start["test"],
            1.0,
        )
        for name in order
        if name != "lq_lora"  # which starts from fewer bits
    ]
    notes = [f"the base: {start['test']:.4f} bits per byte, validation {start['validation']:.4f}"]
    if bed.quick:
        return rows, [Bar("bits per byte of the base", start["test"], 8.0)], notes
    figures = {name: one.figures("test", "bits_per_byte") for name, one in found.items()}
    rows += [{"part": "claims", **each} for each in judged(NOVELS, figures)]
    return rows, bars, notes


def unadapted(bed: Bed) -> dict[str, float]:
    """Bits per byte of the base on the novels that it does not know."""

    def read() -> dict[str, Any]:
        model = create_model(f"local-dir:{bed.base()}").eval()
        return {fold: bed.bits(model, fold=fold) for fold in ("validation", "test")}

    return bed.runs("adapter_novels").records.get({"told": list(BASE), "on": NEW}, read)


if __name__ == "__main__":
    main("adapter_novels", measure)
