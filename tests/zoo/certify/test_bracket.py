"""The search for a radius ends just below where margins reach zero, after few balls."""

from collections.abc import Callable

import pytest
import torch
from archzoo.zoo.certify.local.bracket import FINE, Brackets
from archzoo.zoo.certify.local.relaxation import steepest
from torch import Tensor

ROOTS = torch.logspace(-6, 6, 25, dtype=torch.float64)
MARGINS: dict[str, Callable[[Tensor], Tensor]] = {  # of ε over the root
    "line": lambda t: 1 - t,
    "square": lambda t: 1 - 0.2 * t - 0.8 * t * t,
    "pole": lambda t: torch.where(
        t < 1.02, 1 - 0.05 * t - 0.019 * t * t / (1.02 - t).clamp_min(1e-9), -torch.inf
    ),
    "bend": lambda t: 1 - 0.5 * t - (5 * (t - 0.9)).clamp_min(0.0),
    "cliff": lambda t: torch.where(t < 1, 1 - 0.01 * t, -torch.inf),
}


def searched(
    margin: Callable[[Tensor], Tensor], start: Tensor, known: Tensor
) -> tuple[Brackets, Tensor, Tensor]:
    """Search for all roots; also the largest ball that was proved, and how many were asked for."""
    small = 1e-9
    slope = (1 - margin(torch.tensor(small, dtype=torch.float64))) / small
    found = Brackets(ROOTS / slope, torch.ones_like(ROOTS), known, start)
    proved, asked = torch.zeros_like(ROOTS), torch.zeros_like(ROOTS)
    for _ in range(24):
        rows = found.left()
        if not len(rows):
            break
        size = found.next[rows]
        margins = margin(size / ROOTS[rows])
        asked[rows] += 1
        proved[rows] = torch.where(margins > 0, torch.maximum(proved[rows], size), proved[rows])
        found.put(rows, margins)
    return found, proved, asked


@pytest.mark.parametrize("start", [0.1, 0.7, 1.0, 3.0, 1e4])
@pytest.mark.parametrize("name", MARGINS)
def test_a_radius_is_proved_and_close_to_the_largest(name, start):
    found, proved, asked = searched(MARGINS[name], start * ROOTS, torch.zeros_like(ROOTS))
    assert torch.equal(found.low, proved)
    ratio = found.low / ROOTS
    # A bend that the model does not know costs more than FINE.
    assert (ratio < 1 + 1e-9).all() and (ratio > 1 - 2.5 * FINE).all()
    assert asked.max() <= 16


def test_what_is_smaller_than_a_known_radius_is_not_looked_for():
    known = 0.995 * ROOTS
    found, _, asked = searched(MARGINS["square"], 0.1 * ROOTS, known)
    assert not found.low.any() and (asked == 1).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3), (64, 64)])
@pytest.mark.parametrize("scale", [0.0, 1e-150, 1.0, 1e150])
def test_a_bound_of_spectral_norms_is_close_above_them(shape, scale):
    g = torch.Generator().manual_seed(0)
    rows = scale * torch.randn(5, *shape, generator=g, dtype=torch.float64)
    rows[1] = rows[1, :1]  # of rank one
    true = torch.linalg.matrix_norm(rows, 2) if scale else rows.new_zeros(5)
    found = steepest(rows)
    assert (found >= true * (1 - 1e-12)).all() and (found <= 1.07 * true).all()
