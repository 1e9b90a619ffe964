"""Adapters of a byte-level GPT that knows four novels, to two that it does not know.

`gpt_tiny` (`experiment=novels_gpt`) is trained once on four of Jane Austen's novels and adapted to
the two others (`experiment=adapt_novels`): every preset of the registry at about the numbers that a
LoRA of rank 8 trains, all weights and the head alone beside it (`adapter_runs.py` has the rules).
The presets' claims are judged by two standard errors over three seeds, which draw the adapters and
the order of the data; the base is one.

Then one DyLoRA of rank 16, evaluated at five ranks, beside a LoRA trained at each; and weights of
few bits, where LQ-LoRA's start is compared with that of a plain LoRA over rounded weights.

ARCHZOO_DATA holds `austen`. Each run is appended to `results/adapter_novels_runs.jsonl` when it
ends; the base is made anew where it is missing, in `build/benchmarks/adapters`.
"""

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from adapter_claims import NOVELS, judged
from adapter_runs import Adapted, Task, chosen, methods, row, told_of
from archzoo.layers.lowrank.weights.quantised import Quantised
from archzoo.zoo import adapt, create_model, save_model
from harness import UNTRACKED, Bar, Measurement, main
from novels import bits_per_byte, novels, stand_ins
from runs import Runs, trained
from spread import summary, verdict

RANK = 8
RANKS = (1, 2, 4, 8, 16)
LQ_BITS = {2.13: {"bits": 2}, 2.75: {"mean_bits": 2.75}, 3.0: {"mean_bits": 3.0}}
ROUNDED_BITS = {2.13: 2, 3.13: 3}
"""By stored bits, scales included."""
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

    def rounded(self, bits: int) -> Path:
        """Make the base with the weights of all targets rounded to so many bits."""
        place = self.folder / f"base-{bits}-bits"
        if not (place / "config.json").is_file():
            model = create_model(f"local-dir:{self.base()}")
            with torch.no_grad():
                for name in adapt(create_model(f"local-dir:{self.base()}"), "lora").targets:
                    weight = model.get_parameter(f"{name}.weight")
                    weight.copy_(Quantised(weight, bits).dense())
            save_model(model, place)
        return place

    def bits(self, model: torch.nn.Module, pattern: str = NEW, fold: str = "test") -> float:
        """Bits per byte of a model on some novels."""
        return bits_per_byte(model, self.text, pattern, self.context, fold=fold, amp="bf16")


def swept(bed: Bed, names: Sequence[str] | None = None) -> dict[str, Adapted]:
    """Adapt by all methods, or by those that are named."""
    runs = bed.runs("adapter_novels")
    told = methods(bed.task, 4 if bed.quick else RANK)
    rates = {"rates": (0.003,), "outer": (), "seeds": (0,)} if bed.quick else {}
    return {
        name: chosen(runs, bed.task, told[name], **rates)
        for name in told
        if names is None or name in names
    }


def prefixes(bed: Bed) -> dict[str, dict[int, list[float]]]:
    """Bits per byte at every rank: a LoRA trained at it, and one DyLoRA of the largest."""
    runs = bed.runs("adapter_novels")

    def ranks(folder: Path) -> Mapping[str, float]:
        model, found = create_model(f"local-dir:{folder}").eval(), {}
        for rank in RANKS:
            for factors in model.lowrank.factors().values():
                factors.rank = rank
            found[str(rank)] = bed.bits(model)
        return found

    found: dict[str, dict[int, list[float]]] = {"lora": {}}
    for rank in RANKS:
        one = chosen(runs, bed.task, told_of(bed.task, "lora", {"rank": rank}))
        found["lora"][rank] = one.figures("test", "bits_per_byte")
    for train in ("last", "prefix"):
        told = told_of(bed.task, "dylora", {"rank": RANKS[-1], "train": train})
        one = chosen(runs, bed.task, told, also=ranks)
        found[f"dylora, {train}"] = {
            rank: [each["ranks"][str(rank)] for each in one.runs] for rank in RANKS
        }
    return found


def few_bits(bed: Bed) -> dict[tuple[str, float], Adapted]:
    """By method and stored bits: LQ-LoRA, and a LoRA over weights that were rounded before."""
    found = {}
    for stored, bits in ROUNDED_BITS.items():
        plain = bed.runs("adapter_novels", start=bed.folder / f"base-{bits}-bits")
        plain.before = functools.partial(bed.rounded, bits)
        # The bits are part of what a record is known by, though the run has them in its weights.
        told = (*told_of(bed.task, "lora", {"rank": RANK}), f"name=rounded_to_{bits}_bits")
        found["rounded, then lora", stored] = chosen(plain, bed.task, told)
    for stored, settings in LQ_BITS.items():
        told = told_of(bed.task, "lq_lora", {**settings, "rank": RANK})
        found["lq_lora", stored] = chosen(bed.runs("adapter_novels"), bed.task, told)
    return found


def measure(quick: bool) -> Measurement:
    """Run what is missing, and make the tables and the bars."""
    torch.set_num_threads(1)
    if not quick:
        return _measure(Bed())
    with tempfile.TemporaryDirectory() as place:
        return _measure(Bed(Path(place), quick=True))


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
    rows += _rows_of_prefixes(prefixes(bed))
    rows += _rows_of_bits(few_bits(bed))
    return rows, bars, notes


def unadapted(bed: Bed) -> dict[str, float]:
    """Bits per byte of the base on the novels that it does not know."""

    def read() -> dict[str, Any]:
        model = create_model(f"local-dir:{bed.base()}").eval()
        return {fold: bed.bits(model, fold=fold) for fold in ("validation", "test")}

    return bed.runs("adapter_novels").records.get({"told": list(BASE), "on": NEW}, read)


def _rows_of_prefixes(found: Mapping[str, Mapping[int, list[float]]]) -> list[dict[str, Any]]:
    rows = []
    for name, ranks in found.items():
        for rank, figures in ranks.items():
            gap = summary(figures)[0] - summary(found["lora"][rank])[0]
            rows.append(
                {
                    "part": "ranks",
                    "method": name,
                    "rank": rank,
                    "bits_per_byte": round(summary(figures)[0], 4),
                    "standard error": round(summary(figures)[1], 4),
                    "gap": round(gap, 4),
                    "within 0.02": gap <= 0.02,
                    "seeds": figures,
                }
            )
    return rows


def _rows_of_bits(found: Mapping[tuple[str, float], Adapted]) -> list[dict[str, Any]]:
    rows = []
    for (name, stored), one in found.items():
        figures = one.figures("test", "bits_per_byte")
        # Rounding has no mean bits: it is compared with the next number of them above.
        above = min(bits for method, bits in found if method != "lq_lora" and bits >= stored)
        plain = found["rounded, then lora", above].figures("test", "bits_per_byte")
        rows.append(
            {
                "part": "bits",
                "method": name,
                "stored bits": stored,
                "bits_per_byte": round(summary(figures)[0], 4),
                "standard error": round(summary(figures)[1], 4),
                "seeds": [round(each, 4) for each in figures],
                "against rounded, then lora": verdict(figures, plain) if name == "lq_lora" else "",
                "of bits": above,
                "rate": one.rate,
            }
        )
    return rows


if __name__ == "__main__":
    main("adapter_novels", measure)
