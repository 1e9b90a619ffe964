"""What authors of adapters say of two methods, and whether figures of ours show it.

A claim is that one method is `better` than another, or `as good` as it with fewer or as many
numbers. It is reproduced where two means are apart by two standard errors, or are not.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from spread import apart, verdict

__all__ = ["NOVELS", "Claim", "judged"]


@dataclass(frozen=True)
class Claim:
    """One method is better than another, or as good.

    Attributes:
        method: The one.
        how: Which of the two is claimed.
        other: The other.
        source: Where.
    """

    method: str
    how: Literal["better", "as good"]
    other: str
    source: str


NOVELS = (
    Claim("lora", "as good", "all weights", "arXiv:2106.09685"),
    Claim("rslora", "as good", "lora", "arXiv:2312.03732"),
    Claim("dora", "better", "lora", "arXiv:2402.09353"),
    Claim("ffa_lora", "as good", "lora", "arXiv:2403.12313"),
    Claim("svfit", "as good", "lora", "arXiv:2409.05926"),
    Claim("lora_sb", "better", "lora_xs", "arXiv:2411.19557"),
    Claim("lora_sb", "better", "lora", "arXiv:2411.19557"),
    Claim("miss", "better", "lora", "arXiv:2409.15371"),
    Claim("bone", "better", "lora", "arXiv:2409.15371"),
    Claim("dylora", "as good", "lora", "arXiv:2210.07558"),
    Claim("increlora", "better", "lora", "arXiv:2308.12043"),
    Claim("randlora", "better", "lora", "arXiv:2502.00987"),
    Claim("sara", "as good", "lora", "arXiv:2409.06633"),
    Claim("nlora", "better", "lora", "arXiv:2502.14482"),
    Claim("slora", "better", "lora", "arXiv:2502.14482"),
    Claim("inttune", "as good", "lora_xs", "arXiv:2502.14482"),
    Claim("tlora", "as good", "lora", "arXiv:2501.08727"),
    Claim("allora", "better", "lora", "arXiv:2410.09692"),
    Claim("snella", "better", "lora", "arXiv:2510.24037"),
)
"""At equal numbers, but for `svfit` and the claim on all weights."""


def judged(
    claims: Sequence[Claim],
    figures: Mapping[str, Sequence[float]],
    *,
    more_is_better: bool = False,
) -> list[dict[str, Any]]:
    """Return a row for every claim on two methods that have figures."""
    rows = []
    for claim in claims:
        if claim.method not in figures or claim.other not in figures:
            continue
        sign = -1 if more_is_better else 1
        one, other = ([sign * f for f in figures[n]] for n in (claim.method, claim.other))
        below = statistics.mean(one) < statistics.mean(other)
        shown = apart(one, other)
        holds = shown and below if claim.how == "better" else not shown or below
        rows.append(
            {
                "claim": f"{claim.method} {claim.how} "
                f"{'than' if claim.how == 'better' else 'as'} {claim.other}",
                "source": claim.source,
                "found": verdict(one, other),
                "reproduced": holds,
            }
        )
    return rows
