"""One DyLoRA of rank 16 evaluated at five ranks, beside a LoRA that is trained at each.

Base, novels, rates and seeds are those of `adapter_novels.py`. DyLoRA trains the last component of
a step's prefix, as published, or all of it. Figures are bits per byte of the test fold.
"""

from collections.abc import Mapping
from pathlib import Path

from adapter_novels import Bed, with_bed
from adapter_runs import chosen, told_of
from archzoo.zoo import create_model
from harness import Bar, Measurement, main
from spread import summary, verdict

RANKS = (1, 2, 4, 8, 16)
NEAR = 0.02


def prefixes(bed: Bed) -> dict[str, dict[int, list[float]]]:
    """Bits per byte at every rank: a LoRA trained at it, and one DyLoRA of the largest."""
    runs = bed.runs("adapter_novels")

    def ranks(folder: Path) -> Mapping[str, float]:
        model, found = create_model(f"local-dir:{folder}").eval(), {}
        assert model.lowrank is not None
        for rank in RANKS:
            for factors in model.lowrank.factors().values():
                factors.rank = rank
            found[str(rank)] = bed.bits(model)
        return found

    found: dict[str, dict[int, list[float]]] = {"lora": {}}
    for rank in RANKS:
        one = chosen(runs, bed.task, told_of(bed.task, "lora", {"rank": rank}), **bed.grid)
        found["lora"][rank] = one.figures("test", "bits_per_byte")
    for train in ("last", "prefix"):
        told = told_of(bed.task, "dylora", {"rank": RANKS[-1], "train": train})
        one = chosen(runs, bed.task, told, also=ranks, **bed.grid)
        found[f"dylora, {train}"] = {
            rank: [each["ranks"][str(rank)] for each in one.runs] for rank in RANKS
        }
    return found


def measure(quick: bool) -> Measurement:
    """Run what is missing, and make the table and the bars."""
    return with_bed(_measure, quick)


def _measure(bed: Bed) -> Measurement:
    found, rows = prefixes(bed), []
    for name, ranks in found.items():
        for rank, figures in ranks.items():
            gap = summary(figures)[0] - summary(found["lora"][rank])[0]
            rows.append(
                {
                    "method": name,
                    "rank": rank,
                    "bits_per_byte": round(summary(figures)[0], 4),
                    "standard error": round(summary(figures)[1], 4),
                    "gap": round(gap, 4),
                    "near": gap <= NEAR,
                    "against lora": "" if name == "lora" else verdict(figures, found["lora"][rank]),
                    "seeds": [round(each, 4) for each in figures],
                }
            )
    if bed.quick:
        return rows, [Bar("bits per byte, the worst", max(r["bits_per_byte"] for r in rows), 8.0)]
    best = min(
        max(row["gap"] for row in rows if row["method"] == name) for name in found if name != "lora"
    )
    what = (
        "bits per byte of DyLoRA at a rank above a LoRA of that rank, the worst of the better mode"
    )
    return rows, [Bar(what, best, NEAR)]


if __name__ == "__main__":
    main("adapter_ranks", measure)
