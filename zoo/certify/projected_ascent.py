"""Climbing a loss inside a ball and a box: what the PGD and APGD of `attack` are made of.

    z <- P(z + step · d(∇ loss(z))),   P the projection into {z : ‖z − x‖ ≤ ε, lower ≤ z ≤ upper}

with d(g) = sign(g) for L∞ and g/‖g‖ for L2. PGD keeps its step. APGD adds momentum, halves the step
where progress stalls and then goes back to the best point so far.

Sources: Madry et al. 2018, arXiv:1706.06083 (PGD); Croce and Hein 2020, arXiv:2003.01690,
algorithm 1 (APGD).
Differs from them: a sample without a usable gradient takes a random direction; APGD forgets its
momentum where it goes back.
"""

# Shape letters: N samples.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["Box", "Norm", "Place", "Region", "checkpoints", "like", "search"]

Norm = Literal["l2", "linf"]
Box = tuple[float, float]


class Place(NamedTuple):
    """Points z with the loss that is climbed, the margin loss and the gradient there."""

    z: Tensor
    value: Tensor
    margin: Tensor
    slope: Tensor

    def replaced(self, where: Tensor, by: "Place") -> "Place":
        """Take another place for some samples."""
        columns = zip(self, by, strict=True)
        return Place(*(torch.where(like(where, old), new, old) for old, new in columns))


@dataclass(frozen=True)
class Region:
    """The points within a radius (N, 1, …) of the centres, inside the box."""

    centre: Tensor
    radius: Tensor
    norm: Norm
    box: Box | None

    def project(self, z: Tensor) -> Tensor:
        """Return the nearest point of the ball, then of the box, which leads no farther out."""
        delta = z - self.centre
        if self.norm == "linf":
            delta = delta.minimum(self.radius).maximum(-self.radius)
        else:
            length = _length(delta)
            outside = length > self.radius
            delta = delta * torch.where(outside, self.radius / torch.where(outside, length, 1), 1)
        z = self.centre + delta
        return z if self.box is None else z.clamp(*self.box)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw uniformly from the ball, and hold that in the box."""
        if self.norm == "linf":
            unit = 2 * torch.rand(self.centre.shape, generator=generator, dtype=torch.float64) - 1
        else:
            unit = self._normals(generator)
            share = torch.rand(len(unit), generator=generator, dtype=torch.float64)
            size = self.centre[0].numel()
            unit = unit * like(share ** (1 / size), unit) / _length(unit)
        return self.project(self.centre + self.radius * unit.to(self.centre))

    def direction(self, slope: Tensor, generator: torch.Generator) -> Tensor:
        """Return the steepest ascent of unit length; a random one where there is no gradient."""
        largest = slope.abs().amax(tuple(range(1, slope.dim())), keepdim=True)
        usable = largest.isfinite() & (largest > 0)
        if not usable.all():
            slope = torch.where(usable, slope, self._normals(generator).to(slope))
            largest = torch.where(usable, largest, 1.0)
        if self.norm == "linf":
            return slope.sign()
        slope = slope / largest  # squares of a nearly masked gradient would be zero
        return slope / _length(slope)

    def _normals(self, generator: torch.Generator) -> Tensor:
        return torch.randn(self.centre.shape, generator=generator, dtype=torch.float64)


def search(
    climb: Callable[[Tensor], Place],
    region: Region,
    start: Place,
    steps: int,
    share: float,
    adaptive: bool,
    generator: torch.Generator,
) -> Place:
    """Climb from a start and return, for each sample, the visited place of greatest margin.

    `adaptive` is APGD: momentum 0.75, and at each check the step is halved and the best point taken
    up where fewer than three quarters of the steps since the last check rose, or where neither the
    step nor the best value has changed since.
    """
    here = best = worst = start
    before = here.z
    step = share * region.radius
    checks = checkpoints(steps) if adaptive else {}
    rises = torch.zeros_like(start.value)
    top, halved = start.value, torch.zeros_like(start.value, dtype=torch.bool)
    for k in range(steps):
        target = region.project(here.z + step * region.direction(here.slope, generator))
        if adaptive and k:
            target = here.z + 0.75 * (target - here.z) + 0.25 * (here.z - before)
            target = region.project(target)
        there = climb(target)
        rises = rises + (there.value > here.value)
        before, here = here.z, there
        best = best.replaced(here.value > best.value, here)
        worst = worst.replaced(here.margin > worst.margin, here)
        if k + 1 in checks:
            halved = (rises < 0.75 * checks[k + 1]) | (~halved & (best.value == top))
            step = torch.where(like(halved, step), step / 2, step)
            here = here.replaced(halved, best)
            before = torch.where(like(halved, before), best.z, before)
            rises, top = torch.zeros_like(rises), best.value
    return worst


def checkpoints(steps: int) -> dict[int, int]:
    """The steps at which APGD looks back, with the number of steps since the last look.

    p₁ = 0.22, p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06), as shares of the steps.
    """
    checks, last, gap, p = {}, 0, 22, 22
    while p <= 100:  # in hundredths, which are exact
        at = -(-p * steps // 100)
        if at > last:
            checks[at] = at - last
            last = at
        gap = max(gap - 3, 6)
        p += gap
    return checks


def like(values: Tensor, tensor: Tensor) -> Tensor:
    """Shape values (N,) so that they broadcast over a tensor (N, …)."""
    return values.view(-1, *[1] * (tensor.dim() - 1))


def _length(x: Tensor) -> Tensor:
    """L2 norm of each sample, (N, 1, …)."""
    return like(torch.linalg.vector_norm(x.flatten(1), dim=1), x)
