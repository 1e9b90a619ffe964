"""The components of a product of two factors: a prefix of them is active, and their number changes.

left is (..., rows, R), right (..., R, columns). Component j is the column left_j with the row
right_j; a prefix r keeps the first r components, and equals a layer that was cut to them. A core C
between the factors is a vector (R) or a matrix (R, R). Parameters stay the same objects as their
sizes change, and so does the state of an optimiser for the components that stay.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...decay import exclude_from_decay
from .resize_parameter import permute_parameter, resize_parameter
from .structure import WeightStructure, own_copy

__all__ = ["PARTS", "Components"]

PARTS = ("left", "right", "core")
"""What a product may be made of; a core only where one is given."""


class Components(WeightStructure):
    """The factors of a product, with an active prefix of their components.

    Args:
        left: (..., rows, R).
        right: (..., R, columns).
        core: C (..., R) or (..., R, R), free of weight decay as a vector, or None for C = I.
        trained: Which of `left`, `right` and `core` are trained; the others have no gradient, no
            weight decay and no state of an optimiser.

    Attributes:
        rank: Active prefix r, at most R; kept in the state dict.
        capacity: Largest R so far. A state dict may have fewer components, since a run may have
            removed some, but not more.
        refitted: Whether a state dict changed R since the last step.

    Raises:
        ValueError: shapes that do not fit.
    """

    left: nn.Parameter
    right: nn.Parameter
    core: nn.Parameter | None
    active: Tensor

    def __init__(
        self, left: Tensor, right: Tensor, core: Tensor | None, trained: Sequence[str]
    ) -> None:
        """Keep copies of the factors."""
        super().__init__()
        if left.shape[:-2] != right.shape[:-2] or left.shape[-1] != right.shape[-2]:
            raise ValueError(
                f"left {tuple(left.shape)} and right {tuple(right.shape)} have no product"
            )
        self.shape = (*left.shape[:-1], right.shape[-1])
        components = (*left.shape[:-2], left.shape[-1])
        if core is not None and core.shape not in (components, (*components, components[-1])):
            raise ValueError(
                f"core is {tuple(core.shape)}; a vector of the components is {components}, a "
                f"matrix {(*components, components[-1])}"
            )
        if unknown := set(trained) - set(PARTS):
            raise ValueError(f"trained must name some of {PARTS}, got {min(unknown)!r}")
        self.left = nn.Parameter(own_copy(left))  # the SVD gives columns first in memory
        self.right = nn.Parameter(own_copy(right))
        self.core = None if core is None else nn.Parameter(own_copy(core))
        self.fixed = (*type(self).fixed, *(part for part in PARTS if part not in trained))
        if core is None:
            self.fixed = tuple(name for name in self.fixed if name != "core")
        elif core.dim() == left.dim() - 1:
            exclude_from_decay(self, "core")
        for name in self.fixed:  # a parameter and no buffer, as in `FrozenDense`
            if name in self._parameters:
                self.get_parameter(name).requires_grad_(False)
        self.register_buffer("active", torch.tensor(left.shape[-1], device=left.device))
        self._rank = self.capacity = left.shape[-1]
        self.refitted = False

    @property
    def allocated(self) -> int:
        """Number of components R that are stored."""
        return self.left.shape[-1]

    @property
    def rank(self) -> int:
        """Number of active components, a prefix."""
        return self._rank

    @rank.setter
    def rank(self, rank: int) -> None:
        if not 0 <= rank <= self.allocated:
            raise ValueError(f"rank must lie in [0, {self.allocated}], got {rank}")
        self._rank = rank
        self.active.fill_(rank)

    @torch.no_grad()
    def truncate(self, rank: int, optimizers: Sequence[torch.optim.Optimizer] = ()) -> None:
        """Remove all components after a prefix for good, with their optimiser state.

        The parameters stay the same objects. `DistributedDataParallel` must be built anew after it.

        Raises:
            ValueError: a rank outside [0, rank].
        """
        if not 0 <= rank <= self._rank:
            raise ValueError(f"rank must lie in [0, {self._rank}], got {rank}")
        if self.core is not None and self.core.dim() == self.left.dim():
            # Components after the prefix reach into it through the core.
            self.left.copy_(self.left @ self.core)
            self.core.copy_(torch.eye(self.allocated).to(self.core).expand_as(self.core))
        self._resize(rank, optimizers)
        self.rank = rank

    @torch.no_grad()
    def select(self, components: Tensor, optimizers: Sequence[torch.optim.Optimizer] = ()) -> None:
        """Keep some active components for good, in a given order, with their optimiser state.

        Args:
            components: Places (r',), all different.
            optimizers: As in `truncate`.

        Raises:
            ValueError: places that repeat, or outside [0, rank).
        """
        chosen = components.to(device="cpu", dtype=torch.int64)
        known = chosen.unique()
        if len(known) < len(chosen) or (len(known) and not 0 <= known[0] <= known[-1] < self._rank):
            raise ValueError(
                f"components must be different places in [0, {self._rank}), got {chosen.tolist()}"
            )
        rest = torch.ones(self.allocated, dtype=torch.bool, device="cpu")
        rest[chosen] = False
        order = torch.cat([chosen, rest.nonzero().flatten()])
        if not torch.equal(order, torch.arange(self.allocated, device="cpu")):
            permute_parameter(self.left, -1, order, optimizers)
            permute_parameter(self.right, -2, order, optimizers)
            for dim in self._core_dims():
                assert self.core is not None
                permute_parameter(self.core, dim, order, optimizers)
        self.truncate(len(chosen), optimizers)

    @torch.no_grad()
    def grow(
        self,
        left: Tensor,
        right: Tensor,
        optimizers: Sequence[torch.optim.Optimizer] = (),
        *,
        core: Tensor | None = None,
    ) -> None:
        """Append components; with a zero left (or right) part the map stays as it is.

        Args:
            left: (..., rows, k).
            right: (..., k, columns).
            optimizers: Their state for the new components starts at zero.
            core: (..., k), where the core is a vector; a matrix has ones for them.

        Raises:
            ValueError: shapes that do not fit, or an inactive suffix that growth would revive.
        """
        fits = left.shape[:-1] == self.left.shape[:-1] and right.shape[-1] == self.right.shape[-1]
        if not fits or left.shape[-1] != right.shape[-2]:
            raise ValueError(
                f"components {tuple(left.shape)} x {tuple(right.shape)} do not fit factors of "
                f"{tuple(self.left.shape)} x {tuple(self.right.shape)}"
            )
        if self._rank != self.allocated:
            raise ValueError(f"truncate({self._rank}) before growing: a suffix is inactive")
        old, rank = self.allocated, self.allocated + left.shape[-1]
        self._resize(rank, optimizers)
        self.capacity = max(rank, self.capacity)
        self.left[..., old:] = left
        self.right[..., old:, :] = right
        if self.core is not None and core is not None:
            self.core[..., old:] = core
        elif self.core is not None and self.core.dim() == self.left.dim():
            self.core.diagonal(dim1=-2, dim2=-1)[..., old:] = 1
        self.rank = rank

    def _resize(self, rank: int, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        resize_parameter(self.left, -1, rank, optimizers)
        resize_parameter(self.right, -2, rank, optimizers)
        for dim in self._core_dims():
            assert self.core is not None
            resize_parameter(self.core, dim, rank, optimizers)

    def _core_dims(self) -> tuple[int, ...]:
        """Dimensions of the core along which components lie."""
        if self.core is None:
            return ()
        return (-1,) if self.core.dim() < self.left.dim() else (-1, -2)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take the number of components from what is loaded: a run may have removed some."""
        errors: list[str] = args[-1]
        loaded = state_dict.get(f"{prefix}left")
        if loaded is not None and loaded.dim() == self.left.dim():
            count = loaded.shape[-1]
            if count > self.capacity:
                errors.append(
                    f"{prefix}left: {count} components were saved, and this weight was made with "
                    f"rank={self.capacity}; make it with rank={count}"
                )
                return
            self.refitted |= count != self.allocated
            with torch.no_grad():
                self._resize(count, ())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._rank = int(self.active)
        if not 0 <= self._rank <= self.allocated:
            errors.append(f"{prefix}active: {self._rank} of {self.allocated} components")
            self.rank = self.allocated
