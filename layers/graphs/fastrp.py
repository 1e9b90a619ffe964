"""FastRP: embedding of a graph's nodes by a random projection, with nothing trained.

With the adjacency matrix A, the degrees D and the random walk P = D⁻¹ A,

    Z = Σ_k w_k U_k,    U_k = P U_{k−1},    U_0 = D^α R,

where R is a very sparse random matrix: its entries are √s · (1, 0, −1) with the probabilities
1/2s, 1 − 1/s and 1/2s. Each U_k may have its rows scaled to length one first.

Source: Chen, Sultan, Tian, Chen and Skiena 2019, "Fast and accurate network embeddings via very
sparse random projection", arXiv:1908.11512, §3; the matrix is that of Li, Hastie and Church 2006.
Differs from it: degrees are not divided by twice the edges, which is one factor of all rows, and
the columns of Z are not standardised, which would change its angles. A node without an edge is 0.
"""

# Shape letters: N nodes, E edges, D dimensions.

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["fastrp", "fastrp_table", "very_sparse_projection"]


def very_sparse_projection(
    num_nodes: int,
    dim: int,
    *,
    sparsity: float = 3.0,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw R (N, D) on the CPU, where a seed means the same on every machine.

    Args:
        num_nodes: N.
        dim: D, at least 1.
        sparsity: s, at least 1; one entry in s is not 0. √N is the paper's "very sparse".
        generator: Of the draw; None is the global one.
        dtype: Of the result.

    Raises:
        ValueError: a number out of range.
    """
    if dim < 1 or not sparsity >= 1:
        raise ValueError(f"dim and sparsity must be at least 1, got {dim} and {sparsity}")
    drawn = torch.rand(num_nodes, dim, generator=generator, device="cpu", dtype=torch.float64)
    signs = (drawn < 0.5 / sparsity).to(dtype) - (drawn >= 1 - 0.5 / sparsity).to(dtype)
    return signs * sparsity**0.5


def fastrp(
    edges: Tensor,
    projection: Tensor,
    *,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    alpha: float = 0.0,
    normalise: bool = True,
) -> Tensor:
    """Embed the nodes of a graph.

    Args:
        edges: Undirected, each once, int64 (E, 2). An edge of a node to itself counts as none.
        projection: R.
        weights: w_1, w_2, … of the powers of P, at least one.
        alpha: α of the degrees, usually in [−1, 0]; 0 leaves R as it is.
        normalise: Whether rows of each U_k are scaled to length one before they are summed.

    Shape:
        edges (E, 2), projection (N, D) -> (N, D).

    Raises:
        ValueError: no weight.
    """
    if not len(weights):
        raise ValueError("weights must hold a number for each power, at least one; got none")
    u, v = edges[edges[:, 0] != edges[:, 1]].unbind(1)
    source, target = torch.cat([u, v]), torch.cat([v, u])
    degree = target.bincount(minlength=len(projection)).to(projection.dtype)
    # A node without an edge is in no sum, and a power of its degree might be infinite.
    scale = torch.where(degree > 0, degree**alpha, 0.0)
    walk = 1 / degree[target][:, None]
    power, total = projection * scale[:, None], torch.zeros_like(projection)
    for weight in weights:
        power = torch.zeros_like(power).index_add(0, target, power[source] * walk)
        total = total + weight * (F.normalize(power, dim=1) if normalise else power)
    return total


def fastrp_table(edges: Tensor, num_nodes: int, dim: int) -> Tensor:
    """Embed the nodes for a start of training: FastRP with rows of mean square length one.

    The global generator of the CPU draws the projection.
    """
    projection = very_sparse_projection(num_nodes, dim).to(edges.device)
    table = fastrp(edges, projection)
    return table * table.square().sum(1).mean().rsqrt()
