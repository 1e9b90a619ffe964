"""Hyper-connections: n streams with learned reads, writes and mixing at every branch.

    h  = A_mᵀ H,   H' = A_rᵀ H + Bᵀ y
    dynamic: every weight gains s · tanh(H̄ W), with H̄ the streams over their root mean squares

A_m starts as one-hot on stream (l mod n), A_r as the identity, B as ones and W as zero: then every
stream is the plain stream, and their sum is n times it, which a pre-norm network does not notice.

Source: Zhu et al. 2024, "Hyper-Connections", arXiv:2409.19606, eq. 1–5 and 10–13.
Differs from it: the norm of H̄ is the root mean square without a gain, where the paper's may be
either norm.
"""

# Shape letters: D width, L branches, n streams, ... token or pixel axes.

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...decay import exclude_from_decay
from ...sizes import check_sizes
from ..mixing import key_statistic
from ..stream import Site
from .base import Mixing, Streams

__all__ = ["HyperConnections"]

INITIAL_SCALE = 0.01  # of the dynamic part
EPS = 1e-6  # added to the mean square of a stream


class HyperConnections(Streams):
    """Static or dynamic hyper-connections over all branches of a network or stage.

    Args:
        width: Stream width D.
        sites: The L sites in order.
        channel_dim: The axis of D.
        streams: n, at least 1.
        dynamic: Whether the weights depend on the streams.

    Raises:
        ValueError: streams < 1.
    """

    equals_prenorm_at_init = True

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        streams: int = 4,
        dynamic: bool = True,
    ) -> None:
        """Make the static weights and, if asked, what moves them."""
        super().__init__(width, sites, channel_dim=channel_dim)
        check_sizes(1, streams=streams)
        self.streams = n = streams
        self.dynamic = dynamic
        length = len(self.sites)
        # Columns: A_m, then the n of A_r, then B; a row for each stream.
        self.static = nn.Parameter(torch.empty(length, n, n + 2))
        exclude_from_decay(self, "static")
        self.weight = self.scale = None
        if dynamic:
            self.weight = nn.Parameter(torch.empty(length, n + 2, width))
            self.scale = nn.Parameter(torch.empty(length, 2))  # of A and of B
            exclude_from_decay(self, "weight", "scale")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Return to the plain stream."""
        n = self.streams
        with torch.no_grad():
            self.static.zero_()
            self.static[:, :, 1 : n + 1] = torch.eye(n)
            self.static[:, :, -1] = 1.0
            for site in range(len(self.sites)):
                self.static[site, site % n, 0] = 1.0
        if self.weight is not None and self.scale is not None:
            nn.init.zeros_(self.weight)
            nn.init.constant_(self.scale, INITIAL_SCALE)

    def mixing(self, streams: Tensor, site: int) -> Mixing:
        """Return A_m, B and A_rᵀ."""
        weights = self.static[site]
        if self.weight is not None and self.scale is not None:
            scale = self.scale[site]
            scales = torch.cat([scale[:1].expand(self.streams + 1), scale[1:]])
            # The scale of a stream comes out of the product, which saves a copy of all streams.
            moved = F.linear(streams, self.weight[site].to(streams.dtype)).to(scales.dtype)
            moved = (moved * key_statistic(streams, -1, EPS).to(moved.dtype)).tanh()
            weights = torch.addcmul(weights, scales, moved)
        return Mixing(weights[..., 0], weights[..., -1], weights[..., 1:-1].transpose(-1, -2))

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"width={self.width}, sites={len(self.sites)}, streams={self.streams}"
