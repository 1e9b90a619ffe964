"""One adapter in the place of several of the same base, without training.

method      the result                                        exact
cat         all components of all                             always; rank Σ r
truncate    the best components of that sum                   with rank ≥ that of the sum
average     the weighted sum of B over the A that all share   always; ffa_lora of one seed
lego        centroids of all components, arXiv:2409.16167     with rank ≥ Σ r
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ...layers.lowrank import Factors, WeightStructure, weighted_svd
from ...layers.lowrank.adapters.miss import SharedSlices
from ...layers.lowrank.adapters.remove import base_of
from ...layers.lowrank.maths.merge_units import averaged, clustered, concatenated, truncated

__all__ = ["MergeMethod", "merged_factors"]

MergeMethod = Literal["cat", "truncate", "average", "lego"]
METHODS = ("cat", "truncate", "average", "lego")


@torch.no_grad()
def merged_factors(
    members: Sequence[WeightStructure],
    method: MergeMethod,
    weights: Sequence[float],
    rank: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return factors of what several adapters add to one weight.

    Args:
        members: Structures over the same weight.
        method: As above.
        weights: Above 0, one for each.
        rank: Of the result; None is the largest that a member has. `cat` and `average` have none.

    Raises:
        ValueError: an unknown method; a rank that the weight cannot have; a change that is no
            product of two factors, which only `truncate` takes.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    parts = [_product(member, method) for member in members]
    most = max(left.shape[-1] for left, _ in parts)
    if method == "cat":
        return concatenated(parts, weights)
    if method == "average":
        return averaged(parts, weights)
    rank = most if rank is None else rank
    full = min(members[0].shape[-2:])
    if not 1 <= rank <= full:
        raise ValueError(f"rank must lie in [1, {full}] for {members[0].shape}, got {rank}")
    if method == "truncate":
        return truncated(parts, weights, rank)
    return clustered(parts, weights, rank)


def _product(member: WeightStructure, method: str) -> tuple[Tensor, Tensor]:
    """Return what a member adds to its weight as two factors, the scale in the left one."""
    kind = type(member)
    if isinstance(member, Factors) and member.is_matrix and kind.linear is Factors.linear:
        left, right = member.prefix()
        return member.scaling() * left, right
    if isinstance(member, SharedSlices):
        columns = member.shape[-1]
        eye = torch.eye(member.rank, dtype=member.left.dtype, device=member.left.device)
        right = eye.repeat(1, -(-columns // member.rank))[:, :columns]
        return member.left, right.expand(*member.shape[:-2], -1, -1)
    if not member.is_matrix:
        raise ValueError(f"{kind.__name__} reads the input, so its change is no matrix to merge")
    if method != "truncate":
        raise ValueError(
            f"what {kind.__name__} adds is no product of two factors, which {method} puts "
            f"together; use method=truncate"
        )
    change = member.dense() - base_of(member).dense()
    found = weighted_svd(change)
    return found.left, found.right
