"""A table of vectors as a smaller table and a linear map: feature mimicking of an embedding.

    p_v     share of look-ups of row v          w̄ = Σ p_v w_v
    U_k     top eigenvectors of Σ p_v (w_v - w̄)(w_v - w̄)ᵀ
    table   (w_v - w̄) U_k   (V, k)              y = table[v] U_kᵀ + w̄

The mean squared error over the look-ups is the sum of the eigenvalues beyond k, and the mean of y
is that of the rows. A row that was never looked up is projected like the others.

Source: Yu and Wu 2023, "Compressing Transformers: Features Are Low-Rank, but Weights Are Not!",
AAAI 2023; for embeddings arXiv:2405.18146.
Differs from them: nothing.
"""

# Shape letters: V rows, d length of a row, k rank.

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..maths.decompose import refuse_infinite

__all__ = ["FactoredEmbedding", "MimickedTable", "mimicked_table"]


class MimickedTable(NamedTuple):
    """The small table (V, k), the map (k, d), the bias (d,), and all d eigenvalues, descending."""

    table: Tensor
    right: Tensor
    bias: Tensor
    eigenvalues: Tensor


@torch.no_grad()
def mimicked_table(rows: Tensor, counts: Tensor, rank: int) -> MimickedTable:
    """Return the parts of the best embedding of a rank for look-ups as they were counted.

    Args:
        rows: w (V, d).
        counts: Look-ups of every row (V,).
        rank: k in [0, d].

    Raises:
        ValueError: a rank out of range, counts of another number of rows, negative or all zero, NaN
            or infinite values.
    """
    size, width = rows.shape
    if not 0 <= rank <= width:
        raise ValueError(f"rank must lie in [0, {width}] for rows of {width}, got {rank}")
    if counts.shape != (size,) or (counts < 0).any() or not counts.any():
        raise ValueError(
            f"counts must be {size} numbers of at least 0, one a row, and not all 0; got "
            f"{tuple(counts.shape)} with the sum {float(counts.sum()):g}"
        )
    refuse_infinite(rows, "rows")
    wide, share = rows.double(), counts.double() / counts.sum()
    mean = share @ wide
    centred = wide - mean
    values, vectors = torch.linalg.eigh(centred.mT @ (share[:, None] * centred))
    # Eigenvalues that are zero come out as roundings of either sign.
    values, kept = values.flip(-1).clamp_min(0), vectors.flip(-1)[:, :rank]
    table, right, bias = (part.to(rows.dtype) for part in (centred @ kept, kept.mT, mean))
    return MimickedTable(table, right, bias, values)


class FactoredEmbedding(nn.Module):
    """y = table[v] right + bias.

    Args:
        table: (V, k).
        right: (k, d).
        bias: (d,).

    Shape:
        (...) of whole numbers -> (..., d).
    """

    no_units = "its factors have inner channels of no order and no scale; merge them first"

    def __init__(self, table: Tensor, right: Tensor, bias: Tensor) -> None:
        """Keep copies."""
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.shape[0], right.shape[1]
        self.table = nn.Parameter(table.detach().clone())
        self.right = nn.Parameter(right.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())

    @property
    def weight(self) -> Tensor:
        """The whole table (V, d), formed anew at every access."""
        return self.table @ self.right + self.bias

    def forward(self, index: Tensor) -> Tensor:
        """Look up and map."""
        return F.linear(F.embedding(index, self.table), self.right.mT, self.bias)

    @torch.no_grad()
    def to_dense(self) -> nn.Embedding:
        """Return a plain embedding with the same outputs."""
        made = nn.Embedding.from_pretrained(self.weight, freeze=not self.table.requires_grad)
        return made.train(self.training)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{self.num_embeddings}, {self.embedding_dim}, rank={self.table.shape[1]}"
