"""Manifold-constrained hyper-connections: the streams mix by doubly stochastic matrices.

    z  = vec(H) / rms(vec(H))                                               (n D)
    p  = sigmoid(a_p z Φ_p + b_p),   q = 2 sigmoid(a_q z Φ_q + b_q)
    R  = Sinkhorn(exp(a_r z Φ_r + b_r))                     mHC, t alternate normalisations
    R  = Σ_k softmax(a_r z Φ_r + b_r)_k P_k                 mHC-lite, over all n! permutations P_k

A doubly stochastic R conserves the sum of the streams and has spectral norm 1, and so has any
product of such matrices. t = 20 normalisations only come close: the more peaked the logits, the
further off (`double_stochasticity_error` reports it). mHC-lite is exact for any weights.

Sources: Xie et al. 2025, "mHC: Manifold-Constrained Hyper-Connections", arXiv:2512.24880; Yang &
Gao 2026, "mHC-lite", arXiv:2601.05732, whose public start is taken for both: Φ = 0, b_p and b_q
are 1 on stream l mod n and −1 elsewhere, and R is close to the identity.
Differs from them: Sinkhorn runs on logarithms, so that no logit overflows.
"""

# Shape letters: D width, L branches, n streams, ... token or pixel axes.

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...decay import exclude_from_decay
from ...sizes import check_sizes
from ...units import Label
from ..mixing import key_statistic
from ..stream import Site
from .base import Mixing, Streams

__all__ = ["MHC", "MHCLite", "double_stochasticity_error", "sinkhorn_log"]

INITIAL_GATE = 0.01
EPS = 1e-6  # added to the mean square of all streams
FAR = -8.0  # the start's logit of whatever is not the identity


def sinkhorn_log(logits: Tensor, steps: int) -> Tensor:
    """Normalise rows and columns of exp(logits) in turn, on logarithms.

    Args:
        logits: (…, n, n), finite.
        steps: How often both are normalised; columns last, so that their sums are 1.

    Returns:
        A matrix (…, n, n) that is doubly stochastic in the limit of many steps.
    """
    for _ in range(steps):
        logits = logits - logits.logsumexp(-1, keepdim=True)
        logits = logits - logits.logsumexp(-2, keepdim=True)
    return logits.exp()


def double_stochasticity_error(matrix: Tensor) -> Tensor:
    """Return how far the worst row or column sum of matrices (…, n, n) is from 1."""
    rows, columns = matrix.sum(-1) - 1, matrix.sum(-2) - 1
    return torch.maximum(rows.abs().amax(-1), columns.abs().amax(-1))


class MHC(Streams):
    """Hyper-connections whose mixing is doubly stochastic up to a finite Sinkhorn iteration.

    Args:
        width: Stream width D.
        sites: The L sites in order.
        channel_dim: The axis of D.
        streams: n, at least 1.
        sinkhorn_steps: t, at least 1.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        streams: int = 4,
        sinkhorn_steps: int = 20,
    ) -> None:
        """Make Φ, the gates a and the offsets b of every site."""
        super().__init__(width, sites, channel_dim=channel_dim)
        check_sizes(1, streams=streams)
        check_sizes(1, sinkhorn_steps=sinkhorn_steps)
        self.streams = streams
        self.sinkhorn_steps = sinkhorn_steps
        self.mixers = self.count_mixers()
        length = len(self.sites)
        self.weight = nn.Parameter(torch.empty(length, 2 * streams + self.mixers, streams * width))
        self.offset = nn.Parameter(torch.empty(length, 2 * streams + self.mixers))
        self.gate = nn.Parameter(torch.empty(length, 3))
        exclude_from_decay(self, "weight", "offset", "gate")
        self.reset_parameters()

    @property
    def unit_axes(  # type: ignore[override]
        self,
    ) -> Mapping[str, tuple[Label, ...]]:
        """Φ reads the streams side by side; no stream takes the place of another."""
        return {
            "weight": (None, None, ("stream",) * self.streams),
            "offset": (None, None),
            "gate": (None, None),
        }

    def count_mixers(self) -> int:
        """Count the logits that make R."""
        return self.streams**2

    def reset_parameters(self) -> None:
        """Read and write mostly one stream in turn, and leave the streams almost apart."""
        n = self.streams
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.gate, INITIAL_GATE)
        with torch.no_grad():
            self.offset[:, : 2 * n] = -1.0
            self.offset[:, 2 * n :] = FAR
            self.offset[:, self.identity()] = 0.0
            for site in range(len(self.sites)):
                self.offset[site, [site % n, n + site % n]] = 1.0

    def identity(self) -> list[int]:
        """Name the offsets that stand for R = I."""
        n = self.streams
        return [2 * n + i * (n + 1) for i in range(n)]

    def mixing(self, streams: Tensor, site: int) -> Mixing:
        """Return p, q and R."""
        n, gate = self.streams, self.gate[site]
        flat = streams.flatten(-2)
        logits = F.linear(flat, self.weight[site].to(flat.dtype)).to(gate.dtype)
        logits = logits * key_statistic(flat, -1, EPS).to(gate.dtype)
        gates = torch.cat([gate[:1].expand(n), gate[1:2].expand(n), gate[2:].expand(self.mixers)])
        logits = torch.addcmul(self.offset[site], gates, logits)
        pre, post, res = logits.split([n, n, self.mixers], -1)
        return Mixing(pre.sigmoid(), 2.0 * post.sigmoid(), self.doubly_stochastic(res))

    def doubly_stochastic(self, logits: Tensor) -> Tensor:
        """Turn logits (…, n²) into R (…, n, n)."""
        return sinkhorn_log(logits.unflatten(-1, (self.streams, -1)), self.sinkhorn_steps)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"width={self.width}, sites={len(self.sites)}, streams={self.streams}"


class MHCLite(MHC):
    """Hyper-connections whose mixing is a convex combination of all permutations: exact.

    Args:
        width: Stream width D.
        sites: The L sites in order.
        channel_dim: The axis of D.
        streams: n from 1 to 6: there are n! permutations.

    Raises:
        ValueError: streams outside 1 to 6.
    """

    permutations: Tensor

    def __init__(
        self,
        width: int,
        sites: Sequence[Site],
        *,
        channel_dim: int = -1,
        streams: int = 4,
    ) -> None:
        """List the permutations."""
        if not 1 <= streams <= 6:
            raise ValueError(
                f"streams must lie in 1 to 6, got {streams} with {streams}! permutations; use mhc"
            )
        super().__init__(width, sites, channel_dim=channel_dim, streams=streams)
        matrices = [torch.eye(streams)[list(p)] for p in itertools.permutations(range(streams))]
        self.register_buffer("permutations", torch.stack(matrices), persistent=False)

    @property
    def unit_axes(self) -> Mapping[str, tuple[Label, ...]]:
        """As of all hyper-connections; permutations are of streams."""
        return {**super().unit_axes, "permutations": (None, None, None)}

    def count_mixers(self) -> int:
        """Count the permutations."""
        return math.factorial(self.streams)

    def identity(self) -> list[int]:
        """Name the identity, which comes first."""
        return [2 * self.streams]

    def doubly_stochastic(self, logits: Tensor) -> Tensor:
        """Turn logits (…, n!) into R (…, n, n)."""
        flat = self.permutations.to(logits.dtype).flatten(1)
        return (logits.softmax(-1) @ flat).unflatten(-1, (self.streams, -1))
