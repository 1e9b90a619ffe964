"""One product of two factors in the place of several: put together, truncated, averaged, clustered.

    Σ_i w_i B_i A_i  ≈  B A        B_i (rows, r_i), A_i (r_i, columns), weights w_i > 0

    concatenated   all components; exact, of rank Σ r_i
    truncated      the best of a rank: SVD of that product, through QR of both factors
    averaged       Σ w_i B_i over the one A that all share; exact
    clustered      rank centroids of all components (LoRA-LEGO)

A component is the vector u = (a, b) of its row of A and its column of B. Before clustering ‖a‖ =
‖b‖ is made, since (c b, a / c) is the same term, and a component and -u count as one point, since
(-b)(-a) is the same term too. Each centroid gets the mean length of its members and stands for as
many terms as it has members.

Source: Zhao et al. 2024, "Merging LoRAs like Playing LEGO: Pushing the Modularity of LoRA to
Extremes Through Rank-Wise Clustering", arXiv:2409.16167.
Differs from it: lengths and signs are aligned; without, another scale or another sign of the same
factors changes the result. Members are counted, so that copies
of one adapter merge to its multiple.
"""

# Shape letters: n components of all, k centroids.

from collections.abc import Sequence

import torch
from torch import Tensor

from .decompose import balanced_factors, product_svd

__all__ = ["averaged", "clustered", "concatenated", "truncated"]

Parts = Sequence[tuple[Tensor, Tensor]]
STARTS, ROUNDS = 10, 300


def concatenated(parts: Parts, weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return (..., rows, Σ r_i) and (..., Σ r_i, columns) with the weighted sum as product.

    Raises:
        ValueError: nothing to merge, another number of weights, or one that is not above 0.
    """
    _check(parts, weights)
    left = torch.cat([w * left for w, (left, _) in zip(weights, parts, strict=True)], -1)
    return left, torch.cat([right for _, right in parts], -2)


@torch.no_grad()
def truncated(parts: Parts, weights: Sequence[float], rank: int) -> tuple[Tensor, Tensor]:
    """Return the best factors of a rank for the weighted sum, of equal norms.

    Raises:
        ValueError: as `concatenated`.
    """
    left, right = concatenated(parts, weights)
    first, values, second = product_svd(left, right)
    some = first[..., :rank], values[..., :rank], second[..., :rank, :]
    found = balanced_factors(*some)
    return found[0].to(left.dtype), found[1].to(right.dtype)


def averaged(parts: Parts, weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of the left factors, and the right one that all share.

    Raises:
        ValueError: right factors that differ; as `concatenated`.
    """
    _check(parts, weights)
    shared = parts[0][1]
    if any(right.shape != shared.shape or not torch.equal(right, shared) for _, right in parts):
        raise ValueError(
            "the adapters have right factors of their own, and a mean of both factors is no mean "
            "of the products; train with ffa_lora and one seed, or merge by cat or truncate"
        )
    lefts = [w * left for w, (left, _) in zip(weights, parts, strict=True)]
    return torch.stack(lefts).sum(0), shared


@torch.no_grad()
def clustered(
    parts: Parts, weights: Sequence[float], rank: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the centroids of all components as factors of a rank.

    Args:
        parts: Factors of one matrix or of a batch, each matrix of which is clustered alone.
        weights: Of the products.
        rank: k, at least 1; with k ≥ Σ r_i the sum is exact.
        seed: Of the starts, the best of which is taken.

    Raises:
        ValueError: as `concatenated`, or a rank below 1.
    """
    left, right = concatenated(parts, weights)
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    if left.dim() > 2:
        each = [
            clustered([(one, other)], [1.0], rank, seed)
            for one, other in zip(left.flatten(0, -3), right.flatten(0, -3), strict=True)
        ]
        found = (torch.stack(side) for side in zip(*each, strict=True))
        one, other = (side.unflatten(0, left.shape[:-2]) for side in found)
        return one, other
    rows = left.shape[-2]
    units = _aligned(left.double(), right.double())
    if rank >= len(units):
        return left, right
    centroids = _centroids(units, rank, seed).to(left.dtype)
    return centroids[:, :rows].mT.contiguous(), centroids[:, rows:].contiguous()


def _check(parts: Parts, weights: Sequence[float]) -> None:
    if not parts:
        raise ValueError("there are no adapters to merge")
    if len(weights) != len(parts):
        raise ValueError(f"{len(weights)} weights do not fit {len(parts)} adapters")
    if not all(weight > 0 for weight in weights):
        raise ValueError(f"weights must be above 0, got {list(weights)}")


def _aligned(left: Tensor, right: Tensor) -> Tensor:
    """Return the components (n, rows + columns) with equal norms of both parts, in a fixed order.

    The longest comes first, and the largest entry of each is positive, so that neither the order
    nor the signs of what is given matter.
    """
    first, second = left.norm(dim=0), right.norm(dim=1)
    length = (first * second).sqrt()
    scale = torch.where(length > 0, length, 1.0)
    column = left / torch.where(first > 0, first, 1.0) * scale
    row = right / torch.where(second > 0, second, 1.0)[:, None] * scale[:, None]
    units = torch.cat([column.mT, row], -1) * (length > 0)[:, None]
    largest = units.gather(1, units.abs().argmax(1, keepdim=True))
    units = units * torch.where(largest < 0, -1.0, 1.0)
    return units[units.norm(dim=1).argsort(descending=True, stable=True)]


def _centroids(units: Tensor, count: int, seed: int) -> Tensor:
    """Return k rows, the outer products of whose parts add up to about those of all units."""
    generator = torch.Generator().manual_seed(seed)
    best: tuple[float, Tensor] | None = None
    for _ in range(STARTS):
        centroids = _start(units, count, generator)
        owner = units.new_full((len(units),), -1).long()
        for _ in range(ROUNDS):
            inner = units @ centroids.mT
            costs = centroids.square().sum(1) - 2 * inner.abs()
            now = costs.argmin(1)
            if torch.equal(now, owner):
                break
            owner = now
            signs = inner.gather(1, owner[:, None]).sign()
            sums = torch.zeros_like(centroids).index_add(0, owner, signs * units)
            sizes = owner.bincount(minlength=count).clamp_min(1)
            centroids = sums / sizes[:, None]
        signs = (units * centroids[owner]).sum(1, keepdim=True).sign()
        cost = float((units - signs * centroids[owner]).square().sum())
        if best is None or cost < best[0]:
            sizes = owner.bincount(minlength=count).to(units.dtype)
            lengths = units.new_zeros(count).index_add(0, owner, units.norm(dim=1))
            now = centroids.norm(dim=1)
            wanted = lengths / sizes.clamp_min(1) * sizes.sqrt()
            best = cost, centroids * (wanted / torch.where(now > 0, now, 1.0))[:, None]
    assert best is not None
    return best[1]


def _start(units: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw k different units, each with a chance that grows with its distance from those before."""
    chosen = [int(torch.randint(len(units), (), generator=generator))]
    squares = units.square().sum(1)
    distances = torch.full_like(squares, torch.inf)
    for _ in range(count - 1):
        last = units[chosen[-1]]
        away = squares + last.square().sum() - 2 * (units @ last).abs()
        distances = torch.minimum(distances, away.clamp_min(0))
        distances[chosen] = 0
        chances = distances if float(distances.sum()) > 0 else torch.ones_like(distances)
        chosen.append(int(torch.multinomial(chances.cpu(), 1, generator=generator)))
    return units[chosen].clone()
