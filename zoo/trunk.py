"""The pre-norm trunk: any branches over any residual. Every backbone runs through it."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.utils.checkpoint import checkpoint

from ..layers.residual import Context, Residual, State

__all__ = ["Trunk", "drop_path_rates"]


def drop_path_rates(last: float, length: int) -> list[float]:
    """Stochastic depth that grows linearly from 0 at the first branch to `last` at the last.

    Raises:
        ValueError: `last` outside [0, 1).
    """
    if not 0.0 <= last < 1.0:
        raise ValueError(f"drop_path_rate must lie in [0, 1), got {last}")
    return [last * i / max(1, length - 1) for i in range(length)]


class Trunk(nn.Module):
    """Branches that read from and write to one residual state, each behind its own norm.

    Args:
        residual: The mechanism, with one site per branch.
        branches: The branches in order; called with the normed read and the site's extras.
        norms: Their norms.
        drop_path: Probability, per branch, that a sample skips it in training.

    Shape:
        (B, …, D) -> (B, …, D), channels where the residual has them.

    Raises:
        ValueError: the lengths differ.
    """

    def __init__(
        self,
        residual: Residual,
        branches: Sequence[nn.Module],
        norms: Sequence[nn.Module],
        drop_path: Sequence[float],
    ) -> None:
        """Keep the parts."""
        super().__init__()
        lengths = {len(residual.sites), len(branches), len(norms), len(drop_path)}
        if len(lengths) != 1:
            raise ValueError(f"sites, branches, norms, drop_path differ in length: {lengths}")
        self.residual = residual
        self.branches = nn.ModuleList(branches)
        self.norms = nn.ModuleList(norms)
        self.drop_path = tuple(drop_path)
        self.grad_checkpointing = False

    def step(
        self, state: State, site: int, extras: tuple[Any, ...] = (), read: Tensor | None = None
    ) -> State:
        """Run one branch; `read` replaces what it would read from the state."""
        h = self.residual.read(state, site) if read is None else read
        normed = self.norms[site](h)
        y = self.branches[site](normed, *extras)
        return self.residual.write(state, site, y, Context(h, normed, self._keep(y, site)))

    def run(
        self,
        state: State,
        start: int = 0,
        extras: Sequence[tuple[Any, ...]] | None = None,
    ) -> State:
        """Run the branches from `start` on, with one tuple of extra arguments for each site."""
        for site in range(start, len(self.branches)):
            more = () if extras is None else extras[site]
            if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                state = self._checkpointed_step(state, site, more)
            else:
                state = self.step(state, site, more)
        return state

    def _checkpointed_step(self, state: State, site: int, extras: tuple[Any, ...]) -> State:
        parts = (self.norms[site], self.branches[site])
        found = [m for part in parts for m in part.modules() if isinstance(m, BatchNorm)]
        options: dict[str, Any] = {}
        # A compiled graph recomputes values only; there the running statistics move once anyway.
        if found and not torch.compiler.is_compiling():
            options["context_fn"] = lambda: (contextlib.nullcontext(), _statistics_at_rest(found))
        return checkpoint(self.step, state, site, extras, use_reentrant=False, **options)

    def forward(self, x: Tensor, extras: Sequence[tuple[Any, ...]] | None = None) -> Tensor:
        """Open, run every branch, close."""
        return self.residual.close(self.run(self.residual.open(x), extras=extras))

    def _keep(self, y: Tensor, site: int) -> Tensor | None:
        rate = self.drop_path[site]
        if rate == 0.0 or not self.training:
            return None
        shape = (y.shape[0], *[1] * (y.dim() - 1))
        return y.new_empty(shape).bernoulli_(1.0 - rate) / (1.0 - rate)


@contextlib.contextmanager
def _statistics_at_rest(norms: Sequence[BatchNorm]) -> Iterator[None]:
    """Normalise by the batch as in training, but move no running statistics."""
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count
