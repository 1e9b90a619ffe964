"""Bases of projected optimisers: what each keeps of a matrix, and how it carries moments over.

    name      kept of a matrix          chosen anew every      source
    dct       r indices                 step                   arXiv:2505.17967
    svd       r singular vectors        200 steps              arXiv:2403.03507, GaLore
    random    r orthonormal vectors     200 steps              arXiv:2412.05270, APOLLO

One table of cosines for each size serves all matrices of an optimiser.
"""

# Shape letters: m long side, n short side of a gradient, r columns.

import random
from typing import Protocol

import torch
from torch import Tensor

from ..maths.subspace import (
    Ranking,
    cosine_basis,
    gather_columns,
    random_basis,
    singular_basis,
    strongest_columns,
)

__all__ = ["BASES", "Basis", "CosineColumns"]


class Basis(Protocol):
    """Orthonormal columns P (n, r) for a gradient (m, n).

    Attributes:
        update_every: Steps from one choice to the next, by default.
    """

    update_every: int

    def kept_shape(self, n: int, rank: int) -> tuple[int, ...]:
        """Shape of what is kept."""
        ...

    def choose(self, gradient: Tensor, rank: int, ranking: Ranking, draw: str) -> Tensor:
        """Return what is kept of new columns; `draw` names the draw of random ones."""
        ...

    def columns(self, kept: Tensor, like: Tensor) -> Tensor:
        """Return P (n, r) for a gradient (m, n)."""
        ...

    def carry(self, values: Tensor, old: Tensor, new: Tensor, n: int) -> Tensor:
        """Return means (..., r) in the new columns from those in the old ones."""
        ...

    def carry_squares(self, values: Tensor, old: Tensor, new: Tensor, n: int) -> Tensor:
        """Return means of squares (..., r) in the new columns."""
        ...


class CosineColumns:
    """Columns of the DCT, of which the indices are kept."""

    update_every = 1

    def __init__(self) -> None:
        """Begin without tables."""
        self._tables: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}

    def table(self, n: int, like: Tensor) -> Tensor:
        """Return Q (n, n), made once for a size, dtype and device."""
        key = n, like.dtype, like.device
        if key not in self._tables:
            self._tables[key] = cosine_basis(n, like)
        return self._tables[key]

    def kept_shape(self, n: int, rank: int) -> tuple[int, ...]:
        """One index a column."""
        return (rank,)

    def choose(self, gradient: Tensor, rank: int, ranking: Ranking, draw: str) -> Tensor:
        """Return the indices of the largest coefficients."""
        coefficients = gradient @ self.table(gradient.shape[1], gradient)
        return strongest_columns(coefficients, rank, ranking)

    def columns(self, kept: Tensor, like: Tensor) -> Tensor:
        """Return the cosines of the indices."""
        return self.table(like.shape[1], like)[:, kept]

    def carry(self, values: Tensor, old: Tensor, new: Tensor, n: int) -> Tensor:
        """Gather the columns that stay."""
        return gather_columns(values, old, new, n)

    carry_squares = carry


class Vectors:
    """Columns that are kept as they are."""

    update_every = 200

    def kept_shape(self, n: int, rank: int) -> tuple[int, ...]:
        """All columns."""
        return (n, rank)

    def columns(self, kept: Tensor, like: Tensor) -> Tensor:
        """Return what is kept."""
        return kept

    def carry(self, values: Tensor, old: Tensor, new: Tensor, n: int) -> Tensor:
        """Rotate by R = PᵀP'."""
        return values @ (old.mT @ new).to(values.dtype)

    def carry_squares(self, values: Tensor, old: Tensor, new: Tensor, n: int) -> Tensor:
        """Rotate by R ∘ R."""
        return values @ (old.mT @ new).square().to(values.dtype)


class SingularVectors(Vectors):
    """Leading right singular vectors of the gradient at the time."""

    def choose(self, gradient: Tensor, rank: int, ranking: Ranking, draw: str) -> Tensor:
        """Decompose the gradient."""
        return singular_basis(gradient, rank)


class RandomVectors(Vectors):
    """Orthonormal vectors that no gradient decides."""

    def choose(self, gradient: Tensor, rank: int, ranking: Ranking, draw: str) -> Tensor:
        """Draw them."""
        generator = torch.Generator().manual_seed(random.Random(draw).getrandbits(63))
        return random_basis(gradient.shape[1], rank, gradient, generator)


BASES: dict[str, type[Basis]] = {
    "dct": CosineColumns,
    "svd": SingularVectors,
    "random": RandomVectors,
}
