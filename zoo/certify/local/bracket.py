"""Where a proved margin comes down to zero, from few balls.

A straight line along the gradient would meet another class at r. What relaxation loses on the way,

    e(ε) = 1 − ε/r − m(ε)/m(0),        m the proved margin,

grows like c ε²/(E − ε): intervals feed on themselves in every layer, and at E they diverge. So
ε²/e(ε) is nearly a straight line, two proved balls give E, and the radius is the root of
e = 1 − ε/r.
Every size that is kept is proved: the model only chooses which are tried.
"""

# Shape letters: N samples.

import torch
from torch import Tensor

__all__ = ["FINE", "Brackets"]

FINE = 0.02  # share of a radius that is not looked for any further, as far as the model holds
TYPICAL = 0.02  # c/E of a network of some layers, until a second ball tells
NEAR = 0.8  # ratio of two balls whose line is believed
STEEP = 20  # of e between the two: beyond, something bends that did not before
SMALL = 1e-9  # of e: below it there is no more than rounding


class Brackets:
    """The largest proved and the smallest refused ball of each sample.

    Args:
        straight: r (N,).
        margin: m(0) (N,).
        known: Radii that are known otherwise (N,).
        start: Sizes to begin with (N,).

    Attributes:
        low: The largest that is proved (N,); 0 where none is.
    """

    def __init__(self, straight: Tensor, margin: Tensor, known: Tensor, start: Tensor) -> None:
        """Begin with nothing proved."""
        self.straight, self.margin, self.known = straight, margin, known
        self.low = torch.zeros_like(straight)
        self.high = torch.full_like(straight, torch.inf)
        self.excess = torch.zeros_like(straight)  # e at the largest proved ball
        self.before = torch.zeros_like(straight)  # the proved ball before it, and e there
        self.excess_before = torch.zeros_like(straight)
        self.share = torch.ones_like(straight)  # of a refused ball, until one is proved
        self.next = torch.maximum(start, known * (1 + FINE))

    def left(self) -> Tensor:
        """Return the numbers of the samples that are not done."""
        done = torch.maximum(self.low, self.known) >= self.high * (1 - FINE)
        done |= self._near() & (self.low >= (1 - FINE) * self._root())
        return (~done | (self.low + self.known == 0)).nonzero().squeeze(1)

    def put(self, rows: Tensor, margins: Tensor) -> None:
        """Take the margins of the balls of size `next` of some samples, and choose the next."""
        size, proved = self.next[rows], margins > 0
        excess = 1 - size / self.straight[rows] - margins / self.margin[rows]
        won, lost = rows[proved], rows[~proved]
        self.before[won], self.excess_before[won] = self.low[won], self.excess[won]
        self.low[won] = size[proved]
        self.excess[won] = excess[proved].clamp_min(SMALL)
        self.high[lost] = size[~proved]
        low, high = torch.maximum(self.low, self.known), self.high
        # A straight line may have led far too far.
        self.share[lost] /= 2
        # The farther the model reaches, the more it promises too much.
        wanted = self._root() * torch.where(self._near(), 1 - FINE / 2, 1 - 1.5 * FINE)
        wanted = torch.minimum(torch.maximum(wanted, low * (1 + FINE)), 4 * low)
        inside = torch.where(low > 0, low + 0.6 * (high - low), high * self.share)
        self.next = torch.where((wanted < high * (1 - FINE)) & (low > 0), wanted, inside)

    def _near(self) -> Tensor:
        """Whether two balls tell how the model goes on."""
        near = self.before >= NEAR * self.low
        return near & (self.excess <= STEEP * self.excess_before)

    def _root(self) -> Tensor:
        """Return where the model has lost all that a straight line leaves; infinity at first."""
        e, low, r = self.excess, self.low, self.straight
        # One ball: x = low/E from x²/(1 − x) = e/TYPICAL.
        q = e / TYPICAL
        far = low * 2 / ((q * q + 4 * q).sqrt() - q)
        # Two: the line through ε²/e.
        here = low * low / e
        there = self.before**2 / self.excess_before
        fall = (there - here) / (low - self.before)
        pole = torch.where(fall > 0, low + here / fall, torch.inf)
        far = torch.where(self.before > 0, pole, far).minimum(1e6 * low)
        c = e * (far - low) / (low * low)
        b = 1 + far / r
        found = 2 * far / (b + (b * b - 4 * far * (1 / r - c)).clamp_min(0.0).sqrt())
        return torch.where(low > 0, found, torch.inf)
