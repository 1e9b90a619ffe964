"""Several adapters beside one frozen weight, any of which are on.

    W_eff = W + Σ_k (W_k - W)        over those that are on, W_k what adapter k makes of W

The weight is kept once and never written, so switching everything off gives its bits back.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .structure import ConvSettings, FrozenDense, WeightStructure

__all__ = ["AdapterStack"]


class AdapterStack(WeightStructure):
    """A frozen weight and the structures of adapters beside it, by name.

    Args:
        weight: W (..., rows, columns).

    Attributes:
        active: Names of the adapters that are on, in the order in which they are added.
        folded: W_eff where it was computed once and is used as it is, else None.
    """

    folded: Tensor | None

    def __init__(self, weight: Tensor) -> None:
        """Begin without adapters."""
        super().__init__()
        self.shape = tuple(weight.shape)
        self.base = FrozenDense(weight)
        self.members = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        self.register_buffer("folded", None, persistent=False)

    @property
    def extra(self) -> FrozenDense:
        """The frozen weight, under the name that adapters have for it."""
        return self.base

    def add(self, name: str, structure: WeightStructure) -> None:
        """Take an adapter in, off at first; its copy of the weight is dropped for this one."""
        structure.extra = self.base  # type: ignore[assignment]
        self.members[name] = structure.requires_grad_(False)

    def use(self, names: Sequence[str]) -> None:
        """Switch on those of some adapters that this weight has, and all others off."""
        self.active = tuple(name for name in names if name in self.members)
        self.is_matrix = all(self._member(name).is_matrix for name in self.active)
        self.folded = None

    @torch.no_grad()
    def fold(self, on: bool) -> None:
        """Compute W_eff once, or go back to computing with its parts."""
        self.folded = None
        if on and self.active:
            self.folded = self.dense().clone()

    def dense(self) -> Tensor:
        """Return W_eff."""
        if self.folded is not None:
            return self.folded
        base, whole = self.base.dense(), [self._member(name).dense() for name in self.active]
        if len(whole) < 2:
            return whole[0] if whole else base
        return base + torch.stack([each - base for each in whole]).sum(0)

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply by the weight and by what each adapter adds."""
        if self.folded is not None:
            return F.linear(x, self.folded, bias)
        if not self.active:
            return self.base.linear(x, bias)
        y = self._member(self.active[0]).linear(x, bias)
        if len(self.active) > 1:
            plain = self.base.linear(x, None)
            for name in self.active[1:]:
                y = y + (self._member(name).linear(x, None) - plain)
        return y

    def convolve(self, x: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        """Convolve as the one adapter does that is on, else with the whole kernel."""
        if self.folded is None and len(self.active) == 1:
            return self._member(self.active[0]).convolve(x, bias, settings)
        return super().convolve(x, bias, settings)

    def _member(self, name: str) -> WeightStructure:
        member = self.members[name]
        assert isinstance(member, WeightStructure)
        return member

    def extra_repr(self) -> str:
        """Show what is on."""
        return f"{'x'.join(map(str, self.shape))}, on: {', '.join(self.active) or 'nothing'}"
