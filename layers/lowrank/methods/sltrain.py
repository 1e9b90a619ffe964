"""SLTrain: low rank plus a sparse term on a random support that never changes.

    W = s left right + S,    S[I] = values, zero elsewhere,    |I| = max(1, int(δ rows columns))

left starts at 0, right and values as U(±1/√columns): the layer starts as S alone and what the
matrix was is not used. W is of full rank almost surely, at r (rows + columns) + |I| numbers.

A linear layer keeps no W for the backward pass: `sparse_linear` builds it, uses it and drops it, or
does without. In a convolution and in a raw matrix autograd keeps W, as it does for a dense one.

Source: Han et al. 2024, "SLTrain: a sparse plus low-rank approach for parameter and memory
efficient pretraining", arXiv:2406.02214; s = α / r is 0.25 in its recipe for 60 M parameters.
Differs from it: a small matrix has one entry at least, where the paper's int(δ rows columns) would
be 0 and the layer would start as zero; the values are a column (|I|, 1), so that an optimiser that
exempts vectors from weight decay lets them decay as entries of W; indices are int32 where they fit,
the support is drawn without a temporary of the matrix's size, no compiled extension is needed, and
few rows are multiplied without forming W.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._fast.sparse_linear import sparse_linear, sparse_plus_low_rank
from ..maths.random_vectors import uniform
from ..method import Method, check_rank, rank_of
from ..watched_weights import WatchedWeights
from ..weights.factors import Factors
from ..weights.structure import ConvSettings, WeightStructure

__all__ = [
    "SLTrain",
    "SparseFactors",
    "SparseTerm",
    "random_support",
]


def random_support(total: int, count: int, generator: torch.Generator) -> Tensor:
    """Return a uniformly random subset of 0 … total - 1, sorted, in memory that grows with `count`.

    As many as are missing are drawn and repeated ones dropped, until none is missing. No element
    differs from another in this, so every subset of that size is as likely as any other.

    Args:
        total: Size of the whole set.
        count: Size of the subset, at most `total`.
        generator: On the CPU.

    Returns:
        (count,) in int32 where it holds `total`, else int64.
    """
    if count > total // 2:  # few are left out: draw those
        left_out = random_support(total, total - count, generator)
        kept = torch.ones(total, dtype=torch.bool, device=left_out.device)
        kept[left_out.long()] = False
        chosen = kept.nonzero().flatten()
    else:
        chosen = torch.empty(0, dtype=torch.int64, device=generator.device)
        while len(chosen) < count:
            missing = (count - len(chosen),)
            more = torch.randint(total, missing, generator=generator, device=generator.device)
            chosen = torch.cat([chosen, more]).unique()
    return chosen.to(torch.int32 if total < 2**31 else torch.int64)


class SparseTerm(WeightStructure):
    """A matrix that is zero outside a support.

    Args:
        values: (n,); kept as a column (n, 1), which weight decay takes for a matrix.
        index: Positions in the flattened matrices (n,), ascending.
        shape: (..., rows, columns).
    """

    index: Tensor

    def __init__(self, values: Tensor, index: Tensor, shape: tuple[int, ...]) -> None:
        """Keep copies."""
        super().__init__()
        self.shape = shape
        self.values = nn.Parameter(values.detach().clone().unsqueeze(-1))
        self.register_buffer("index", index)

    def dense(self) -> Tensor:
        """Return the matrix."""
        zeros = self.values.new_zeros(torch.Size(self.shape).numel())
        return zeros.index_add(0, self.index, self.values.squeeze(-1)).view(self.shape)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take values that were saved as a vector."""
        saved = state_dict.get(f"{prefix}values")
        if saved is not None and saved.dim() == 1:
            state_dict[f"{prefix}values"] = saved.unsqueeze(-1)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class SparseFactors(Factors):
    """Factors beside a sparse term, which linear layers apply without keeping W.

    Args:
        left: (..., rows, r).
        right: (..., r, columns).
        scale: s.
        extra: The sparse term.
    """

    def __init__(self, left: Tensor, right: Tensor, *, scale: float, extra: SparseTerm) -> None:
        """Keep copies of the factors."""
        super().__init__(left, right, scale=scale, extra=extra)

    @property
    def sparse(self) -> SparseTerm:
        """The sparse term."""
        assert isinstance(self.extra, SparseTerm)
        return self.extra

    def dense(self) -> Tensor:
        """Return W, from the same operations as in `linear`."""
        left, right = self.prefix()
        return sparse_plus_low_rank(left, right, self.sparse.values, self.sparse.index, self.scale)

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Build W, multiply, and forget it."""
        device = x.device.type
        if x.device.type != "meta" and torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
            with torch.autocast(device, enabled=False):
                return self._multiply(x, bias)
        return self._multiply(x, bias)

    def convolve(self, x: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        """Convolve once, with the whole kernel."""
        return WeightStructure.convolve(self, x, bias, settings)

    def _multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        left, right = self.prefix()
        sparse = self.sparse
        return sparse_linear(x, left, right, sparse.values, sparse.index, bias, self.scale)


class SLTrain(Method):
    """Low rank plus a sparse term on a random support.

    Args:
        rank: Components, or a share of the full rank.
        scale: s; the paper's α / r.
        density: δ, share of the entries that the support has, in (0, 1); at least one is.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self, *, rank: int | float = 0.25, scale: float = 0.25, density: float = 0.03
    ) -> None:
        """Check and keep the settings."""
        check_rank(rank)
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        if not 0.0 < density < 1.0:
            raise ValueError(f"density must lie in (0, 1), got {density}")
        self.rank, self.scale, self.density = rank, scale, density

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int:
        """Return r."""
        return rank_of(self.rank, name, shape)

    def beside(self, shape: tuple[int, ...]) -> int:
        """Return |I|."""
        return max(1, int(self.density * torch.Size(shape).numel()))

    def resumed(self, controller: WatchedWeights) -> None:
        """Take what an optimiser knew of values that were saved as vectors."""
        for _, structure in controller.structures():
            assert isinstance(structure, SparseFactors)
            values = structure.sparse.values
            for optimizer in controller.optimizers:
                state = optimizer.state.get(values, {})
                for key, known in state.items():
                    if isinstance(known, Tensor) and known.shape == values.shape[:1]:
                        state[key] = known.unsqueeze(-1)

    def structure(self, name: str, weight: Tensor, generator: torch.Generator) -> SparseFactors:
        """Draw the support, the right factor and the values."""
        *batch, rows, columns = weight.shape
        rank = self.rank_for(name, tuple(weight.shape))
        count = self.beside(tuple(weight.shape))
        bound = columns**-0.5
        if weight.is_meta:
            kind = torch.int32 if weight.numel() < 2**31 else torch.int64
            index = torch.empty(count, dtype=kind, device=weight.device)
        else:
            index = random_support(weight.numel(), count, generator).to(weight.device)
        sparse = SparseTerm(uniform((count,), bound, weight, generator), index, tuple(weight.shape))
        right = uniform((*batch, rank, columns), bound, weight, generator)
        left = weight.new_zeros(*batch, rows, rank)
        return SparseFactors(left, right, scale=self.scale, extra=sparse)
