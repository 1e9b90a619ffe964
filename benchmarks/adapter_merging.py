"""Adapters of six novels in one: merged, and averaged as the clients of a federation average them.

The base is that of `adapter_novels.py`, which knows four of the six. Each novel has a LoRA of its
own draws, and an FFA-LoRA whose fixed factor all share, both of rank 8 and at the rates that were
best there. Merged are the two novels that the base does not know, and all six, to rank 8 (`cat`
keeps all components); a mean weighs deltas by 1 / n, a sum by 1. Figures are bits per byte of the
test folds, in the mean over the novels that were merged.

For one round of FFA-LoRA each client's own model is compared with the mean of all, on the novels of
the others.
"""

import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapter_novels import RANK, Bed, with_bed
from adapter_runs import SEEDS, chosen, told_of
from archzoo.zoo import AdapterSet, create_model
from archzoo.zoo.share.atomic_write import replacing
from harness import Bar, Measurement, main
from novels import NAMES
from runs import trained
from spread import summary, verdict

KINDS = ("lora", "ffa_lora")
GROUPS = {"two": ("northangerabbey", "sensesensibility"), "six": NAMES}
MERGES: dict[str, tuple[str, str]] = {
    "cat": ("lora", "cat"),
    "truncate": ("lora", "truncate"),
    "lego": ("lora", "lego"),
    "average": ("ffa_lora", "average"),
}
"""By the name of the merge: what is merged, and how."""


def rate_of(bed: Bed, kind: str, rank: int = RANK) -> float:
    """The rate that was best for the two novels which the base does not know."""
    if bed.quick:
        return 0.003
    told = told_of(bed.task, kind, {"rank": rank})
    return chosen(bed.runs("adapter_novels"), bed.task, told).rate


def adapter_of(bed: Bed, kind: str, novel: str, seed: int) -> Path:
    """Train the adapter of one novel, where it is missing."""
    place = bed.folder / "tasks" / f"{kind}-{novel}-{seed}.safetensors"
    if place.is_file():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    # Clients of FFA-LoRA share their fixed factor; other adapters know nothing of each other.
    drawn = seed if kind == "ffa_lora" else len(NAMES) * seed + NAMES.index(novel)
    told = [*bed.task.told, f"adapter={kind}", f"adapter.rank={RANK}", f"adapter.seed={drawn}"]
    told += [f"optim.lr={rate_of(bed, kind)}", f"data.pattern={novel}.txt"]
    told += [f"data.path={bed.text}", f"init={bed.base()}"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        trained(told, seed, folder)
        with replacing(place) as whole:
            shutil.copy(folder / "adapter.safetensors", whole)
    print(kind, novel, seed, flush=True)
    return place


def figures(bed: Bed, seed: int) -> dict[str, Any]:
    """Bits per byte by novel of the base, of every novel's own adapters and of all merges."""
    model = create_model(f"local-dir:{bed.base()}").eval()
    adapters = AdapterSet(model)

    def bits(novels: Sequence[str], *names: str) -> dict[str, float]:
        adapters.use(*names)
        return {novel: bed.bits(model, f"{novel}.txt") for novel in novels}

    for kind in KINDS:
        for novel in NAMES:
            adapters.add(f"{kind}_{novel}", adapter_of(bed, kind, novel, seed))
    found: dict[str, Any] = {"base": bits(NAMES)}
    found["own"] = {n: bits([n], f"lora_{n}")[n] for n in NAMES}
    found["clients"] = {n: bits(NAMES, f"ffa_lora_{n}") for n in NAMES}
    for group, novels in GROUPS.items():
        for merge, (kind, how) in MERGES.items():
            names = [f"{kind}_{novel}" for novel in novels]
            rank = None if how in ("cat", "average") else RANK
            for weighing, weights in (("mean", None), ("sum", [1.0] * len(names))):
                name = f"{group}, {merge}, {weighing}"
                adapters.merge(name, names, how, rank=rank, weights=weights)  # type: ignore[arg-type]
                found[name] = bits(novels, name)
    return found


def measure(quick: bool) -> Measurement:
    """Run what is missing, and make the tables and the bars."""
    return with_bed(_measure, quick)


def by_seed(bed: Bed, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The figures of every seed, from the record or now."""
    records = bed.runs("adapter_merging").records
    return [
        records.get({"merging": RANK, "seed": seed}, lambda s=seed: figures(bed, s))
        for seed in seeds
    ]


def _measure(bed: Bed) -> Measurement:
    seeds = (0,) if bed.quick else SEEDS
    found = by_seed(bed, seeds)
    rows: list[dict[str, Any]] = []
    for group, novels in GROUPS.items():
        for weighing in ("mean", "sum"):
            means = {m: _means(found, f"{group}, {m}, {weighing}", novels) for m in MERGES}
            for merge, bits in means.items():
                rows.append(_row(group, f"{merge}, {weighing}", bits, means["lego"]))
        for name in ("base", "own"):
            rows.append(_row(group, name, _means(found, name, novels)))
    federated, gains = _federated(found)
    rows += federated
    if bed.quick:
        return rows, [Bar("novels", len(found[0]["base"]), 6.0)]
    lead = (
        "bits per byte of a client on the others' novels, less those of the mean model, the least"
    )
    return rows, [Bar(lead, min(gains), 0.0, at_most=False)]


def _means(found: Sequence[Mapping[str, Any]], name: str, novels: Sequence[str]) -> list[float]:
    return [statistics.mean(one[name][novel] for novel in novels) for one in found]


def _row(
    group: str, name: str, bits: Sequence[float], lego: Sequence[float] | None = None
) -> dict[str, Any]:
    mean, error = summary(bits)
    return {
        "novels": group,
        "merged by": name,
        "bits_per_byte": round(mean, 4),
        "standard error": round(error, 4),
        "lego against it": "" if lego is None or lego == bits else verdict(lego, bits),
        "seeds": [round(each, 4) for each in bits],
    }


def _federated(found: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[float]]:
    """Rows of one round of FFA-LoRA, and by how much the mean model leads each client."""
    rows, gains = [], []
    for client in NAMES:
        others = [novel for novel in NAMES if novel != client]
        own = [statistics.mean(one["clients"][client][n] for n in others) for one in found]
        mean = _means(found, "six, average, mean", others)
        gains.append(statistics.mean(own) - statistics.mean(mean))
        rows.append(
            {
                "client": client,
                "on the others' novels": round(statistics.mean(own), 4),
                "mean model": round(statistics.mean(mean), 4),
                "base": round(statistics.mean(_means(found, "base", others)), 4),
                "mean model against client": verdict(mean, own),
            }
        )
    return rows, gains


if __name__ == "__main__":
    main("adapter_merging", measure)
