"""The state of Attention Residuals, and what the fast path asks of whoever reads it."""

# Shape letters: B batch, D width, L branches, n sources, ... token or pixel axes.

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..stream import Site
from .mix import Competition

__all__ = ["Reader", "Sources"]


class Sources(NamedTuple):
    """The state: what may be read, and for which samples.

    `values` holds n tensors of one shape; `alive` holds, for each, None or a mask (B, 1, …) that
    is False where stochastic depth dropped everything in it. `stream` is the plain sum, kept for
    additive reads only. `cache` is what the fast path knows of reads to come, or None.
    """

    values: tuple[Tensor, ...]
    alive: tuple[Tensor | None, ...]
    stream: Tensor | None = None
    cache: Any = None


class Reader(Protocol):
    """What `_fast/` may read of the module whose queries mix the sources."""

    heads: int
    competition: Competition
    window: int | None
    additive: bool
    eps: float
    block_size: int
    channel_dim: int
    row: list[int]

    @property
    def sites(self) -> Sequence[Site]:
        """The L sites in order."""
        ...

    @property
    def query(self) -> Tensor:
        """The queries w, a row for each site and the readout, or for what shares one."""
        ...

    @property
    def gain(self) -> Tensor | None:
        """The key gains γ, in the same rows."""
        ...

    @property
    def query_weight(self) -> Tensor | None:
        """The weights of queries that depend on the input, in the same rows."""
        ...

    def readable(self, sources: Sources, site: int) -> int:
        """Count the sources that a site may read."""
        ...

    def query_at(self, site: int, newest: Tensor) -> Tensor:
        """The query γ ⊙ w of a site, shaped to broadcast over a source."""
        ...
