"""Expansion of an additive stack by the number of branches on a path. For analysis only.

    N_S(x) = the stack (id + F_L) ∘ … ∘ (id + F_1) with the branches of S only, the others left out
    T_S = Σ_{R ⊆ S} (-1)^(|S| - |R|) N_R(x)
    E_k = Σ_{|S| = k} T_S,            Σ_{k=0}^{L} E_k = N_{1, …, L}(x)

The sum holds for any branches, ReLU and attention included: it is Möbius inversion. E_0 = x, and
E_1 = Σ_i F_i(x) is what `Parallel` with one group adds. There are C(L, k) paths of k branches.
Orders in powers of a common factor of the branches are in `taylor`; the two agree for linear
branches, for others to leading order only.

A scale of the branches is a part of them here. L counts residual adds.

Source: Dherin & Munn 2025, "On residual network depth", arXiv:2510.03470, a submission that was
withdrawn after low scores: a lens, not an established rule of scaling. Its theorem is a Taylor
statement; its scale 1/L is the safe one for aligned branches, while for independent random ones
1/√L keeps all orders in play and 1/L makes a fresh network the identity (Marion et al. 2025; Zhang
et al. 2019, arXiv:1903.07120).
Differs from it: the orders count branches, by Möbius inversion, so nothing is truncated and nothing
need be smooth. At order k, x cancels exactly: sums run over branch outputs and not over N_S.
"""

# Shape letters: L branches, K the last order, ... the shape of x.

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Branch", "Expansion", "last_order", "mobius_orders", "mobius_term", "tower"]

Branch = Callable[[Tensor], Tensor]

MAX_CALLS = 100_000  # of branches; about ten seconds at a tenth of a millisecond each


@dataclass(frozen=True)
class Expansion:
    """The orders of a stack at one input. Norms run over the whole batch.

    Attributes:
        terms: E_0, …, E_K, shape (K + 1, …).
        output: What the stack returns, shape (…).
        standard_errors: L2 norm of the standard error of each term, (K + 1,); 0 where exact.
    """

    terms: Tensor
    output: Tensor
    standard_errors: Tensor

    @property
    def partial_sums(self) -> Tensor:
        """E_0 + … + E_k for every k, shape (K + 1, …)."""
        return self.terms.cumsum(0)

    @property
    def norms(self) -> Tensor:
        """‖E_k‖ for every k, shape (K + 1,)."""
        return self.terms.flatten(1).norm(dim=1)

    @property
    def ratios(self) -> Tensor:
        """‖E_k‖ / ‖E_1‖ for every k, shape (K + 1,); needs K ≥ 1."""
        return self.norms / self.norms[1]

    @property
    def cosines(self) -> Tensor:
        """Cosine of E_k with the output for every k, shape (K + 1,); 0 where E_k = 0."""
        inner = self.terms.flatten(1) @ self.output.flatten()
        size = self.norms * self.output.norm()
        return torch.where(size > 0, inner / size, 0.0)

    @property
    def errors(self) -> Tensor:
        """‖E_0 + … + E_k - output‖ / ‖output‖ for every k, shape (K + 1,)."""
        return (self.partial_sums - self.output).flatten(1).norm(dim=1) / self.output.norm()


def last_order(branches: Sequence[Branch], orders: int | None) -> int:
    """Check the number of orders against the number of branches; None is all.

    Raises:
        ValueError: no branches, or orders out of range.
    """
    depth = len(branches)
    if not depth:
        raise ValueError("branches must hold at least one, got none")
    if orders is not None and not 0 <= orders <= depth:
        raise ValueError(f"orders must lie in 0, …, {depth} (the number of branches), got {orders}")
    return depth if orders is None else orders


def tower(branches: Sequence[Branch], x: Tensor, subset: Iterable[int] | None = None) -> Tensor:
    """Return N_S(x), the stack with the branches of a subset only; None is all of them."""
    for i in range(len(branches)) if subset is None else sorted(subset):
        x = x + branches[i](x)
    return x


def mobius_term(branches: Sequence[Branch], x: Tensor, subset: Iterable[int]) -> Tensor:
    """Return T_S(x) for one subset S, by 2^|S| - 1 calls of branches.

    With m the last branch of S, T_S = Σ_{R ⊆ S - m} (-1)^(|S| - 1 - |R|) F_m(N_R(x)); T_∅ = x.
    """
    chosen = sorted(subset)
    if not chosen:
        return x
    states = [(1, x)]  # (-1)^(how many were left out) and N_R, for every R so far
    for i in chosen[:-1]:
        states = [(-sign, state) for sign, state in states] + [
            (sign, state + branches[i](state)) for sign, state in states
        ]
    total = torch.zeros_like(x)
    for sign, state in states:
        total = total + sign * branches[chosen[-1]](state)
    return total


def mobius_orders(
    branches: Sequence[Branch],
    x: Tensor,
    *,
    orders: int | None = None,
    samples: int | None = None,
    generator: torch.Generator | None = None,
) -> Expansion:
    """Compute E_0, …, E_K, exactly or from random subsets.

    Exactly, with A_{j,i} the sum of F_j(N_R(x)) over all R of i branches before j,

        E_k = Σ_j Σ_{i<k} (-1)^(k-1-i) C(j-i, k-1-i) A_{j,i}        (j = 0, …, L-1)

    by Σ_{k=1}^{K} C(L, k) calls of branches. The sums alternate, and rounding grows like 3^L: with
    float64 (and branches in eval mode) to about 1e-12 at 10 branches and 1e-9 at 16.

    From samples, E_k is C(L, k) times the mean of T_S over uniform S of size k: unbiased, and with
    a standard error. An order of at most `samples` subsets is summed in full.

    Args:
        branches: F_1, …, F_L, each x (…) -> F_i(x) (…), with its norm and its scale inside.
        x: Input of the stack (…).
        orders: The last order K, in 0, …, L; None is L.
        samples: Subsets of each size to draw, at least 2; None is all.
        generator: Source of randomness, on the CPU.

    Raises:
        ValueError: no branches, orders or samples out of range, or more than 100,000 calls.
    """
    depth, last = len(branches), last_order(branches, orders)
    if samples is not None and samples < 2:
        raise ValueError(f"samples must be at least 2 for a standard error, got {samples}")
    counts = [math.comb(depth, k) for k in range(last + 1)]
    if samples is None:
        calls = sum(counts[1:])
    else:
        calls = sum(min(n, samples) * (2**k - 1) for k, n in enumerate(counts))
    if calls > MAX_CALLS:
        drawn = "" if samples is None else f" from samples={samples}"
        raise ValueError(
            f"orders={last} of {depth} branches{drawn} need {calls:,} calls, more than "
            f"{MAX_CALLS:,}; give fewer orders, or {'' if samples is None else 'fewer '}samples"
        )
    output = tower(branches, x)
    if samples is None:
        return Expansion(_exact(branches, x, last), output, x.new_zeros(last + 1))
    pairs = [_estimate(branches, x, k, samples, generator) for k in range(last + 1)]
    terms, standard_errors = zip(*pairs, strict=True)
    return Expansion(torch.stack(terms), output, torch.stack(standard_errors))


def _exact(branches: Sequence[Branch], x: Tensor, last: int) -> Tensor:
    depth = len(branches)
    sums = [[torch.zeros_like(x) for _ in range(last)] for _ in range(depth)]  # A_{j,i}

    def visit(state: Tensor, size: int, first: int) -> None:
        for j in range(first, depth):
            y = branches[j](state)
            sums[j][size] = sums[j][size] + y
            if size + 1 < last:
                visit(state + y, size + 1, j + 1)

    if last > 0:
        visit(x, 0, 0)
    terms = [x]
    for k in range(1, last + 1):
        term = torch.zeros_like(x)
        for j, i in itertools.product(range(depth), range(k)):
            if weight := (-1) ** (k - 1 - i) * math.comb(max(j - i, 0), k - 1 - i):
                term = term + weight * sums[j][i]
        terms.append(term)
    return torch.stack(terms)


def _estimate(
    branches: Sequence[Branch], x: Tensor, k: int, samples: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return E_k and the norm of its standard error."""
    depth = len(branches)
    count = math.comb(depth, k)
    if count <= samples:
        total = torch.zeros_like(x)
        for subset in itertools.combinations(range(depth), k):
            total = total + mobius_term(branches, x, subset)
        return total, x.new_zeros(())
    mean = spread = torch.zeros_like(x)  # Welford's running mean and sum of squares
    for n in range(1, samples + 1):
        subset = torch.randperm(depth, generator=generator)[:k].tolist()
        term = mobius_term(branches, x, subset)
        step = term - mean
        mean = mean + step / n
        spread = spread + step * (term - mean)
    return count * mean, count * (spread.sum() / (samples - 1) / samples).sqrt()
