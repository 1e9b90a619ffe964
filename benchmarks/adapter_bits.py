"""LQ-LoRA at two to three bits a weight, beside a LoRA over weights that were rounded before.

Base, novels, rates and seeds are those of `adapter_novels.py`, the rank is 8. Stored bits count
scales. A mean of bits is met by choosing 2, 3, 4 or 8 for each weight; it is compared with plain
rounding to the next number of bits above it.
"""

import functools
from pathlib import Path

import torch
from adapter_novels import RANK, Bed, with_bed
from adapter_runs import Adapted, chosen, told_of
from archzoo.layers.lowrank.weights.quantised import Quantised
from archzoo.zoo import adapt, create_model, save_model
from harness import Bar, Measurement, main
from spread import summary, verdict

LQ_BITS = {2.13: {"bits": 2}, 2.75: {"mean_bits": 2.75}, 3.0: {"mean_bits": 3.0}}
ROUNDED_BITS = {2.13: 2, 3.13: 3}
"""By stored bits."""


def rounded(bed: Bed, bits: int) -> Path:
    """Make the base with the weights of all targets rounded to so many bits."""
    place = bed.folder / f"base-{bits}-bits"
    if not (place / "config.json").is_file():
        model = create_model(f"local-dir:{bed.base()}")
        with torch.no_grad():
            for name in adapt(create_model(f"local-dir:{bed.base()}"), "lora").targets:
                weight = model.get_parameter(f"{name}.weight")
                weight.copy_(Quantised(weight, bits).dense())
        save_model(model, place)
    return place


def few_bits(bed: Bed) -> dict[tuple[str, float], Adapted]:
    """By method and stored bits: LQ-LoRA, and a LoRA over weights that were rounded before."""
    found = {}
    for stored, bits in ROUNDED_BITS.items():
        plain = bed.runs("adapter_novels", start=bed.folder / f"base-{bits}-bits")
        plain.before = functools.partial(rounded, bed, bits)
        # The bits are part of what a record is known by, though the run has them in its weights.
        told = (*told_of(bed.task, "lora", {"rank": RANK}), f"name=rounded_to_{bits}_bits")
        found["rounded, then lora", stored] = chosen(plain, bed.task, told, **bed.grid)
    for stored, settings in LQ_BITS.items():
        told = told_of(bed.task, "lq_lora", {**settings, "rank": RANK})
        found["lq_lora", stored] = chosen(bed.runs("adapter_novels"), bed.task, told, **bed.grid)
    return found


def measure(quick: bool) -> Measurement:
    """Run what is missing, and make the table and the bars."""
    return with_bed(_measure, quick)


def _measure(bed: Bed) -> Measurement:
    found, rows, leads = few_bits(bed), [], []
    for (name, stored), one in found.items():
        figures = one.figures("test", "bits_per_byte")
        above = min(bits for method, bits in found if method != "lq_lora" and bits >= stored)
        plain = found["rounded, then lora", above].figures("test", "bits_per_byte")
        if name == "lq_lora":
            leads.append(summary(figures)[0] - summary(plain)[0])
        rows.append(
            {
                "method": name,
                "stored bits": stored,
                "bits_per_byte": round(summary(figures)[0], 4),
                "standard error": round(summary(figures)[1], 4),
                "against rounded, then lora": verdict(figures, plain) if name == "lq_lora" else "",
                "of stored bits": above,
                "seeds": [round(each, 4) for each in figures],
                "rate": one.rate,
                "rate inside the grid": min(one.tried) < one.rate < max(one.tried),
            }
        )
    if bed.quick:
        return rows, [Bar("bits per byte, the worst", max(r["bits_per_byte"] for r in rows), 8.0)]
    what = "bits per byte of LQ-LoRA above those of a LoRA over rounded weights, the worst"
    return rows, [Bar(what, max(leads), 0.0)]


if __name__ == "__main__":
    main("adapter_bits", measure)
