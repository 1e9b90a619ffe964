"""What papers claim of adapters, beside the kept results on novels and on images."""

from collections.abc import Iterator
from typing import Any

from .adapter_figures import bits, preset, short
from .adapter_image_figures import NAMES, TASKS, accuracy, measured, points
from .claim import Claim
from .kept import only, rows

__all__ = ["adapter_claims"]

Row = dict[str, Any]


def adapter_claims() -> list[Claim]:
    """Claims between two methods, then those that one benchmark of their own tests."""
    return [*_comparisons(), _every_rank(), _few_bits(), *_merging(), *_mixtures(), _sequence()]


def _comparisons() -> Iterator[Claim]:
    """A claim for each pair of methods, over all cases in which both were trained."""
    cases: dict[tuple[str, str], list[Row]] = {}
    for row in rows("adapter_novels") + rows("adapter_images"):
        if "claim" in row:
            cases.setdefault((row["claim"], row["source"]), []).append(row)
    for (claim, source), found in cases.items():
        images = any("network" in row for row in found)
        told, other = _told(claim)
        yield Claim(
            told,
            f"{source}, beside {other}",
            _counted(found) + "; ".join(_case(row) for row in found),
            all(row["reproduced"] for row in found),
            "adapter_images" if images else "adapter_novels",
            "adapters" if images and any("network" not in row for row in found) else "",
        )


def _counted(found: list[Row]) -> str:
    """In how many cases a claim was found, where there are several."""
    shown = sum(row["reproduced"] for row in found)
    return f"shown in {shown} of {len(found)}: " if len(found) > 1 else ""


def _told(claim: str) -> tuple[str, str]:
    """A claim in words, and with what it compares."""
    for words, verb in (
        (" better than ", "is better than"),
        (" as good as ", "is as good as"),
        (" 90 % of the gain of ", "has 90 % of the gain of"),
    ):
        if words in claim:
            method, other = map(preset, claim.split(words))
            return f"{method} {verb} {other}", other
    method, found = claim.split(" ", 1)
    return f"{preset(method)} {found.replace('ranks where', 'has its ranks where')}", "all weights"


def _case(row: Row) -> str:
    """Both methods' figures where there are two, and what was found."""
    names = [preset(name).strip("`") for word in (" better than ", " as good as ")
             if word in row["claim"] for name in row["claim"].split(word)]  # fmt: skip
    if "network" not in row:
        own = {r["method"]: bits(r) for r in rows("adapter_novels") if "method" in r}
        return f"two novels, bits per byte: {' and '.join(own[name] for name in names)}"
    where = f"{NAMES[row['network']]}, {TASKS[row['task']]}"
    own = measured(row["network"], row["task"])
    if not names:
        return f"{where}: {points(row['found'])}"
    return f"{where}: {' and '.join(accuracy(own[name]) for name in names)} %"


def _every_rank() -> Claim:
    """One DyLoRA beside a LoRA of each rank."""
    gaps = rows("adapter_ranks", method="dylora, prefix")
    return Claim(
        "One DyLoRA is as good at every rank as a LoRA trained at it",
        "arXiv:2210.07558, tables by rank",
        "two novels, bits per byte above it: "
        + ", ".join(f"{row['gap']:+.3f} at {row['rank']}" for row in gaps),
        not any(row["against lora"].startswith("worse") for row in gaps),
        "adapter_ranks",
    )


def _few_bits() -> Claim:
    """LQ-LoRA below three bits beside rounded weights."""
    fine = only("adapter_bits", method="lq_lora", **{"stored bits": 2.75})
    coarse = only("adapter_bits", method="lq_lora", **{"stored bits": 2.13})
    told = " and ".join(
        f"at {row['stored bits']:g} bits {short(row['against rounded, then lora'])} of "
        f"{row['of stored bits']:g}"
        for row in (coarse, fine)
    )
    return Claim(
        "LQ-LoRA below three bits a weight is better than a LoRA over rounded weights",
        "arXiv:2311.12023, comparison with QLoRA",
        f"two novels, {told}",
        all(row["against rounded, then lora"].startswith("better") for row in (coarse, fine)),
        "adapter_bits",
    )


def _merging() -> list[Claim]:
    """Merged adapters."""
    pairs = [
        only("adapter_merging", novels=group, **{"merged by": f"{name}, mean"})
        for group in ("two", "six")
        for name in ("truncate", "average")
    ]
    own = [only("adapter_merging", novels=n, **{"merged by": "lego, mean"}) for n in ("two", "six")]
    clients = [row for row in rows("adapter_merging") if "client" in row]
    return [
        Claim(
            "Clustered components are a better merge than truncation or an average",
            "arXiv:2409.16167, comparison of merges (LoRA-LEGO)",
            "bits per byte, two and six novels: "
            + "; ".join(
                f"`{name}` {' and '.join(bits(row) for row in found)}"
                for name, found in (
                    ("lego", own),
                    ("truncate", pairs[::2]),
                    ("average", pairs[1::2]),
                )
            ),
            all(row["lego against it"].startswith("better") for row in pairs),
            "adapter_merging",
        ),
        Claim(
            "The mean of several FFA-LoRAs is better on the others' tasks than each of them",
            "ours, after arXiv:2403.12313, whose mean is exact",
            f"{len(clients)} novels, bits per byte of the others' novels: each client "
            + ", ".join("{:.3f}".format(row["on the others' novels"]) for row in clients)
            + "; the mean "
            + ", ".join(f"{row['mean model']:.3f}" for row in clients),
            all(row["mean model"] < row["on the others' novels"] for row in clients),
            "adapter_merging",
        ),
    ]


def _mixtures() -> list[Claim]:
    """Mixtures of components and of adapters, on six novels at once."""
    few, smora, many = (
        only("adapter_tasks", method=name)
        for name in ("lora, rank 4", "smora, 4 of 32", "lora, rank 32")
    )
    remix, softmax = (only("adapter_tasks", method=n) for n in ("remix", "softmax_mixture"))
    return [
        Claim(
            "A few components chosen from many are better than as many that are always in use",
            "arXiv:2501.15103, comparison with LoRA of the active rank (SMoRA)",
            f"six novels, bits per byte: `smora` with 4 of 32 {bits(smora)}, LoRA of rank 4 "
            f"{bits(few)}, of rank 32 {bits(many)}",
            few["against it"].startswith("better"),
            "adapter_tasks",
        ),
        Claim(
            "Routing that is drawn keeps more adapters in use than a softmax over them",
            "arXiv:2603.10160, weights of the router (ReMix)",
            f"six novels: {remix['of an input']:.1f} adapters an input, a softmax "
            f"{softmax['of an input']:.1f}; bits per byte {bits(remix)} and {bits(softmax)}",
            remix["of an input"] > softmax["of an input"],
            "adapter_tasks",
        ),
    ]


def _sequence() -> Claim:
    """One novel after the other."""
    codyra, lora = (
        only("adapter_tasks", part="sequence", method=name) for name in ("codyra", "lora")
    )
    return Claim(
        "An adapter of sparse ranks forgets less than a LoRA merged after every task",
        "arXiv:2412.01004, sequences of tasks (CoDyRA)",
        "six novels, mean rise of bits per byte: "
        + " and ".join(
            f"{row['forgetting']:.3f} ± {row['its standard error']:.3f}" for row in (codyra, lora)
        ),
        codyra["forgetting against lora"].startswith("better"),
        "adapter_tasks",
    )
