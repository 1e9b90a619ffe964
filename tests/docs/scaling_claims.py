"""What is claimed of a residual's gain in compute, beside the laws of the scaling study."""

from typing import Any

from .claim import Claim
from .finding import Finding
from .kept import only, rows
from .scaling_figures import PLACES, spanned

__all__ = ["gains_with_size", "scaling_claims"]

PAPER = "arXiv:2603.15031, scaling sweep"


def multiplier(name: str, part: str = "between") -> dict[str, Any]:
    """How many times the FLOPs of `add` reach a residual's loss, on both texts together.

    Args:
        name: Of the residual.
        part: Read `between` the runs of `add`, or by the laws, which `multiplier` is.
    """
    return only("scaling", part=part, residual=name, equal="FLOPs", text="both")


def saves(row: dict[str, Any], times: float = 1.0) -> bool:
    """Whether some compute is saved at the largest size, and perhaps as much as so many times."""
    _, low, high = row["largest"]
    return low > 1.0 and high >= times


def told(row: dict[str, Any]) -> str:
    """The multipliers at three sizes with their intervals."""
    sizes = ", ".join(f"{spanned(row[place])} at the {place}" for place in PLACES)
    return f"times the FLOPs of `add` for the same loss of byte GPTs: {sizes} of five sizes"


def trend(row: dict[str, Any]) -> str:
    """How a multiplier changes with compute, by the laws."""
    return f"by the laws, slope of its logarithm {spanned(row['trend'])}: {row['with size']}"


def scaling_claims() -> list[Claim]:
    """Claims of gains in compute."""
    blocks, skip = multiplier("block_attnres"), multiplier("embedding_skip")
    laws = {name: multiplier(name, "multiplier") for name in ("block_attnres", "embedding_skip")}
    return [
        Claim(
            "Attention Residuals reach the loss of a baseline that has 1.25 times the compute, "
            "read off fitted curves of single runs",
            PAPER,
            f"`block_attnres`, {told(blocks)}",
            saves(blocks, 1.25),
            "scaling",
        ),
        Claim(
            "That gain holds over the sizes (exponents of .057 and .058)",
            PAPER,
            f"`block_attnres`, {trend(laws['block_attnres'])}",
            saves(blocks) and laws["block_attnres"]["with size"] != "falls",
            "scaling",
        ),
        Claim(
            "Two scalars a block that bring the embedding back lower the loss (by .0103 bits per "
            "byte at depth 8)",
            "ours, after Karpathy 2026, nanochat",
            told(skip),
            saves(skip),
            "scaling",
        ),
        Claim(
            "Their gain shrinks with size (.0103 to .0039 from depth 8 to 20)",
            "ours, after Karpathy 2026, nanochat",
            trend(laws["embedding_skip"]),
            saves(skip) and laws["embedding_skip"]["with size"] == "falls",
            "scaling",
        ),
    ]


def gains_with_size() -> list[Finding]:
    """Residuals that are not shown to save compute at the largest size."""
    found = rows("scaling", part="between", equal="FLOPs", text="both")
    missed = [row for row in found if not saves(row)]
    if not missed:
        return []
    names = ", ".join(f"`{row['residual']}`" for row in missed)
    figures = "; ".join(f"`{row['residual']}` {spanned(row['largest'])}" for row in missed)
    return [
        Finding(
            "2026-11-30",
            f"Not shown to save compute at the largest of five sizes: {names}",
            f"Times the FLOPs of `add` for the same loss, with intervals of 95 %: {figures}. Byte "
            "GPTs of 2 to 6 blocks on novels and source code, rates tuned at every size for `add` "
            "and at the three smallest for the others.",
            "scaling",
        )
    ]
