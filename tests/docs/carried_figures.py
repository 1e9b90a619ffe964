"""What the kept result of carried adapters says: its table, its claims and its entry of the log."""

from typing import Any

from ..reference import table
from .claim import Claim, Spread, ahead
from .finding import Finding
from .kept import RESULTS, result

__all__ = ["CARRIED_FIGURES", "carried_adapters", "carried_claims"]

NAME = "trans_lora"
FILTERED, WHOLE = "its text, the best half by the ratio", "its text, whole"
OWN = "text by the source with its LoRA"
SOURCE = "arXiv:2405.17258"
TOLD = {
    "source": "source",
    "larger": "larger target",
    "block_attnres": "target with `block_attnres`",
}
TRAINED_ON = {"alone": "nothing", "the task itself": "*Persuasion*"}


def kept_rows() -> list[dict[str, Any]]:
    """The rows of the kept result; none before it has been kept."""
    return result(NAME)["rows"] if (RESULTS / f"{NAME}.json").is_file() else []


def figures() -> dict[str, dict[str, dict[str, Any]]]:
    """The rows of each target by what it was trained on."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in kept_rows():
        found.setdefault(row["model"], {})[row["trained on"]] = row
    return {model: by for model, by in found.items() if FILTERED in by}


def trans_lora() -> str:
    """Bits per byte of a carried adapter, and its share of the gain."""
    if not kept_rows():
        return "Not run yet: `python benchmarks/trans_lora.py --keep` writes the table."
    return table(
        ("", "trained on", "bits per byte", "share of the gain", "beyond the whole text"),
        *(
            (
                TOLD[row["model"]],
                TRAINED_ON.get(row["trained on"]) or row["trained on"],
                str(Spread.of(row, "bits/byte", "standard error")),
                f"{100 * row['share of the gain']:.0f} ± {100 * row['its error']:.0f} %"
                if "share of the gain" in row
                else "",
                f"{row['bits beyond the whole text']:+.3f} ± {row['error of those']:.3f}"
                if "share of the gain" in row and row["trained on"] != WHOLE
                else "",
            )
            for row in kept_rows()
        ),
    )


def shares(text: str) -> str:
    """The share of the gain on a text, for each target."""
    return "; ".join(
        f"{TOLD[model]} {100 * by[text]['share of the gain']:.0f} ± "
        f"{100 * by[text]['its error']:.0f} %"
        for model, by in figures().items()
    )


def beyond() -> str:
    """Bits per byte of the filtered text beyond those of all of it, for each target."""
    return "; ".join(
        f"{TOLD[model]} {by[FILTERED]['bits beyond the whole text']:+.3f} ± "
        f"{by[FILTERED]['error of those']:.3f}"
        for model, by in figures().items()
    )


def carried_claims() -> list[Claim]:
    """Claims of adapters that are carried over."""
    halves = "A carried adapter has half of the gain of the task's data, on filtered generated text"
    filters = "Filtered text is better than all of it"
    if not figures():
        return [
            Claim(halves, f"ours, after {SOURCE}"),
            Claim(filters, f"{SOURCE}, ablations"),
        ]
    share = [by[FILTERED]["share of the gain"] for by in figures().values()]
    better = [
        ahead(
            Spread(0.0, 0.0),
            Spread.of(by[FILTERED], "bits beyond the whole text", "error of those"),
        )
        for by in figures().values()
    ]
    return [
        Claim(
            halves,
            f"ours, after {SOURCE}",
            f"{shares(FILTERED)}; on a text that the source with its adapter wrote {shares(OWN)}",
            min(share) >= 0.5,
            NAME,
        ),
        Claim(
            filters,
            f"{SOURCE}, ablations",
            f"bits per byte beyond those of the whole text: {beyond()}",
            all(better),
            NAME,
        ),
    ]


def carried_adapters() -> list[Finding]:
    """What did not hold of carried adapters."""
    missed = [claim for claim in carried_claims() if claim.holds is False]
    return [
        Finding(
            "2026-11-30",
            f"Not reproduced: {claim.told[0].lower()}{claim.told[1:]}",
            f"{claim.found[0].upper()}{claim.found[1:]} (byte GPTs, three seeds, a LoRA of rank 8 "
            "that learned *Persuasion*).",
            NAME,
        )
        for claim in missed
    ]


CARRIED_FIGURES = {"trans_lora": trans_lora}
