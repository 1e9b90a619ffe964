"""What papers claim of training with fewer numbers, beside figures of the kept results."""

from .claim import Claim, Spread, ahead
from .kept import rows

__all__ = ["lowrank_claims", "optimizer_claims"]


def bits(name: str) -> Spread:
    """Bits per byte of a method at rank 12 of 96, three seeds."""
    (row,) = rows("lowrank_bytes_gpt", method=name)
    return Spread.of(row, "bits/byte", "standard error")


def beats(one: str, other: str, told: str, source: str) -> Claim:
    """A claim that a method has a lower loss than another."""
    mine, theirs = bits(one), bits(other)
    found = f"bits per byte: {one} {mine}, {other} {theirs}"
    return Claim(told, source, found, ahead(theirs, mine), "lowrank_bytes_gpt")


def reaches(one: str, told: str, source: str) -> Claim:
    """A claim that a method is no worse than full rank."""
    mine, full = bits(one), bits("full rank")
    found = f"bits per byte: {one} {mine}, full rank {full}"
    return Claim(told, source, found, not ahead(mine, full), "lowrank_bytes_gpt")


def lowrank_claims() -> list[Claim]:
    """Claims of training low-rank weights from the start."""
    full = bits("full rank")
    others = [row["method"] for row in rows("lowrank_bytes_gpt") if row["method"] != "full rank"]
    nearest = min(others, key=lambda name: bits(name).mean)
    frozen, spectral = bits("frozen LoRA"), bits("low rank, spectral init")
    closed = (frozen.mean - bits("SST").mean) / (frozen.mean - full.mean)
    gap = (spectral.mean - full.mean) / (frozen.mean - full.mean)
    return [
        reaches("SLTrain", "SLTrain is comparable to full rank", "arXiv:2406.02214, abstract"),
        beats(
            "SLTrain",
            "low rank, spectral init",
            "SLTrain is substantially better than low rank",
            "arXiv:2406.02214, abstract",
        ),
        reaches(
            "LOST, SiLU",
            "LOST is competitive with full rank, or better",
            "arXiv:2508.02668, abstract",
        ),
        beats(
            "LOST, SiLU",
            "low rank, spectral init",
            "LOST is better than training low-rank factors",
            "arXiv:2508.02668, abstract",
        ),
        reaches("CoLA", "CoLA keeps the quality of full rank", "arXiv:2502.10940, abstract"),
        reaches(
            "SwitchLoRA",
            "SwitchLoRA surpasses full rank (perplexity 15.01 against 15.23 at 1.3 B)",
            "arXiv:2406.06564, abstract",
        ),
        beats(
            "SST",
            "ReLoRA",
            "Sparse spectral training is better than ReLoRA and LoRA",
            "arXiv:2405.15481, tables of language models",
        ),
        Claim(
            "Sparse spectral training closes 97.4 % of the gap from LoRA to full rank",
            "arXiv:2405.15481, LLaMA-1.3B",
            f"{100 * closed:.0f} % of the gap in bits per byte",
            closed >= 0.974,
            "lowrank_bytes_gpt",
        ),
        beats(
            "ReLoRA",
            "frozen LoRA",
            "Merging and starting anew is better than LoRA on frozen weights",
            "arXiv:2307.05695, table of C4",
        ),
        reaches(
            "ReLoRA",
            "ReLoRA is comparable to full rank (after a dense warm start, which is not made here)",
            "arXiv:2307.05695, abstract",
        ),
        Claim(
            "Tuned full rank is better than every method of low rank",
            "arXiv:2505.22922, conclusion",
            f"bits per byte: full rank {full}, the nearest is {nearest} with {bits(nearest)}",
            all(ahead(bits(name), full) for name in others),
            "lowrank_bytes_gpt",
        ),
        beats(
            "low rank, refactorised",
            "low rank, spectral init",
            "Balancing the factors anew and dropping the momentum improves plain low rank",
            "arXiv:2505.22922, two techniques",
        ),
        Claim(
            "Plain low rank from scratch is far behind LoRA (perplexity 78.18 against 34.99, full "
            "rank 34.06, at 60 M)",
            "arXiv:2403.03507, table 2",
            f"its gap to full rank is {gap:.2f} times LoRA's: {spectral} and {frozen} bits per "
            "byte, with a spectral start",
            gap > 2,
            "lowrank_bytes_gpt",
        ),
    ]


def optimizer_claims() -> list[Claim]:
    """Claims of optimisers that keep less."""
    found = {row["optimiser"]: row for row in rows("projected_optimizers")}

    def of(name: str) -> Spread:
        return Spread.of(found[name], "bits/byte", "standard error")

    def held(name: str) -> str:
        return f"{of(name)} bits per byte at {100 * found[name]['bytes over AdamW']:.0f} % of bytes"

    adam, svd = of("AdamW"), of("SVD")
    return [
        Claim(
            "Gradients projected to singular vectors train as well as AdamW with less state",
            "ours, after arXiv:2403.03507, abstract (GaLore, which leaves moments where they are)",
            f"columns anew every 20 steps, moments rotated: {held('SVD')}, AdamW {adam}",
            not ahead(svd, adam),
            "projected_optimizers",
        ),
        Claim(
            "Cosines chosen every step match projections by an SVD, with error feedback",
            "arXiv:2505.17967, abstract",
            f"{held('DCT, error feedback')}, SVD {svd}",
            not ahead(of("DCT, error feedback"), svd),
            "projected_optimizers",
        ),
        Claim(
            "The same without error feedback",
            "ours, beside arXiv:2505.17967",
            f"{held('DCT')}, SVD {svd}",
            not ahead(of("DCT"), svd),
            "projected_optimizers",
        ),
        Claim(
            "A random projection that scales channels is as good as AdamW, or better",
            "arXiv:2412.05270, abstract (APOLLO)",
        ),
    ]
