"""Tables of adapters on six novels, and what they did not show, read off the kept results."""

from typing import Any

from ..reference import table
from .finding import Finding
from .kept import bold, result, rows

__all__ = ["ADAPTER_FIGURES", "adapters_on_novels"]


def bits(row: dict[str, Any]) -> str:
    """Bits per byte with its standard error."""
    return f"{row['bits_per_byte']:.3f} ± {row['standard error']:.3f}"


def short(found: str) -> str:
    """A verdict with three digits."""
    words = (f"{float(w):.3f}" if w.replace(".", "", 1).isdigit() else w for w in found.split())
    return " ".join(words)


def rate(row: dict[str, Any]) -> str:
    """The best rate, and whether a wider grid could do better."""
    return f"{row['rate']:g}" + ("" if row["rate inside the grid"] else ", an end of the grid")


def preset(name: str) -> str:
    """The name of a method, as code where it is one of the registry."""
    return name if name in ("all weights", "head alone") else f"`{name}`"


def unadapted() -> float:
    """Bits per byte of the base on the two novels."""
    return float(result("adapter_novels")["notes"][0].split()[2])


def adapter_novels() -> str:
    """All presets at about equal trained numbers, the best first."""
    steps = {row["method"]: row["step over all weights"] for row in rows("adapter_speed")}
    found = [row for row in rows("adapter_novels") if "claim" not in row]
    return table(
        ("", "settings", "bits per byte", "beside `lora`", "trained", "KiB", "step", "rate"),
        *(
            (
                preset(row["method"]),
                row["settings"],
                bits(row),
                short(row["against lora"]),
                f"{row['trained']:,}",
                f"{row['optimiser, KiB']:,.0f}",
                f"{steps[row['method']]:.2f}×" if row["method"] in steps else "",
                rate(row),
            )
            for row in found
        ),
        ("no adapter", "", f"{unadapted():.3f}", *[""] * 5),
    )


def adapter_claims() -> str:
    """What papers say of two methods, and what was found."""
    found = [row for row in rows("adapter_novels") if "claim" in row]
    return table(
        ("claim", "found", "reproduced"),
        *(
            (
                f"{row['claim']}, [{row['source'].removeprefix('arXiv:')}]"
                f"(https://arxiv.org/abs/{row['source'].removeprefix('arXiv:')})",
                short(row["found"]),
                "yes" if row["reproduced"] else "no",
            )
            for row in found
        ),
    )


def adapter_ranks() -> str:
    """One DyLoRA at five ranks, beside a LoRA trained at each."""
    found = rows("adapter_ranks")
    ranks = list(dict.fromkeys(row["rank"] for row in found))
    lines = []
    for name in dict.fromkeys(row["method"] for row in found):
        own = {row["rank"]: row for row in found if row["method"] == name}
        lines.append((name, *(bits(own[rank]) for rank in ranks)))
        if name != "lora":
            gaps = (bold(f"{own[r]['gap']:+.3f}", own[r]["near"]) for r in ranks)
            lines.append(("above `lora`", *gaps))
    return table(("", *(f"rank {rank}" for rank in ranks)), *lines)


def adapter_merging() -> str:
    """Adapters of several novels in one, by method."""
    found = [row for row in rows("adapter_merging") if "merged by" in row]
    names = list(dict.fromkeys(row["merged by"] for row in found))
    own = {(row["novels"], row["merged by"]): row for row in found}
    told = {"base": "no adapter", "own": "each its own adapter"}

    def cells(group: str, name: str) -> tuple[str, str]:
        row = own[group, name]
        return bits(row), short(row["lego against it"])

    return table(
        ("", "two novels", "`lego` beside it", "six novels", "`lego` beside it"),
        *((told.get(name, name), *cells("two", name), *cells("six", name)) for name in names),
    )


def adapter_clients() -> str:
    """One round of FFA-LoRA, by client."""
    return table(
        ("client", "its model on the others' novels", "mean of the six", "base"),
        *(
            (
                row["client"],
                "{:.3f}".format(row["on the others' novels"]),
                f"{row['mean model']:.3f}",
                f"{row['base']:.3f}",
            )
            for row in rows("adapter_merging")
            if "client" in row
        ),
    )


def adapter_bits() -> str:
    """LoRA over weights of few bits, by how they were rounded."""
    return table(
        ("", "stored bits", "bits per byte", "beside rounded, then `lora`", "rate"),
        *(
            (
                row["method"],
                f"{row['stored bits']:g}",
                bits(row),
                f"{short(row['against rounded, then lora'])} of {row['of stored bits']:g} bits"
                if row["against rounded, then lora"]
                else "",
                rate(row),
            )
            for row in rows("adapter_bits")
        ),
    )


def adapter_tasks() -> str:
    """Mixtures over six novels, and novels one after the other."""
    lines = []
    for row in rows("adapter_tasks"):
        more = ""
        if row["part"] == "routing":
            more = f"{row['of an input']:.2f} adapters an input, {row['of all']:.2f} in use"
        if row["part"] == "sequence":
            more = f"forgetting {row['forgetting']:+.3f} ± {row['its standard error']:.3f}"
        parts = {"mixture": "six at once", "routing": "six at once", "sequence": "one by one"}
        lines.append((parts[row["part"]], row["method"], bits(row), more, f"{row['rate']:g}"))
    return table(("novels", "", "bits per byte", "", "rate"), *lines)


ADAPTER_FIGURES = {
    function.__name__: function
    for function in (
        adapter_novels,
        adapter_claims,
        adapter_ranks,
        adapter_merging,
        adapter_clients,
        adapter_bits,
        adapter_tasks,
    )
}


def adapters_on_novels() -> list[Finding]:
    """What adapters did not show on two novels and on six."""
    claims = [row for row in rows("adapter_novels") if "claim" in row]
    missed = [row for row in claims if not row["reproduced"]]
    told = "; ".join(f"{row['claim']}: {short(row['found'])}" for row in missed)
    return [
        Finding(
            "2026-11-29",
            "Most of what papers claim between adapters is not shown on two novels",
            f"{len(missed)} of {len(claims)} claims are not reproduced at equal trained numbers, "
            f"each method at its best rate, three seeds of 100 steps from one base: {told} bits "
            "per byte. The base is small, and the novels are of an author whom it knows.",
            "adapter_novels",
        ),
        _merging(),
        *_mixtures(),
        *_sequences(),
        *_missed_bars(),
    ]


def _merging() -> Finding:
    """What clustering components gained over the best of a rank."""
    found = {(row["novels"], row["merged by"]): row for row in rows("adapter_merging")
             if "merged by" in row}  # fmt: skip
    told = [
        f"{group} novels, {how}: `lego` {bits(found[group, f'lego, {how}'])}, `truncate` "
        f"{bits(found[group, f'truncate, {how}'])} "
        f"({short(found[group, f'truncate, {how}']['lego against it'])})"
        for group in ("two", "six")
        for how in ("mean", "sum")
    ]
    return Finding(
        "2026-11-29",
        "Clustered components are no better merge than the best of the same rank",
        f"{'; '.join(told)}. Bits per byte over the merged novels, LoRAs of rank 8 merged to rank "
        "8, three seeds. A sum counts the members of each cluster, a mean divides them by their "
        "number.",
        "adapter_merging",
    )


def _mixtures() -> list[Finding]:
    """SMoRA, where it is not shown between the two LoRAs of its active and of all components."""
    found = {row["method"]: row for row in rows("adapter_tasks", part="mixture")}
    few, smora, many = (found[n] for n in ("lora, rank 4", "smora, 4 of 32", "lora, rank 32"))
    if few["against it"].startswith("worse") and many["against it"].startswith("better"):
        return []
    return [
        Finding(
            "2026-11-29",
            "SMoRA is not shown between the LoRAs of its active and of all components",
            f"On six novels at once, bits per byte: `smora` with 4 of 32 components {bits(smora)}, "
            f"`lora` of rank 4 {bits(few)} ({short(few['against it'])}) and of rank 32 "
            f"{bits(many)} ({short(many['against it'])}; three seeds).",
            "adapter_tasks",
        )
    ]


def _sequences() -> list[Finding]:
    """CoDyRA, where it does not forget less than a LoRA."""
    found = {row["method"]: row for row in rows("adapter_tasks", part="sequence")}
    codyra, lora = found["codyra"], found["lora"]
    if codyra["forgetting against lora"].startswith("better"):
        return []
    return [
        Finding(
            "2026-11-29",
            "CoDyRA does not forget less than a LoRA that is merged after every novel",
            f"Mean rise of bits per byte of a novel by the end of six: `codyra` "
            f"{codyra['forgetting']:+.3f} ± {codyra['its standard error']:.3f}, `lora` "
            f"{lora['forgetting']:+.3f} ± {lora['its standard error']:.3f} "
            f"({short(codyra['forgetting against lora'])}); mean of all six in the end "
            f"{bits(codyra)} and {bits(lora)}. Steps of a task are few, so κ brings few weights to "
            "zero; the base knows four of the novels.",
            "adapter_tasks",
        )
    ]


def _missed_bars() -> list[Finding]:
    """Bars of the other parts that were missed, one entry each part."""
    titles = {
        "adapter_ranks": "One DyLoRA is not as good at every rank as a LoRA trained at it",
        "adapter_bits": "LQ-LoRA is no better start than rounded weights at every number of bits",
        "adapter_merging": "The mean of FFA-LoRA's clients is not better than each on the others",
    }
    found = []
    for name, title in titles.items():
        missed = [bar for bar in result(name)["bars"] if not bar["met"]]
        if missed:
            told = "; ".join(
                f"{bar['what']}: {bar['figure']:.3f} (bar {bar['limit']:g})" for bar in missed
            )
            found.append(Finding("2026-11-29", title, f"Missed: {told}.", name))
    return found
