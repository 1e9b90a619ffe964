"""Six novels as six tasks of one adapter: in one mixture, and one after the other.

The base is that of `adapter_novels.py`, which knows four of the six.

- SMoRA of 32 components of which 4 act, on all novels together, beside a LoRA of 4 and one of 32.
- ReMix of 6 adapters of which 2 act, beside the same mixture with a softmax router that is trained
  by the ordinary gradient. The effective number of adapters of an input, (Σ π)² / Σ π², is 2 in
  ReMix by construction; that of the mean use of adapters, from 1 to 6, is not.
- CoDyRA on one novel after the other, in the order of their names, beside a LoRA that is merged and
  started anew for each. Forgetting is the mean rise of bits per byte of a novel from the end of its
  own task to the end of all.
"""

import dataclasses
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from adapter_merging import rate_of
from adapter_novels import RANK, Bed, with_bed
from adapter_runs import SEEDS, Adapted, Task, chosen, told_of
from archzoo.layers.lowrank import Factors
from archzoo.layers.lowrank.adapters.scheduled.remix import DrawnGate, ReMix
from archzoo.zoo import create_model, merge_lowrank, save_model
from archzoo.zoo.axes.adapters import presets
from harness import Bar, Measurement, main
from novels import NAMES
from runs import trained
from spread import summary, verdict
from torch import Tensor
from torch.nn import functional as F

MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "lora, rank 4": ("lora", {"rank": 4}),
    "smora, 4 of 32": ("smora", {"rank": 32, "active": 4}),
    "lora, rank 32": ("lora", {"rank": 32}),
}
ADAPTERS, ACTIVE, EACH = 6, 2, 4
ROUTED = {"adapters": ADAPTERS, "active": ACTIVE, "rank": EACH}


class SoftmaxGate(DrawnGate):
    """Gates of the k likeliest adapters, in proportion to their chances, which add up to k."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the gates of inputs."""
        chances = F.linear(x, self.router).softmax(-1)
        kept = chances.topk(self.active, dim=-1)
        values = self.active * kept.values / kept.values.sum(-1, keepdim=True)
        gates = torch.zeros_like(chances).scatter(-1, kept.indices, values)
        return gates.repeat_interleave(self.rank, -1)


@presets.register(name="softmax_mixture", source="arXiv:2603.10160")
class SoftmaxMixture(ReMix):
    """ReMix with a softmax router that is trained by the ordinary gradient, to compare with."""

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> Factors:
        """Put the adapters and the router beside the weight."""
        found = super().structure(name, weight, generator)
        rank = self.rank_for(name, tuple(weight.shape))
        found.gate = SoftmaxGate(weight.shape[-1], self.adapters, rank, self.active, weight)
        with torch.no_grad():  # a router of zeros would give every input the same adapters
            found.gate.router.normal_(std=weight.shape[-1] ** -0.5, generator=generator)
        return found

    def note_loss(self, controller: Any, loss: Tensor) -> None:
        """Nothing is drawn."""

    def before_step(self, controller: Any, optimizer: torch.optim.Optimizer) -> None:
        """The routers have their gradients."""


def together(bed: Bed) -> Task:
    """All novels at once."""
    return dataclasses.replace(bed.task, told=(*bed.task.told, "data.pattern=*.txt"))


def mixed(bed: Bed) -> dict[str, Adapted]:
    """SMoRA and what it is compared with, on all novels."""
    task = together(bed)
    return {
        name: chosen(bed.runs("adapter_tasks"), task, told_of(task, kind, settings), **bed.grid)
        for name, (kind, settings) in MIXTURES.items()
    }


def routed(bed: Bed) -> dict[str, Adapted]:
    """ReMix and its twin with a softmax, on all novels."""

    def numbers(folder: Path) -> Mapping[str, float]:
        return effective_numbers(bed, create_model(f"local-dir:{folder}").eval())

    task, found = together(bed), {}
    for name in ("remix", "softmax_mixture"):
        # Both see the two halves of a batch, since ReMix compares them.
        told = told_of(task, "remix", ROUTED)
        told = tuple(t.replace("adapter=remix", f"adapter={name}") for t in told)
        found[name] = chosen(bed.runs("adapter_tasks"), task, told, also=numbers, **bed.grid)
    return found


@torch.no_grad()
def effective_numbers(bed: Bed, model: Any) -> dict[str, float]:
    """Effective numbers of adapters: the mean over inputs, and that of the mean use."""
    found: list[Tensor] = []
    gates = [f.gate for f in model.lowrank.factors().values() if isinstance(f.gate, DrawnGate)]
    hooks = [
        gate.register_forward_hook(
            lambda module, given, out: found.append(out[..., :: module.rank].flatten(0, -2).cpu())
        )
        for gate in gates
    ]
    tokens = torch.tensor(
        [list((bed.text / f"{n}.txt").read_bytes()[: bed.context]) for n in NAMES]
    )
    model(tokens)
    for hook in hooks:
        hook.remove()
    each = [(g.sum(-1) ** 2 / g.square().sum(-1)).mean() for g in found]
    use = [g.mean(0) for g in found]
    whole = [u.sum() ** 2 / u.square().sum() for u in use]
    return {
        "of an input": float(torch.stack(each).mean()),
        "of all": float(torch.stack(whole).mean()),
    }


def sequence(bed: Bed, kind: str, seed: int, novels: Sequence[str] = NAMES) -> dict[str, Any]:
    """Adapt to one novel after the other, merging in between."""
    rate, after, active = rate_of(bed, kind), {}, []
    with tempfile.TemporaryDirectory() as scratch:
        start, model = bed.base(), create_model(f"local-dir:{bed.base()}")
        for place, novel in enumerate(novels):
            told = [*bed.task.told, *told_of(bed.task, kind, {"rank": RANK}), f"optim.lr={rate}"]
            told += [f"data.pattern={novel}.txt", f"data.path={bed.text}", f"init={start}"]
            folder = Path(scratch) / f"run-{place}"
            trained(told, seed, folder)
            model = create_model(f"local-dir:{folder}").eval()
            assert model.lowrank is not None
            cores = [f.core for f in model.lowrank.factors().values()]
            active += [float((c != 0).sum()) for c in cores if c is not None]
            merge_lowrank(model)
            start = Path(scratch) / f"merged-{place}"
            save_model(model, start)
            after[novel] = bed.bits(model, f"{novel}.txt")
        last = {novel: bed.bits(model, f"{novel}.txt") for novel in novels}
    print(kind, seed, after, last, flush=True)
    return {"rate": rate, "after": after, "last": last, "active": active}


def sequences(bed: Bed, seeds: Sequence[int] = SEEDS) -> dict[str, list[dict[str, Any]]]:
    """The sequences of both methods, from the record or now."""
    records, novels = bed.runs("adapter_tasks").records, NAMES[:2] if bed.quick else NAMES
    return {
        kind: [
            records.get(
                {"in sequence": kind, "seed": seed},
                lambda k=kind, s=seed: sequence(bed, k, s, novels),
            )
            for seed in seeds
        ]
        for kind in ("lora", "codyra")
    }


def measure(quick: bool) -> Measurement:
    """Run what is missing, and make the tables and the bars."""
    return with_bed(_measure, quick)


def _measure(bed: Bed) -> Measurement:
    seeds = (0,) if bed.quick else SEEDS
    mixtures, routers, orders = mixed(bed), routed(bed), sequences(bed, seeds)
    rows = [_row("mixture", n, one, mixtures["smora, 4 of 32"]) for n, one in mixtures.items()]
    for name, one in routers.items():
        numbers = [each["numbers"] for each in one.runs]
        rows.append(
            _row("routing", name, one, routers["softmax_mixture"])
            | {key: round(statistics.mean(n[key] for n in numbers), 3) for key in numbers[0]}
        )
    forgotten = {
        kind: [
            statistics.mean(one["last"][n] - one["after"][n] for n in list(one["after"])[:-1])
            for one in found
        ]
        for kind, found in orders.items()
    }
    ends = {
        kind: [statistics.mean(one["last"].values()) for one in found]
        for kind, found in orders.items()
    }
    for kind, found in orders.items():
        counts = [count for one in found for count in one["active"]]
        rows.append(
            {
                "part": "sequence",
                "method": kind,
                "bits_per_byte": round(summary(ends[kind])[0], 4),
                "standard error": round(summary(ends[kind])[1], 4),
                "forgetting": round(summary(forgotten[kind])[0], 4),
                "its standard error": round(summary(forgotten[kind])[1], 4),
                "forgetting against lora": verdict(forgotten[kind], forgotten["lora"])
                if kind != "lora"
                else "",
                "active components": [min(counts), statistics.mean(counts), max(counts)]
                if counts
                else [],
                "rate": found[0]["rate"],
            }
        )
    less = statistics.mean(forgotten["codyra"]) - statistics.mean(forgotten["lora"])
    return rows, [Bar("forgetting of CoDyRA less that of LoRA, bits per byte", less, 0.0)]


def _row(part: str, name: str, found: Adapted, reference: Adapted) -> dict[str, Any]:
    figures = found.figures("test", "bits_per_byte")
    other = reference.figures("test", "bits_per_byte")
    return {
        "part": part,
        "method": name,
        "bits_per_byte": round(summary(figures)[0], 4),
        "standard error": round(summary(figures)[1], 4),
        "against it": "" if found is reference else verdict(figures, other),
        "seeds": [round(each, 4) for each in figures],
        "trained": found.runs[0]["adapter"]["trained"],
        "rate": found.rate,
        "rate inside the grid": min(found.tried) < found.rate < max(found.tried),
    }


if __name__ == "__main__":
    main("adapter_tasks", measure)
