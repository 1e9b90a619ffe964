"""Linear operators of one sample: what moves and scales values, and copies of a small map.

`Gather` writes to each output one input times a number, or nothing. `Blocks` applies one base map,
a matrix or a convolution, to many groups of values, such as the tokens of a sequence. Both act on
columns and on rows in float64, and know three bounds:

    norm       of ‖N‖, proved
    loose      of ‖|N|‖, cheap, which rounding is multiplied with
    roundings  of one output value
"""

# Shape letters: N inputs, M outputs, K columns, T groups, I and O inputs and outputs of a group.

from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from ...layers.lipschitz.proof.norms import gamma, product_up, root_up
from .maps import ConvMap, MatrixMap, SpectralMap, equal

__all__ = ["Base", "Blocks", "Gather", "Operator"]


class Operator:
    """A linear map R^N -> R^M in float64.

    Attributes:
        columns: N.
        rows: M.
    """

    columns: int
    rows: int

    def apply(self, columns: Tensor) -> Tensor:
        """Map columns (N, K) -> (M, K); differentiable."""
        raise NotImplementedError

    def adjoint(self, rows: Tensor) -> Tensor:
        """Multiply rows from the left: (K, M) -> (K, N)."""
        raise NotImplementedError

    def dense(self) -> Tensor:
        """Return the matrix (M, N)."""
        if self.columns <= self.rows:
            return self.apply(torch.eye(self.columns, dtype=torch.float64))
        return self.adjoint(torch.eye(self.rows, dtype=torch.float64))

    @cached_property
    def norm(self) -> float:
        """A proved bound of the spectral norm."""
        raise NotImplementedError

    @cached_property
    def loose(self) -> float:
        """A bound of the norm of the matrix of absolute values."""
        raise NotImplementedError

    @property
    def roundings(self) -> int:
        """Roundings of one output value, a sum of as many products."""
        raise NotImplementedError

    def same(self, other: "Operator") -> bool:
        """Whether another operator has the very same numbers."""
        raise NotImplementedError


class Gather(Operator):
    """Output i is scale_i times input index_i, or 0 where the index is −1.

    Args:
        index: (M,).
        scale: (M,), or None for ones.
        columns: N.
        rounded: Roundings of float64 that each scale has gone through.
    """

    def __init__(self, index: Tensor, scale: Tensor | None, columns: int, rounded: int = 0) -> None:
        """Keep the parts."""
        self.index, self.scale, self.rounded = index, scale, rounded
        self.columns, self.rows = columns, len(index)

    def apply(self, columns: Tensor) -> Tensor:
        """Map columns (N, K) -> (M, K)."""
        if self.identity:
            found = columns
        elif self.full:
            found = columns[self.index]
        else:
            found = torch.cat([columns, columns.new_zeros(1, columns.shape[1])])[self.index]
        return found if self.scale is None else found * self.scale[:, None]

    def adjoint(self, rows: Tensor) -> Tensor:
        """Map rows (K, M) -> (K, N)."""
        rows = rows if self.scale is None else rows * self.scale
        if self.identity:
            return rows
        out = rows.new_zeros(len(rows), self.columns + 1)
        place = self.index.where(self.index >= 0, self.columns)
        return out.index_add(1, place, rows)[:, :-1]

    @cached_property
    def full(self) -> bool:
        """Whether every output reads an input."""
        return bool((self.index >= 0).all())

    @cached_property
    def identity(self) -> bool:
        """Whether output i reads input i, apart from the scale."""
        return self.rows == self.columns and torch.equal(self.index, torch.arange(self.rows))

    @cached_property
    def norm(self) -> float:
        """The largest column of the matrix, whose rows have one entry each."""
        if self.scale is None:
            used = self.index[self.index >= 0]
            most = int(used.bincount().max()) if len(used) else 0
            return root_up(most) if most > 1 else float(most)
        square = torch.zeros(self.columns + 1, dtype=torch.float64)
        place = self.index.where(self.index >= 0, self.columns)
        square.index_add_(0, place, self.scale.square())
        kept = self.index[self.index >= 0]
        count = int(kept.bincount().max()) if len(kept) else 0
        largest = float(square[:-1].max()) if self.columns else 0.0
        used = self.scale[self.index >= 0].abs()
        if count == 1 or not len(used):
            return product_up(float(used.max()) if len(used) else 0.0, 1 + gamma(self.rounded))
        return product_up(root_up(largest), 1 + gamma(count + 4 + self.rounded))

    @cached_property
    def loose(self) -> float:
        """The norm: absolute values change nothing."""
        return self.norm

    @property
    def roundings(self) -> int:
        """One product."""
        return 0 if self.scale is None else 1 + self.rounded

    def same(self, other: Operator) -> bool:
        """Whether index and scale agree."""
        return (
            isinstance(other, Gather)
            and self.columns == other.columns
            and torch.equal(self.index, other.index)
            and equal(self.scale, other.scale)
        )


Base = MatrixMap | ConvMap | SpectralMap


class Blocks(Operator):
    """Copies of one map, each on a group of inputs and writing a group of outputs.

    Args:
        base: The map, I inputs to O outputs.
        inputs: Places that each group reads (T, I); −1 reads a zero.
        outputs: Places that it writes (T, O), each once; −1 writes nothing.
        columns: N.
        rows: M.
    """

    def __init__(
        self, base: Base, inputs: Tensor, outputs: Tensor, columns: int, rows: int
    ) -> None:
        """Keep the parts."""
        self.base, self.inputs, self.outputs = base, inputs, outputs
        self.columns, self.rows = columns, rows
        self.read = Gather(inputs.flatten(), None, columns)
        self.write = Gather(outputs.flatten(), None, rows)

    @cached_property
    def written(self) -> Gather:
        """Where each output stands among those of the groups."""
        flat = self.outputs.flatten()
        back = torch.full((self.rows + 1,), -1)
        back[flat] = torch.arange(len(flat))  # the last entry stands for −1
        return Gather(back[:-1], None, len(flat))

    def apply(self, columns: Tensor) -> Tensor:
        """Map columns (N, K) -> (M, K)."""
        groups = self.read.apply(columns).view(*self.inputs.shape, -1)
        found = self.base.apply(groups).reshape(self.outputs.numel(), -1)
        return self.written.apply(found)

    def adjoint(self, rows: Tensor) -> Tensor:
        """Map rows (K, M) -> (K, N)."""
        if self.plain and isinstance(self.base, MatrixMap):
            return rows @ self.base.weight.reshape(self.rows, self.columns)
        groups = self.write.apply(rows.T).view(*self.outputs.shape, -1)
        return self.read.adjoint(self.base.adjoint(groups).reshape(self.inputs.numel(), -1).T)

    @cached_property
    def plain(self) -> bool:
        """Whether it is its base: one group of all inputs and outputs in their order."""
        return len(self.inputs) == 1 and self.read.identity and self.write.identity

    @cached_property
    def norm(self) -> float:
        """The base's norm, times the root of how many groups share an input."""
        spread = self.read.norm
        if spread > 1.0 and isinstance(self.base, ConvMap):
            size = self._circular(self.base)
            if size is not None:
                return self.base.bound(size, circular=True)
        return product_up(self.base.norm, spread)

    def _circular(self, base: ConvMap) -> tuple[int, ...] | None:
        """Return the size of the image whose periodic continuation is read, or None."""
        axes = len(base.size)
        if base.transposed or any(base.padding) or axes > 3:
            return None
        spans = [d * (k - 1) for d, k in zip(base.dilation, base.weight.shape[2:], strict=True)]
        size = tuple(n - span for n, span in zip(base.size, spans, strict=True))
        if any(n < 1 or n < span - span // 2 for n, span in zip(size, spans, strict=True)):
            return None
        # The middle of what is read, continued, must be all that is read.
        ids = self.inputs.view(len(self.inputs), base.channels, *base.size).double()
        middle = ids
        pads: list[int] = []
        for axis, (n, span) in enumerate(zip(size, spans, strict=True)):
            middle = middle.narrow(2 + axis, span // 2, n)
            pads = [span // 2, span - span // 2, *pads]
        once = middle[middle >= 0]
        whole = bool((middle >= 0).all()) and len(once.unique()) == once.numel()
        again = F.pad(middle, pads, mode="circular") if any(pads) else middle
        return size if whole and torch.equal(again, ids) else None

    @cached_property
    def loose(self) -> float:
        """The base's, times the root of how many groups share an input."""
        return product_up(self.base.loose, self.read.norm)

    @property
    def roundings(self) -> int:
        """Those of the base."""
        return self.base.roundings

    def same(self, other: Operator) -> bool:
        """Whether base and places agree."""
        return (
            isinstance(other, Blocks)
            and (self.columns, self.rows) == (other.columns, other.rows)
            and torch.equal(self.inputs, other.inputs)
            and torch.equal(self.outputs, other.outputs)
            and self.base.same(other.base)
        )
