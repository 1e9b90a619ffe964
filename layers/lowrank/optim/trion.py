"""Trion: Muon's update of the r strongest cosines of a momentum, the rest of which is kept.

    M <- M + G
    S = M Q,   I = the r columns of S that are largest,   m = S[:, I],   P = Q[:, I]
    M <- M - (1 - μ) m Pᵀ
    w <- (1 - η λ) w - η s O(m) Pᵀ

O is five steps of Newton and Schulz. Only m is orthogonalised, m × r instead of m × n, and what is
not chosen stays in M whole: an error feedback that needs no memory of its own. The momentum has the
size of the weights, half of what AdamW keeps.

    scaling            s
    match_rms_adamw    0.2 √max(rows, columns): one η serves matrices and the rest
    original           √max(1, rows / columns)
    dion               √(rows / columns)

Source: Modoranu et al. 2025, "FFT-based Dynamic Subspace Selection for Low-Rank Adaptive
Optimization of Large Language Models", arXiv:2505.17967; the momentum is that of Ahn et al. 2025,
"Dion", arXiv:2504.05295.
Differs from it: columns are ranked by their Euclidean norm unless `ranking` says otherwise; the
polynomial runs in float32.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..maths.orthogonalize import orthogonalize
from ..maths.subspace import RANKINGS, Ranking, strongest_columns
from .matrix_optimizer import MatrixOptimizer, tall_shape
from .projection_bases import CosineColumns

__all__ = ["Trion"]

Scaling = Literal["match_rms_adamw", "original", "dion"]


class Trion(MatrixOptimizer):
    """Orthogonalised momentum in r cosines of every matrix.

    Args:
        params: Parameters or groups; vectors, and groups with `projected=False`, get AdamW.
        lr: η, at least 0.
        momentum: μ in [0, 1).
        weight_decay: λ, at least 0, decoupled.
        rank: r as a share of the short side in (0, 1], or a whole number; a matrix whose short side
            it reaches gets AdamW.
        ranking: How cosines are ranked, `l2` or `l1`.
        scaling: `match_rms_adamw`, `original` or `dion`.
        betas: (β₁, β₂) of AdamW for the rest.
        eps: ε of AdamW for the rest.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        *,
        rank: int | float = 0.25,
        ranking: Ranking = "l2",
        scaling: Scaling = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        """Check and keep the settings."""
        settings = {"momentum": momentum, "rank": rank, "ranking": ranking, "scaling": scaling}
        adam = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, adam | settings)

    def _prepare(self) -> None:
        self._cosines = CosineColumns()

    def _check_group(self, group: Mapping[str, Any]) -> None:
        if not 0.0 <= group["momentum"] < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), got {group['momentum']}")
        if group["ranking"] not in RANKINGS:
            raise ValueError(f"ranking must be one of {RANKINGS}, got {group['ranking']!r}")
        if group["scaling"] not in get_args(Scaling):
            raise ValueError(
                f"scaling must be one of {get_args(Scaling)}, got {group['scaling']!r}"
            )

    def _update_matrix(
        self, p: Tensor, grad: Tensor, group: Mapping[str, Any], rank: int, number: int
    ) -> None:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = grad.new_zeros(grad.shape)
        momentum = state["momentum"].add_(grad)
        table = self._cosines.table(grad.shape[1], grad)
        coefficients = momentum @ table
        chosen = strongest_columns(coefficients, rank, group["ranking"])
        columns, seen = table[:, chosen], coefficients[:, chosen]
        momentum.sub_(seen @ columns.mT, alpha=1 - group["momentum"])
        self._move(p, orthogonalize(seen) @ columns.mT, group["lr"] * _scale(p, group["scaling"]))

    def _state_shapes(self, p: Tensor, group: Mapping[str, Any], rank: int) -> dict[str, Any]:
        return {"momentum": tall_shape(p)}


def _scale(p: Tensor, scaling: str) -> float:
    """Factor s of a matrix's update, in the shape that it has in the model."""
    rows, columns = p.shape[0], p.numel() // p.shape[0]
    if scaling == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    ratio = rows / columns
    return math.sqrt(max(1.0, ratio) if scaling == "original" else ratio)
