"""The least constant that the matrix inequality can prove, by a solver of semidefinite programs."""

import math
from typing import Any

import torch
from archzoo.layers.lipschitz import LMIBlock
from torch import Tensor

__all__ = ["solver_lipschitz"]


def solver_lipschitz(cvxpy: Any, block: LMIBlock, **options: Any) -> float:
    """Return the optimum over diagonal multipliers (LipSDP-Neuron), to the solver's tolerance.

    Args:
        cvxpy: The package.
        block: Whose own multipliers are not read.
        options: Of the solver; Clarabel with its defaults if none are given.
    """
    widths = block.widths
    starts = [sum(widths[:k]) for k in range(len(widths) + 1)]
    d, total = widths[0], starts[-1]
    behind = torch.eye(total, dtype=torch.float64)  # w − z from the signals
    out = torch.zeros(len(block.skip), total, dtype=torch.float64)
    out[:, :d] = block.skip
    for k, (c, tap) in enumerate(zip(block.inner, block.taps, strict=True), start=1):
        rows = slice(starts[k], starts[k + 1])
        behind[rows, starts[k] - c.shape[1] : starts[k]] -= c
        out[:, rows] = torch.zeros_like(out[:, rows]) if tap is None else tap
    return _solved(cvxpy, d, behind[d:], out, options or {"solver": cvxpy.CLARABEL})


def _solved(cvxpy: Any, d: int, behind: Tensor, out: Tensor, options: dict[str, Any]) -> float:
    size = float(torch.linalg.matrix_norm(out, 2))  # outputs in a unit that the solver likes
    hidden = torch.eye(out.shape[1], dtype=torch.float64)
    first, hidden = torch.diag((torch.arange(out.shape[1]) < d).double()), hidden[:, d:]
    square = cvxpy.Variable()
    weighted = cvxpy.diag(cvxpy.Variable(len(behind), nonneg=True))
    half = hidden.numpy() @ weighted @ behind.numpy()
    p = square * first.numpy() + half + half.T - (out.mT @ out / size**2).numpy()
    problem = cvxpy.Problem(cvxpy.Minimize(square), [(p + p.T) / 2 >> 0])
    problem.solve(**options)
    return size * math.sqrt(max(float(square.value), 0.0))
