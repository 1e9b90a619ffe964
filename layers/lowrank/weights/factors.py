"""The factored weight: W = scale · left right + extra, with an active prefix of the rank.

left is (..., rows, R), right (..., R, columns). Component j is the column left_j with the row
right_j; a prefix r keeps the first r components, and equals a layer that was cut to them.

    y = scale · left_{:r} φ(right_{:r} x) + extra(x) + bias          φ is the identity by default

A core C between the factors, a vector (R) or a matrix (R, R), makes the product left C right, and a
gate g, which reads the input, makes it left C (g(x) ⊙ right x). Any of left, right and core may be
kept as it is while the others are trained.

Leading dimensions hold one matrix a group of a convolution.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ..maths.decompose import product_svd
from .components import PARTS, Components
from .structure import ConvSettings, WeightStructure, no_matrix

__all__ = ["Factors", "stop_sampling"]


class Factors(Components):
    """A product of two factors, plus an optional further structure.

    Args:
        left: (..., rows, R).
        right: (..., R, columns).
        scale: Multiplies the product.
        between: An activation after the right factor; then no matrix W exists.
        extra: A structure of the same shape that is added, such as a frozen or a sparse one.
        core: C (..., R) or (..., R, R), free of weight decay as a vector, or None for C = I.
        trained: Which of `left`, `right` and `core` are trained; the others have no gradient, no
            weight decay and no state of an optimiser.
        gate: A module from inputs (..., columns) to factors (..., R) of the components; then no
            matrix W exists, and only a linear layer can have it.

    Attributes:
        sampled: Prefix of the running training step, or None; ignored in evaluation, never saved.

    Raises:
        ValueError: shapes that do not fit.
    """

    def __init__(
        self,
        left: Tensor,
        right: Tensor,
        *,
        scale: float = 1.0,
        between: Callable[[Tensor], Tensor] | None = None,
        extra: WeightStructure | None = None,
        core: Tensor | None = None,
        trained: Sequence[str] = PARTS,
        gate: nn.Module | None = None,
    ) -> None:
        """Keep copies of the factors."""
        super().__init__(left, right, core, trained)
        if extra is not None and extra.shape != self.shape:
            raise ValueError(f"extra is {extra.shape}, the product of the factors {self.shape}")
        self.scale = scale
        self.between, self.gate = between, gate
        self.extra = extra
        whole = between is None and gate is None
        self.is_matrix = whole and (extra is None or extra.is_matrix)
        self.sampled: int | None = None

    @property
    def running(self) -> int:
        """Number of components that a forward pass reads now."""
        if self.training and self.sampled is not None:
            return min(self.sampled, self._rank)
        return self._rank

    def scaling(self) -> float:
        """Return what multiplies the product now; the scale, unless it depends on the rank."""
        return self.scale

    def prefix(self) -> tuple[Tensor, Tensor]:
        """Return the factors that a forward pass reads now, the core in the left one."""
        rank = self.running
        left, right, core = self.parts()
        if rank < self.allocated:
            left, right = left[..., :rank], right[..., :rank, :]
        if core is None:
            return left, right
        if core.dim() < left.dim():
            return left * core[..., None, :rank], right
        return left @ core[..., :rank, :rank], right

    def parts(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return left, right and core with all components, as a forward pass reads them."""
        return self.left, self.right, self.core

    def dense(self) -> Tensor:
        """Return scale · left right + extra."""
        if not self.is_matrix:
            raise no_matrix(self)
        left, right = self.prefix()
        scale = self.scaling()
        product = scale * (left @ right) if scale != 1.0 else left @ right
        return product if self.extra is None else product + self.extra.dense()

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply by one factor after the other."""
        left, right = self.prefix()
        hidden = self._inner(F.linear(x, right))
        if self.gate is not None:
            hidden = self.gate(x)[..., : self.running] * hidden
        y = F.linear(hidden, left, bias)
        return y if self.extra is None else y + self.extra.linear(x, None)

    def convolve(self, x: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        """Convolve with one factor after the other.

        Raises:
            ValueError: a gate, which reads single vectors and no patches.
        """
        if self.gate is not None:
            raise ValueError(
                "a gate on components reads the inputs of a linear layer; leave convolutions out "
                "with targets="
            )
        left, right = self.prefix()
        y = settings.unfolding.convolve(
            x, left, right, bias, between=self._inner, **settings.arguments()
        )
        return y if self.extra is None else y + self.extra.convolve(x, None, settings)

    def importance(self, kind: Literal["component", "suffix"] = "component") -> Tensor:
        """Return how much each active component, or each one with all after it, contributes.

        ‖left_j‖ ‖right_j‖, or ‖left_{j:}‖ ‖right_{j:}‖ in the Frobenius norm, which never grows
        with j, so that a threshold on it keeps a prefix. Batches of matrices are taken as one. A
        core is taken as part of the left factor.
        """
        left, right = (f.detach().double() for f in (self.left, self.right))
        if self.core is not None:
            core = self.core.detach().double()
            left = left * core[..., None, :] if core.dim() < left.dim() else left @ core
        column = left.square().flatten(0, -2).sum(0)[: self._rank]
        row = right.square().movedim(-2, 0).flatten(1).sum(1)[: self._rank]
        if kind == "suffix":
            column, row = (s.flip(0).cumsum(0).flip(0) for s in (column, row))
        return (column * row).sqrt()

    def singular_values(self) -> Tensor:
        """Return those of scale · left right over the active prefix, without forming it."""
        sampled, self.sampled = self.sampled, None
        left, right = self.prefix()
        scale, self.sampled = self.scaling(), sampled
        return abs(scale) * product_svd(left.detach(), right.detach())[1]

    def _inner(self, hidden: Tensor) -> Tensor:
        if self.between is not None:
            hidden = self.between(hidden)
        scale = self.scaling()
        return hidden if scale == 1.0 else scale * hidden

    def extra_repr(self) -> str:
        """Show the sizes."""
        rows, columns = self.shape[-2:]
        batch = f"{'x'.join(map(str, self.shape[:-2]))}, " if len(self.shape) > 2 else ""
        return f"{batch}{rows}x{columns}, rank={self._rank}, scale={self.scale:g}"


def stop_sampling(model: nn.Module) -> None:
    """Let every weight run at its whole rank in training mode too, for what comes after a run.

    Evaluation ignores the prefix of the last step anyway.
    """
    for module in model.modules():
        if isinstance(module, Factors):
            module.sampled = None
