"""A matrix as its singular pairs, of which some are trained and the others wait.

    W = U diag(σ) V,    U (rows, k), σ (k), V (k, columns),    k = min(rows, columns)

All σ are trained, and r pairs (u_i, v_i), the active ones, by the gradients of `enhanced_gradient`.

Active and waiting vectors are separate parameters, so that gradients and optimiser states exist for
r pairs only. Stored are k (rows + columns + 1) numbers, up to twice a dense weight.

Source: Zhao et al. 2024, "Sparse Spectral Training and Inference on Euclidean and Hyperbolic Neural
Networks", arXiv:2405.15481.
Differs from it: W is formed where more rows of x than that pays for go through it; matrices of a
batch, the groups of a convolution, share the choice of pairs.
"""

# Shape letters: k pairs, r active pairs.

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...decay import exclude_from_decay
from ..maths.decompose import at_least_float32, refuse_infinite
from .enhanced_gradient import in_order, spectral_linear, spectral_matrix
from .structure import WeightStructure, assign, own_copy, stored_in

__all__ = ["Spectral"]


class Spectral(WeightStructure):
    """A matrix as its singular pairs, r of them trained, and all singular values.

    Args:
        weight: W (..., rows, columns) at the start.
        rank: r, in [1, k]; the largest pairs are active at first.
        enhanced: Whether the gradients of vectors leave σ out.

    Attributes:
        left: Active columns of U (..., rows, r), exempt from weight decay as `right` is, since
            they are brought back to unit length.
        right: Active rows of V (..., r, columns).
        sigma: (..., 1, k); weight decay on it is decay of W.
        waiting_left: The other columns, not trained.
        waiting_right: The other rows, not trained.
    """

    fixed = ("waiting_left", "waiting_right")
    order: Tensor

    def __init__(self, weight: Tensor, rank: int, *, enhanced: bool = True) -> None:
        """Decompose W, in float32 at least."""
        super().__init__()
        self.shape = tuple(weight.shape)
        self.rank, self.enhanced = rank, enhanced
        left, values, right = torch.linalg.svd(at_least_float32(weight), full_matrices=False)
        left, values, right = (t.to(weight.dtype) for t in (left, values, right))
        self.register_buffer("order", torch.arange(values.shape[-1], device=weight.device))
        self.left = nn.Parameter(own_copy(left[..., :rank]))
        self.right = nn.Parameter(own_copy(right[..., :rank, :]))
        self.sigma = nn.Parameter(own_copy(values.unsqueeze(-2)))
        self.waiting_left = nn.Parameter(own_copy(left[..., rank:]), requires_grad=False)
        self.waiting_right = nn.Parameter(own_copy(right[..., rank:, :]), requires_grad=False)
        exclude_from_decay(self, "left", "right")

    def dense(self) -> Tensor:
        """Return W."""
        return spectral_matrix(*self._parts(), self.order, enhanced=self.enhanced)

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply by two thin matrices or by W, whichever takes fewer products."""
        rows, columns = self.shape
        pairs, count = self.sigma.shape[-1], prod(x.shape[:-1])
        if count * (pairs * (rows + columns) - rows * columns) > pairs * rows * columns:
            return F.linear(x, self.dense(), bias)
        parts = self._parts()
        y = spectral_linear(x.to(parts[0].dtype), *parts, self.order, enhanced=self.enhanced)
        return y if bias is None else y + bias.to(y.dtype)

    def singular_values(self) -> Tensor:
        """Return those of W; `sigma` are they only as long as its vectors are orthogonal."""
        return torch.linalg.svdvals(at_least_float32(self.dense().detach()))

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring σ back to at least 0, and active vectors to length 1; the rest of it is dropped."""
        sigma = stored_in(self.sigma)
        assign(self.sigma, sigma.clamp(min=0))
        for vectors, dim in ((self.left, -2), (self.right, -1)):
            whole = stored_in(vectors)
            assign(vectors, whole / whole.norm(dim=dim, keepdim=True))

    @torch.no_grad()
    def choose(self, order: Tensor) -> None:
        """Make other pairs the active ones; W stays bit by bit.

        Args:
            order: Places (k,) of the active pairs, then of the others.
        """
        left, right = self._vectors()
        self.order.copy_(order)
        self._write(left, right)

    @torch.no_grad()
    def decompose(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return U, σ (..., 1, k) and V of W as it is now, orthonormal again.

        Raises:
            ValueError: W holds NaN or infinite values.
        """
        left, right = self._vectors()
        sigma = at_least_float32(stored_in(self.sigma))
        weight = (at_least_float32(left) * sigma) @ at_least_float32(right)
        refuse_infinite(weight, "a weight of SST")
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        return left.contiguous(), values.unsqueeze(-2).contiguous(), right.contiguous()

    @torch.no_grad()
    def rebase(self, left: Tensor, sigma: Tensor, right: Tensor) -> None:
        """Take over another decomposition."""
        assign(self.sigma, sigma.to(self.sigma.dtype))
        self._write(left.to(self.left.dtype), right.to(self.right.dtype))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the parameters, in the dtype of autocast where it is on.

        Casts inside a custom function would leave its backward with two dtypes.
        """
        parts = self.left, self.right, self.sigma, self.waiting_left, self.waiting_right
        device = self.left.device.type
        if device == "meta" or not torch.is_autocast_enabled(device):
            return parts
        dtype = torch.get_autocast_dtype(device)
        left, right, sigma, waiting_left, waiting_right = (part.to(dtype) for part in parts)
        return left, right, sigma, waiting_left, waiting_right

    def _vectors(self) -> tuple[Tensor, Tensor]:
        """Return all of U and V, in the order of σ."""
        left = in_order(stored_in(self.left), stored_in(self.waiting_left), self.order, -1)
        return left, in_order(stored_in(self.right), stored_in(self.waiting_right), self.order, -2)

    def _write(self, left: Tensor, right: Tensor) -> None:
        active, waiting = self.order[: self.rank], self.order[self.rank :]
        assign(self.left, left.index_select(-1, active))
        assign(self.right, right.index_select(-2, active))
        assign(self.waiting_left, left.index_select(-1, waiting))
        assign(self.waiting_right, right.index_select(-2, waiting))

    def extra_repr(self) -> str:
        """Show the sizes."""
        rows, columns = self.shape[-2:]
        batch = f"{'x'.join(map(str, self.shape[:-2]))}, " if len(self.shape) > 2 else ""
        return f"{batch}{rows}x{columns}, rank={self.rank}, enhanced={self.enhanced}"
