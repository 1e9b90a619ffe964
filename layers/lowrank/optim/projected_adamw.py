"""AdamW whose moments live in a subspace: r columns instead of n, for every matrix.

    every `update_every` steps   choose P (n, r) for G (m, n), n ≤ m, and carry the moments over
    g = G P
    m <- β₁ m + (1 - β₁) g,   v <- β₂ v + (1 - β₂) g²
    a <- β₁ a + (1 - β₁),     c <- β₂ c + (1 - β₂)
    u = (m / a) / (√(v / c) + ε)
    w <- (1 - η λ) w - η s u Pᵀ

    channel_scaling              w <- (1 - η λ) w - η s diag(|u_i| / |g_i|) G     for the rows i

The moments are 2 r m numbers instead of 2 m n. a and c (r) are the weights of all gradients that m
and v have seen in a column, 1 - β₁ᵗ and 1 - β₂ᵗ where it was always chosen. They move with the
columns, too: a² and c as v does.

With basis="svd", update_every=200, rotate=False and scale=0.25 it is GaLore, and APOLLO with
basis="random" and channel_scaling=True.

Source: Modoranu et al. 2025, arXiv:2505.17967 (DCT); Zhao et al. 2024, "GaLore: Memory-Efficient
LLM Training by Gradient Low-Rank Projection", arXiv:2403.03507; Zhu et al. 2024, "APOLLO: SGD-like
Memory, AdamW-level Performance", arXiv:2412.05270.
Differs from them: a and c. Without them a column that is chosen anew has moments that began at zero
while t goes on, and moves (1 - β₁) / √(1 - β₂) = 3.2 times too far. Random columns are orthonormal,
so APOLLO's ratio of norms needs no factor √(n / r).
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..maths.subspace import RANKINGS, Ranking
from .error_feedback import keep_error, kept_error
from .matrix_optimizer import MatrixOptimizer, adam_direction, tall_shape
from .projection_bases import BASES, Basis

__all__ = ["ProjectedAdamW"]

GROWTH = 1.01  # of the norm of a channel-scaled update, from one step to the next


class ProjectedAdamW(MatrixOptimizer):
    """AdamW in r columns of every matrix.

    Args:
        params: Parameters or groups; vectors, and groups with `projected=False`, get AdamW.
        lr: η, at least 0.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε, at least 0.
        weight_decay: λ, at least 0, decoupled.
        rank: r as a share of the short side in (0, 1], or a whole number; a matrix whose short side
            it reaches gets AdamW.
        basis: `dct`, `svd` or `random`.
        update_every: Steps from one choice of columns to the next; None is 1 for `dct`, else 200.
        ranking: How cosines are ranked, `l2` or `l1`.
        rotate: Whether moments are carried over where columns change; without it they stay as
            they are, and belong to other columns.
        error_feedback: Whether what is dropped is added to the next gradient: it costs as much as
            the weights, or with `int8` a quarter of float32.
        channel_scaling: Whether the update is the gradient, scaled row by row.
        scale: s, above 0.
        seed: Of random columns.

    Raises:
        ValueError: a setting out of its range, or settings that exclude each other.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        rank: int | float = 0.25,
        basis: str = "dct",
        update_every: int | None = None,
        ranking: Ranking = "l2",
        rotate: bool = True,
        error_feedback: bool | Literal["int8"] = False,
        channel_scaling: bool = False,
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Check and keep the settings."""
        settings = {"rank": rank, "basis": basis, "update_every": update_every, "ranking": ranking}
        settings |= {"rotate": rotate, "error_feedback": error_feedback, "scale": scale}
        settings |= {"channel_scaling": channel_scaling, "seed": seed}
        adam = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, adam | settings)

    def _prepare(self) -> None:
        self._bases: dict[str, Basis] = {name: kind() for name, kind in BASES.items()}

    def _check_group(self, group: Mapping[str, Any]) -> None:
        if group["basis"] not in BASES:
            raise ValueError(f"basis must be one of {', '.join(BASES)}, got {group['basis']!r}")
        every = group["update_every"]
        if every is not None and (isinstance(every, bool) or every != int(every) or every < 1):
            raise ValueError(f"update_every must be a number of steps, at least 1, got {every}")
        if group["ranking"] not in RANKINGS:
            raise ValueError(f"ranking must be one of {RANKINGS}, got {group['ranking']!r}")
        if group["ranking"] != "l2" and group["basis"] != "dct":
            raise ValueError(f"ranking={group['ranking']} ranks cosines; take basis=dct with it")
        if group["error_feedback"] not in (False, True, "int8"):
            raise ValueError(
                f"error_feedback must be false, true or int8, got {group['error_feedback']!r}"
            )
        if group["channel_scaling"] and group["error_feedback"]:
            raise ValueError(
                "channel_scaling=true updates with the whole gradient and drops nothing that "
                "error_feedback could keep; leave one of them out"
            )
        if not group["scale"] > 0:
            raise ValueError(f"scale must be above 0, got {group['scale']}")

    def _update_matrix(
        self, p: Tensor, grad: Tensor, group: Mapping[str, Any], rank: int, number: int
    ) -> None:
        state, betas = self.state[p], group["betas"]
        feedback = group["error_feedback"]
        if feedback:
            grad = grad + kept_error(state, grad)
        columns = self._columns(state, grad, group, rank, number)
        seen = grad @ columns
        if feedback:
            keep_error(state, grad - seen @ columns.mT, whole_numbers=feedback == "int8")
        for beta, total in zip(betas, state["totals"], strict=True):
            total.mul_(beta).add_(1 - beta)
        moments = state["exp_avg"], state["exp_avg_sq"]
        move = adam_direction(seen, *moments, betas, group["eps"], *state["totals"]).to(grad.dtype)
        if group["channel_scaling"]:
            move = _scale_channels(grad, move, seen, state)
        else:
            move = move @ columns.mT
        self._move(p, move, group["lr"] * group["scale"])

    def _columns(
        self, state: dict[str, Any], grad: Tensor, group: Mapping[str, Any], rank: int, number: int
    ) -> Tensor:
        """Return P for this step, chosen anew where that is due."""
        basis, (rows, size) = self._bases[group["basis"]], grad.shape
        step, old = int(state["step"]), state.get("basis")
        if old is None:
            accurate = torch.promote_types(grad.dtype, torch.float32)
            state["exp_avg"] = grad.new_zeros(rows, rank)
            state["exp_avg_sq"] = grad.new_zeros(rows, rank)
            state["totals"] = grad.new_zeros(2, rank, dtype=accurate)
            state["side"] = size
        elif (step - 1) % (group["update_every"] or basis.update_every):
            return basis.columns(old, grad)
        draw = f"{group['seed']}, parameter {number}, step {step}"
        new = basis.choose(grad, rank, group["ranking"], draw)
        if old is not None and group["rotate"]:
            move = {"old": old, "new": new, "n": size}
            state["exp_avg"] = basis.carry(state["exp_avg"], **move)
            state["exp_avg_sq"] = basis.carry_squares(state["exp_avg_sq"], **move)
            mean, square = state["totals"]
            totals = basis.carry_squares(torch.stack([mean.square(), square]), **move)
            state["totals"] = torch.stack([totals[0].sqrt(), totals[1]])
        state["basis"] = new
        return basis.columns(new, grad)

    def _state_shapes(self, p: Tensor, group: Mapping[str, Any], rank: int) -> dict[str, Any]:
        rows, size = tall_shape(p)
        shapes: dict[str, Any] = dict.fromkeys(("exp_avg", "exp_avg_sq"), (rows, rank))
        kept = self._bases[group["basis"]].kept_shape(size, rank)
        shapes |= {"totals": (2, rank), "basis": kept, "side": size}
        if group["error_feedback"]:
            shapes["error"] = (rows, size)
        if group["error_feedback"] == "int8":
            shapes["error_scale"] = (rows, 1)
        if group["channel_scaling"]:
            shapes["norm"] = ()
        return shapes


def _scale_channels(grad: Tensor, move: Tensor, seen: Tensor, state: dict[str, Any]) -> Tensor:
    """Return the rows of a gradient, each as long as its move in the subspace says.

    The norm of the whole may grow by 1 % a step and no faster, as in APOLLO's code, but from zero:
    there a layer that had no gradient at first, as before zeros, would hardly ever begin.
    """
    tiny = torch.finfo(grad.dtype).tiny
    length = torch.linalg.vector_norm(seen, dim=1, keepdim=True)
    ratio = torch.linalg.vector_norm(move, dim=1, keepdim=True) / length
    scaled = grad * torch.where(length > 0, ratio, 0.0)  # a row that is not seen rests
    norm = torch.linalg.vector_norm(scaled)
    if "norm" in state:
        most = torch.where(state["norm"] > 0, GROWTH * state["norm"], norm)
        allowed = torch.minimum(norm, most)
        scaled = scaled * (allowed / norm.clamp(tiny))
        norm = allowed
    state["norm"] = norm
    return scaled
