"""The tables of claims, family by family, and how many of them hold."""

from collections import Counter

from ..reference import linked, table
from .adapter_claims import adapter_claims
from .carried_figures import carried_claims
from .claim import NOT_REPRODUCED, NOT_TESTED, REPRODUCED, Claim
from .compression_claims import compression_claims
from .connect_claims import connect_claims
from .lowrank_claims import lowrank_claims, optimizer_claims
from .residual_claims import residual_claims
from .scaling_claims import scaling_claims
from .space_claims import lipschitz_claims, space_claims

__all__ = ["all_claims", "claims"]


def all_claims() -> dict[str, list[Claim]]:
    """The claims of every family."""
    return {
        "Residuals": [*residual_claims(), *scaling_claims(), *connect_claims()],
        "Curved spaces": space_claims(),
        "Lipschitz networks": lipschitz_claims(),
        "Training with fewer numbers": lowrank_claims(),
        "Optimisers that keep less": optimizer_claims(),
        "Smaller models": compression_claims(),
        "Adapters": [*adapter_claims(), *carried_claims()],
    }


def claims() -> str:
    """A line that counts the verdicts, and a table for each family."""
    families = all_claims()
    counts = Counter(claim.verdict for family in families.values() for claim in family)
    told = (
        f"{counts.total()} claims: {counts[REPRODUCED]} reproduced, {counts[NOT_REPRODUCED]} not "
        f"reproduced, {counts[NOT_TESTED]} not tested."
    )
    head = ("claim", "source", "measured here", "verdict", "command")
    parts = [
        f"### {name}\n\n{table(head, *(linked_cells(claim) for claim in family))}"
        for name, family in families.items()
    ]
    return "\n\n".join([told, *parts])


def linked_cells(claim: Claim) -> tuple[str, ...]:
    """The row of a claim, its source with a link."""
    told, source, *rest = claim.cells()
    return (told, linked(source), *rest)
