"""Highway residual: a gate decides how far the stream moves to the branch output.

    t = sigmoid(W x / rms(x) + b)
    x <- (1 - t) ⊙ x + t ⊙ y

Carry and transform gates are coupled, so every channel stays between x and y. The negative bias
starts the gates nearly closed, where the stream is carried on.

Source: Srivastava, Greff & Schmidhuber 2015, "Highway Networks", arXiv:1505.00387, eq. 3.
Differs from it: the gate looks at the stream divided by its root mean square, since a pre-norm
stream has no scale of its own; it looks at the stream that is written, not at what the branch saw,
which at the first branch of a CNN's stage has another shape; W starts at zero; the branch stands
behind the backbone's norm.
"""

# Shape letters: B batch, D width, L branches, ... token or pixel axes.

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..decay import exclude_from_decay
from ..units import Label
from .mixing import project, rms_norm
from .stream import Context, Residual, Site, State, keep_branch, routing, working_dtype

__all__ = ["Highway"]


class Highway(Residual):
    """Move the stream towards the branch output by a learned gate. State: (x,).

    A branch dropped by stochastic depth leaves the stream as it is.

    Args:
        width: Stream width D.
        sites: The L sites in order.
        channel_dim: The axis of D.
        gate: A gate for each `channel`, with W (D, D), or one `scalar` for each token or pixel.
        bias: b of a fresh gate, finite.

    Raises:
        ValueError: an unknown gate or a bias that is not finite.
    """

    keeps_only_the_stream = True

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        gate: Literal["channel", "scalar"] = "channel",
        bias: float = -2.0,
    ) -> None:
        """Make one gate per site."""
        super().__init__(width, sites, channel_dim=channel_dim)
        if gate not in ("channel", "scalar"):
            raise ValueError(f"gate must be 'channel' or 'scalar', got {gate!r}")
        if not math.isfinite(bias):
            raise ValueError(f"bias must be finite, got {bias}")
        self.initial = bias
        rows = width if gate == "channel" else 1
        self.weight = nn.Parameter(torch.empty(len(self.sites), rows, width))
        self.bias = nn.Parameter(torch.empty(len(self.sites), rows))
        exclude_from_decay(self, "bias")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero the weights and set the biases, so that every gate starts at sigmoid(bias)."""
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, self.initial)

    @property
    def unit_axes(  # type: ignore[override]
        self,
    ) -> Mapping[str, tuple[Label, ...]]:
        """Gates are along the channels where each has one."""
        rows = "stream" if self.bias.shape[1] == self.width else None
        return {"weight": (None, rows, "stream"), "bias": (None, rows)}

    def read(self, state: State, site: int) -> Tensor:
        """Return the stream."""
        return state[0]

    def gate(self, x: Tensor, site: int) -> Tensor:
        """Return t of a stream, with D or 1 entries on the axis of D."""
        logit = project(rms_norm(x, self.channel_dim), self.weight[site], self.channel_dim)
        logit = logit.to(working_dtype(x))
        return (logit + self.along_channels(self.bias[site], x)).sigmoid().to(x.dtype)

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Move the stream towards the branch output."""
        (x,) = state
        return (x + keep_branch(routing(self.gate(x, site)) * (y - x), context.keep),)

    def close(self, state: State) -> Tensor:
        """Return the stream."""
        return state[0]

    def extra_repr(self) -> str:
        """Show the sizes and the start."""
        return f"gates={tuple(self.bias.shape)}, bias={self.initial:.4g}"
