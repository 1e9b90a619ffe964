"""Groups of parameters for an optimiser of matrices: which are projected, and which decay."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ...decay import decay_exclusions
from ..choose_targets import EXCLUDED
from ..freeze_others import check_patterns, matches
from ..reparametrize import structures

__all__ = ["matrix_groups"]


def matrix_groups(
    model: nn.Module, weight_decay: float = 0.01, unprojected: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return groups with `params`, `weight_decay` and `projected`; frozen parameters are in none.

    Vectors are not projected and do not decay, and neither is what a layer marks as free of decay.

    Args:
        model: Any, with dense weights.
        weight_decay: λ of the others.
        unprojected: Patterns of modules, or of parameters, that are left to AdamW; None for heads,
            embeddings and stems.

    Raises:
        ValueError: weights that a low-rank method has given a structure, or a pattern that matches
            nothing.
    """
    made = next(iter(structures(model)), None)
    if made is not None:
        raise ValueError(
            f"{made[0]} is made of factors by a low-rank method, and projections are for "
            f"dense matrices; take optim=adamw, or lowrank=none"
        )
    if unprojected is not None:
        check_patterns(model, unprojected, "unprojected")
    patterns = EXCLUDED if unprojected is None else unprojected
    marked = decay_exclusions(model)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        free = p.dim() < 2 or name in marked
        left = any(matches(name, pattern) for pattern in patterns)
        groups.setdefault((not (free or left), not free), []).append(p)
    return [
        {"params": several, "weight_decay": weight_decay if decays else 0.0, "projected": projected}
        for (projected, decays), several in groups.items()
    ]
