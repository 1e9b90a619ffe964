"""The equations of the mechanisms with several streams, token by token and stream by stream."""

import itertools

import torch
from torch import Tensor

from .sums import branch

__all__ = ["hyper_connections", "mhc", "mhc_lite", "sinkhorn_plain"]


def hyper_connections(
    residual, x: Tensor, weights: Tensor, *, streams: int = 4, dynamic: bool = True
) -> Tensor:
    """h = A_mᵀ H, H' = A_rᵀ H + Bᵀ y, closed by the sum of the streams."""
    n, closed = streams, []
    for token in x.reshape(-1, x.shape[-1]):
        h = token.repeat(n, 1)
        for site, weight in enumerate(weights):
            a_m, a_r, b = connections(residual, h, site, dynamic)
            y = branch(sum(a_m[j] * h[j] for j in range(n)), weight)
            h = torch.stack([sum(a_r[j, i] * h[j] for j in range(n)) + b[i] * y for i in range(n)])
        closed.append(h.sum(0))
    return torch.stack(closed).view(x.shape)


def connections(residual, h: Tensor, site: int, dynamic: bool) -> tuple[Tensor, Tensor, Tensor]:
    """A_m, A_r and B of one token's streams (n, D), entry by entry."""
    n = len(h)
    a_m, a_r, b = (torch.zeros(size, dtype=h.dtype) for size in ((n,), (n, n), (n,)))
    for j in range(n):
        row = residual.static[site, j].detach().clone()
        if dynamic:
            unit = h[j] / (h[j].square().mean() + 1e-6).sqrt()
            s_alpha, s_beta = residual.scale[site].detach()
            for column in range(n + 2):
                s = s_beta if column == n + 1 else s_alpha
                row[column] += s * (unit @ residual.weight[site, column].detach()).tanh()
        a_m[j], a_r[j], b[j] = row[0], row[1 : n + 1], row[n + 1]
    return a_m, a_r, b


def mhc(
    residual, x: Tensor, weights: Tensor, *, streams: int = 4, sinkhorn_steps: int = 20
) -> Tensor:
    """p = σ(…), q = 2 σ(…), R = Sinkhorn(exp(…)), each of all streams over their rms."""
    return _manifold(residual, x, weights, streams, sinkhorn_steps)


def mhc_lite(residual, x: Tensor, weights: Tensor, *, streams: int = 4) -> Tensor:
    """The same with R a mixture of all permutations."""
    return _manifold(residual, x, weights, streams, None)


def _manifold(residual, x: Tensor, weights: Tensor, n: int, steps: int | None) -> Tensor:
    closed = []
    for token in x.reshape(-1, x.shape[-1]):
        h = token.repeat(n, 1)
        for site, weight in enumerate(weights):
            flat = h.flatten()
            unit = flat / (flat.square().mean() + 1e-6).sqrt()
            logits = residual.weight[site].detach() @ unit
            b, (a_pre, a_post, a_res) = residual.offset[site].detach(), residual.gate[site].detach()
            pre = sigmoid(a_pre * logits[:n] + b[:n])
            post = 2 * sigmoid(a_post * logits[n : 2 * n] + b[n : 2 * n])
            res = a_res * logits[2 * n :] + b[2 * n :]
            if steps is None:
                matrix = permutation_mixture(res, n)
            else:
                matrix = sinkhorn_plain(res.view(n, n), steps)
            h = matrix @ h + post[:, None] * branch(pre @ h, weight)
        closed.append(h.sum(0))
    return torch.stack(closed).view(x.shape)


def sigmoid(z: Tensor) -> Tensor:
    """1 / (1 + exp(−z))."""
    return 1 / (1 + (-z).exp())


def sinkhorn_plain(logits: Tensor, steps: int) -> Tensor:
    """Rows and columns of exp(logits), normalised in turn."""
    matrix = logits.exp()
    for _ in range(steps):
        matrix = matrix / matrix.sum(-1, keepdim=True)
        matrix = matrix / matrix.sum(-2, keepdim=True)
    return matrix


def permutation_mixture(logits: Tensor, n: int) -> Tensor:
    """Σ_k softmax(logits)_k P_k, over the permutations in the order of itertools."""
    share, matrix = logits.exp() / logits.exp().sum(), torch.zeros(n, n).double()
    for weight, order in zip(share, itertools.permutations(range(n)), strict=True):
        for i, j in enumerate(order):
            matrix[i, j] += weight
    return matrix
