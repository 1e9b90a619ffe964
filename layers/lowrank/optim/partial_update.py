"""An update of some components only: what an optimiser did to the others is taken back.

A gradient of zero does not keep a component where it is. Weight decay shrinks it, momentum moves it
on, and its moments fade as if it had been trained. Here the values of the others, and all that the
optimiser keeps of them entry by entry, are put back after the update.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["PartialUpdate"]


class PartialUpdate:
    """Parameters and the state of their optimiser before an update.

    Args:
        optimizer: What will update them.
        parts: Parameters, each with the dimension along which components lie.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, parts: Sequence[tuple[nn.Parameter, int]]
    ) -> None:
        """Copy what may have to be put back."""
        self.optimizer = optimizer
        self.before = [
            (p, dim, p.detach().clone(), {k: v.clone() for k, v in self._entries(p, dim)})
            for p, dim in parts
        ]

    @torch.no_grad()
    def keep(self, trained: Sequence[Tensor]) -> None:
        """Keep the update of some components of each parameter.

        Args:
            trained: For each parameter whether a component is (components,), bool.
        """
        for (parameter, dim, value, state), kept in zip(self.before, trained, strict=True):
            others = (~kept).nonzero().flatten().to(value.device)
            parameter.index_copy_(dim, others, value.index_select(dim, others))
            for key, now in self._entries(parameter, dim):
                old = state.get(key, torch.zeros_like(now))
                now.index_copy_(dim, others, old.index_select(dim, others))

    def _entries(self, parameter: nn.Parameter, dim: int) -> list[tuple[str, Tensor]]:
        """Return the tensors of a parameter's state that have an entry for every component."""
        found = []
        for key, value in self.optimizer.state.get(parameter, {}).items():
            tensor = isinstance(value, Tensor) and value.dim() == parameter.dim()
            if tensor and value.shape[dim] == parameter.shape[dim]:
                found.append((key, value))
        return found
