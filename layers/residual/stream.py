"""The residual contract: how a branch's output joins the stream, apart from what the branch is.

A backbone opens a state, lets every branch read from it and write to it, and closes it:

    state = residual.open(x)
    for site, branch in enumerate(branches):
        h = residual.read(state, site)
        y = branch(norm(h))
        state = residual.write(state, site, y, Context(h, norm(h), keep))
    out = residual.close(state)

The norm and the branch belong to the backbone; the residual never calls them. One module per
network, or per stage of a CNN, owns the parameters of all its sites. A state is an immutable
tuple of tensors: verbs return a new one, so recomputation under activation checkpointing, tracing
and decoding see the same history.
"""

# Shape letters: B batch, D width (axis `channel_dim`), ... token or pixel axes.

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Context", "Residual", "Site", "State"]

State = tuple[Any, ...]


class Site(NamedTuple):
    """One place where a branch joins the stream; all static.

    `kind` names the branch (`attention`, `mlp`, `conv`, …), `block` counts the backbone's blocks.
    """

    kind: str
    block: int


class Context(NamedTuple):
    """What a write may look at besides the branch output.

    `read` is what the branch saw before its norm, `normed` after it. `keep` is the drop-path mask
    (B, 1, …, 1) with entries 0 or 1 / keep probability, or None where nothing is dropped.
    """

    read: Tensor
    normed: Tensor
    keep: Tensor | None = None


class Residual(nn.Module):
    """The five verbs of a residual mechanism.

    Args:
        width: Stream width D, at least 1.
        sites: The sites in order, at least one; verbs name a site by its index.
        channel_dim: The axis of D: -1 for tokens, 1 for images (B, D, H, W).

    Shape:
        `open` takes x (B, …, D); `read` and `close` return that shape; `write` takes it.

    Raises:
        ValueError: width < 1, no sites, or a channel_dim other than -1 or 1.
    """

    equals_prenorm_at_init: bool = False
    """Whether a fresh network gives the logits of `add` with the same weights, up to rounding and
    the norm's epsilon. Tested for every mechanism that says so, and refuted for the others."""

    def __init__(self, width: int, sites: Sequence[Site], *, channel_dim: int = -1) -> None:
        """Keep the sizes; subclasses add parameters."""
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        if not sites:
            raise ValueError("sites must name at least one branch, got none")
        if channel_dim not in (-1, 1):
            raise ValueError(f"channel_dim must be -1 (tokens) or 1 (images), got {channel_dim}")
        self.width = width
        self.sites = tuple(sites)
        self.channel_dim = channel_dim

    @property
    def num_blocks(self) -> int:
        """How many backbone blocks the sites belong to."""
        return len({site.block for site in self.sites})

    def open(self, x: Tensor) -> State:
        """Make the state from the embedding or stem output."""
        return (x,)

    def read(self, state: State, site: int) -> Tensor:
        """Return what the branch at a site sees."""
        raise NotImplementedError

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Return the state after the branch output y joined it."""
        raise NotImplementedError

    def close(self, state: State) -> Tensor:
        """Return the features, before the backbone's final norm."""
        raise NotImplementedError

    def handoff(self, state: State, fn: Callable[[Tensor], Tensor]) -> State:
        """Map the state across a stage change; the next stage's residual reads the result.

        `fn` changes resolution or width and must be linear for a fresh network to equal `add`.
        """
        return self.open(fn(self.close(state)))

    def along_channels(self, vector: Tensor, like: Tensor) -> Tensor:
        """Shape a vector (D,) so that it broadcasts over `like`."""
        return vector if self.channel_dim == -1 else vector.view(-1, *[1] * (like.dim() - 2))


def keep_branch(y: Tensor, keep: Tensor | None) -> Tensor:
    """Apply a drop-path mask to a branch output; None keeps it as it is."""
    return y if keep is None else y * keep


def working_dtype(x: Tensor) -> torch.dtype:
    """The dtype for statistics: float32 for half precision, otherwise the tensor's own."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
