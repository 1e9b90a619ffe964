"""Multipliers for a block that has none, and the Lipschitz constant that they prove.

With t = L², S the matrix that makes w − z from the signals (rows s_i), and T = [A, B_1 … B_n],

    P(x) = t E_0 E_0ᵀ + Σ_i λ_i (e_i s_iᵀ + s_i e_iᵀ) − Tᵀ T = Σ_j x_j F_j − Tᵀ T,   x = [λ, t],

is linear in λ and t, so the least t with P ≥ 0 is a semidefinite program. Its dual asks for Z ≥ 0
with tr F_j Z = 1 for t and 0 for every λ_i. A primal-dual interior-point method solves both: a step
comes from P Z = μ I, made linear as P⁻¹ (P + ΔP) Z + ΔZ = μ P⁻¹, once for μ = 0 and once corrected
by what that one leaves. With Q = P⁻¹ Sᵀ and R = Z Sᵀ its equations have the matrix

    tr F_i P⁻¹ F_j Z = [P⁻¹ ∘ S R + Z ∘ S Q + Q ∘ Rᵀ + R ∘ Qᵀ]_ij   on the hidden signals,

so that a step takes a few products of the order of P. The search ends once the duality gap is
small: 6 to 15 steps. It starts from a block elimination, last layer first, that doubles the least
λ_k which keeps its pivot ≥ 0.

All this is an estimate in floating point; what comes back is verified.

Sources: Fazlyab et al. 2019, arXiv:1906.04893 (the inequality); Xu and Sivaranjani 2024,
"ECLipsE", arXiv:2404.04375 (the elimination); Helmberg et al. 1996, "An interior-point method for
semidefinite programming", SIAM J. Optim. 6 (the direction); Mehrotra 1992, SIAM J. Optim. 2 (the
correction).
Differs from them: residual and dense blocks; the F_j have rank two, which the equations use; no
solver's optimum is taken for a proof.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .constant import verified_lipschitz, wide_block
from .inequality import LMIBlock

__all__ = ["lmi_lipschitz"]

GAP = 2e-3  # between L² and the least that is possible, as a share of L²
STEPS = 60
TRIAL, FINAL = 0.5, 0.8  # what shortens a step that leaves the cone: the first, the corrected one
INSIDE = 0.9  # of the longest step found
SHORTEST = 1e-6  # below it the numbers have no more to give
LARGEST = 600.0  # logarithm of what squares of products of norms may come to in float64


def lmi_lipschitz(
    skip: Tensor,
    inner: Sequence[Tensor],
    taps: Sequence[Tensor | None],
    *,
    gap: float = GAP,
    below: float = math.inf,
    roundings: int = 0,
) -> float:
    """Return a proved Lipschitz constant of a block without multipliers, or infinity.

    Args:
        skip: A (d_y, d_0); zeros for a feed-forward chain.
        inner: C_1 … C_n, as in `LMIBlock`.
        taps: B_1 … B_n, None where a layer does not reach the output.
        gap: The search ends at an L² within this share of the least possible one.
        below: It also ends where nothing below this L is possible.
        roundings: How many roundings of float64 the weights have gone through already.
    """
    block = LMIBlock(skip, tuple(inner), tuple(taps), tuple(c[:, 0] for c in inner))
    block = wide_block(block)
    sizes = (float(w.norm()) for w in (block.skip, *block.inner, *taps) if w is not None)
    if not sum(2 * math.log(max(size, 1.0)) for size in sizes) < LARGEST:
        return math.inf
    found = _Program(block).minimise(gap, below)
    block = block._replace(multipliers=found.split(block.widths[1:]))
    # The search stays inside P > 0, so there is room for the proof as a rule.
    proved = verified_lipschitz(block, roundings=roundings, inflations=(0.0,))
    return proved if proved < math.inf else verified_lipschitz(block, roundings=roundings)


class _Program:
    """The semidefinite program of a block in float64."""

    def __init__(self, block: LMIBlock) -> None:
        self.widths, self.d, like = block.widths, block.widths[0], block.skip
        self.starts = [sum(self.widths[:k]) for k in range(len(self.widths) + 1)]
        self.s = like.new_zeros(self.starts[-1] - self.d, self.starts[-1])
        out = [like]
        for k, (c, tap) in enumerate(zip(block.inner, block.taps, strict=True), start=1):
            rows = slice(self.starts[k] - self.d, self.starts[k + 1] - self.d)
            self.s[rows, self.starts[k] - c.shape[1] : self.starts[k]] = -c
            out.append(like.new_zeros(len(like), len(c)) if tap is None else tap)
        self.s.diagonal(self.d).fill_(1.0)
        self.across = self.s.mT.contiguous()
        whole = torch.cat(out, dim=1)
        self.gram = whole.mT @ whole

    def combine(self, x: Tensor) -> Tensor:
        """Return Σ_j x_j F_j."""
        weighted = x[:-1].unsqueeze(1) * self.s
        p = torch.zeros_like(self.gram)
        p[self.d :] = weighted
        p[:, self.d :] += weighted.mT
        p.diagonal()[: self.d].add_(x[-1])
        return p

    def traces(self, z: Tensor, across: Tensor) -> Tensor:
        """Return tr F_j Z from Z and Z Sᵀ."""
        return torch.cat([2 * across.diagonal(-self.d), z.diagonal()[: self.d].sum().view(1)])

    def equations(self, a: Tensor, z: Tensor, a_across: Tensor, z_across: Tensor) -> Tensor:
        """Return tr F_i A F_j Z, made symmetric, from A, Z, A Sᵀ and Z Sᵀ."""
        d = self.d
        h = z.new_empty(len(self.s) + 1, len(self.s) + 1)
        hidden, last = h[:-1, :-1], h[-1, :-1]
        torch.mul(a_across[d:], z_across[d:].mT, out=hidden)
        hidden += hidden.mT.clone()
        hidden.addcmul_(a[d:, d:], self.s @ z_across).addcmul_(z[d:, d:], self.s @ a_across)
        torch.sum(a[:d, d:] * z_across[:d] + z[:d, d:] * a_across[:d], 0, out=last)
        h[:-1, -1] = last
        h[-1, -1] = (a[:d, :d] * z[:d, :d]).sum()
        return h

    def eliminate(self) -> tuple[Tensor, float]:
        """Return multipliers, one number for each layer, with P_hh > 0, and the least t of them."""
        rest, found = self.gram, []
        for k in range(len(self.widths) - 1, 0, -1):
            cut, end = self.starts[k], self.starts[k + 1]
            own = rest[cut:end, cut:end]
            multiplier = float(torch.linalg.eigvalsh(own)[-1])
            # A layer that nothing reads may have any.
            multiplier = multiplier if multiplier > 0.0 else 1.0
            found.append(own.new_full((end - cut,), multiplier))
            pivot = -own
            pivot.diagonal().add_(2 * multiplier)
            rows = self.s[cut - self.d : end - self.d, :cut]
            side = multiplier * rows - rest[cut:end, :cut]
            rest = rest[:cut, :cut] + side.mT @ torch.linalg.solve(pivot, side)
        return torch.cat(found[::-1]), float(torch.linalg.eigvalsh(rest)[-1])

    def minimise(self, gap: float, below: float) -> Tensor:
        """Return the multipliers of the least t found."""
        multipliers, t = self.eliminate()
        x = torch.cat([multipliers, multipliers.new_tensor([1.1 * t])])
        p = self.combine(x) - self.gram
        factor, goal = cholesky(p), torch.zeros_like(x)
        goal[-1] = 1.0
        z = None
        for _ in range(STEPS):
            if factor is None:  # at the end of float64
                break
            a = torch.cholesky_inverse(factor)
            if z is None:
                z = a / a.diagonal()[: self.d].sum()
            a_across, z_across = a @ self.across, z @ self.across
            product, t = float((p * z).sum()), float(x[-1])
            off = float(((goal - self.traces(z, z_across)) * x).abs().sum())
            if product + off <= gap * t or t - product - off >= below**2:
                break
            root = cholesky(self.equations(a, z, a_across, z_across))
            if root is None:
                break
            # With μ = 0 first: how far that leads says how small μ may be.
            dp = self.combine(solve(root, -goal))
            through = a @ dp
            dz = -z - symmetric(through @ z)
            trial = p + longest(p, dp, TRIAL) * dp, z + longest(z, dz, TRIAL) * dz
            mean = product / len(p)
            mean *= min(1.0, max(0.0, float((trial[0] * trial[1]).sum()) / product) ** 3)
            left = symmetric(through @ dz)
            pull = mean * self.traces(a, a_across) - self.traces(left, left @ self.across) - goal
            dx = solve(root, pull)
            dp = self.combine(dx)
            dz = mean * a - z - symmetric(a @ dp @ z) - left
            far, dual = longest(p, dp, FINAL), longest(z, dz, FINAL)
            if far == 0.0:
                break
            x, z = x + far * dx, z + dual * dz
            p = self.combine(x) - self.gram
            factor = cholesky(p)
        return x[:-1]


def cholesky(p: Tensor) -> Tensor | None:
    """Return the Cholesky factor, or None where there is none."""
    factor, info = torch.linalg.cholesky_ex(p)
    return None if int(info) else factor


def solve(root: Tensor, side: Tensor) -> Tensor:
    """Solve equations whose matrix has a Cholesky factor."""
    return torch.cholesky_solve(side.unsqueeze(1), root).squeeze(1)


def symmetric(m: Tensor) -> Tensor:
    """Return (M + Mᵀ)/2."""
    return (m + m.mT) / 2


def longest(p: Tensor, step: Tensor, shorten: float) -> float:
    """Return a size up to 1 that keeps P + size · step > 0, and off the boundary; 0 for none."""
    size = 1.0
    while cholesky(p + size * step) is None:
        size *= shorten
        if size < SHORTEST:
            return 0.0
    return size if size == 1.0 else INSIDE * size
