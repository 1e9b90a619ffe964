"""Depth attention: a branch reads by attention over the last few states of its own token.

x_l is the stream before branch l, c_j = x_j / rms(x_j), and the window is w:

    z_l = softmax(c_l W_Q [c_{l-w+1}, …, c_l]ᵀ W_Kᵀ / √d) [c_{l-w+1}, …, c_l] W_V     (per head)
    h_l = x_l + z_l W_O                                                    (`add`)
    h_l = z_l W_O                                                          (`replace`)

It is causal sliding-window attention with depth in place of time, and looks at no other token. The
stream stays the plain sum. With `add`, W_O = 0 at the start gives the plain read.

Source: Zhang 2026, "Residual Stream Duality in Modern Transformer Architectures", arXiv:2603.16039.
Differs from it: the paper leaves heads, norms, W_O, positions and the place of z open: here states
are divided by their root mean square, there are no positions, and z is added to what a branch
reads. States are counted by branches, not by blocks; the first branch reads the embedding itself.
"""

# Shape letters: B batch, D width, L branches, H heads, d = D / H, n states, ... token or pixel
# axes.

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .mixing import project, rms_norm, weighted_sum
from .stream import Context, Residual, Site, State, keep_branch, routing, working_dtype

__all__ = ["DepthSWA", "depth_attention"]


def depth_attention(
    states: Sequence[Tensor], qkv: Tensor, *, heads: int = 1, channel_dim: int = -1
) -> Tensor:
    """Let the last of n states attend to all of them, token by token.

    Args:
        states: n tensors (B, …, D), D on axis `channel_dim`.
        qkv: W_Q, W_K and W_V one below the other (3 D, D).
        heads: H, which divides D.
        channel_dim: The axis of D.

    Returns:
        z in the shape of a state, heads side by side.
    """
    normed = [rms_norm(x, channel_dim).movedim(channel_dim, -1) for x in states]
    width = len(qkv) // 3
    query = project(normed[-1], qkv[:width]).unflatten(-1, (heads, -1))
    pairs = [project(c, qkv[width:]).unflatten(-1, (2, heads, -1)).unbind(-3) for c in normed]
    dtype = working_dtype(query)
    query = query.to(dtype) * (width // heads) ** -0.5
    logits = torch.stack([(query * key).sum(-1, keepdim=True) for key, _ in pairs])
    mixed = weighted_sum(routing(logits.softmax(0)).unbind(0), [value for _, value in pairs])
    return mixed.flatten(-2).movedim(-1, channel_dim)


class DepthSWA(Residual):
    """Short sliding-window attention along the depth axis. State: the last w streams.

    Args:
        width: Stream width D.
        sites: The L sites in order.
        channel_dim: The axis of D.
        window: w, how many states a branch looks at, its own included, at least 1; None is all.
        heads: H, which divides D.
        mode: Whether a branch reads the stream and the attention (`add`) or the attention alone
            (`replace`), whose W_O then starts as normals.

    Raises:
        ValueError: window < 1, heads that do not divide the width, or an unknown mode.
    """

    # Inner channels, which a site has for itself, stay: an axis over sites comes before them.
    unit_axes = {"qkv": (None, None, "stream"), "out": (None, "stream", None)}

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        window: int | None = 4,
        heads: int = 1,
        mode: Literal["add", "replace"] = "add",
    ) -> None:
        """Make the projections of every site but the first."""
        super().__init__(width, sites, channel_dim=channel_dim)
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1 or None, got {window}")
        if heads < 1 or width % heads:
            raise ValueError(f"heads must be a divisor of width={width}, got {heads}")
        if mode not in ("add", "replace"):
            raise ValueError(f"mode must be 'add' or 'replace', got {mode!r}")
        self.window, self.heads, self.mode = window, heads, mode
        later = len(self.sites) - 1
        self.qkv = self.out = None
        if later:
            self.qkv = nn.Parameter(torch.empty(later, 3 * width, width))
            self.out = nn.Parameter(torch.empty(later, width, width))
        self.reset_parameters()

    @property
    def equals_prenorm_at_init(self) -> bool:  # type: ignore[override]
        """Whether the attention is added to the stream, where it starts at zero."""
        return self.mode == "add"

    def reset_parameters(self) -> None:
        """Normals of std 1 / √D; zeros for W_O where it is added."""
        if self.qkv is None or self.out is None:
            return
        nn.init.normal_(self.qkv, std=self.width**-0.5)
        nn.init.zeros_(self.out)
        if self.mode == "replace":
            nn.init.normal_(self.out, std=self.width**-0.5)

    def read(self, state: State, site: int) -> Tensor:
        """Return the stream and what its past states answer; the first site reads the embedding."""
        x = state[-1]
        if site == 0 or self.qkv is None or self.out is None:
            return x
        options = {"heads": self.heads, "channel_dim": self.channel_dim}
        z = depth_attention(state, self.qkv[site - 1], **options)
        z = project(z, self.out[site - 1], self.channel_dim)
        return x + z if self.mode == "add" else z

    def write(self, state: State, site: int, y: Tensor, context: Context) -> State:
        """Add the branch output, and forget the oldest state beyond the window."""
        states = (*state, state[-1] + keep_branch(y, context.keep))
        return states if self.window is None else states[-self.window :]

    def close(self, state: State) -> Tensor:
        """Return the stream."""
        return state[-1]

    def extra_repr(self) -> str:
        """Show the sizes."""
        return (
            f"width={self.width}, sites={len(self.sites)}, window={self.window}, "
            f"heads={self.heads}, mode={self.mode!r}"
        )
