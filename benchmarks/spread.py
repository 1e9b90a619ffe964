"""What a few seeds show: a mean, its standard error, and whether two means are apart."""

import math
import statistics
from collections.abc import Sequence

__all__ = ["apart", "summary", "verdict"]


def summary(figures: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error; with one figure the error is unknown."""
    if len(figures) == 1:
        return figures[0], math.nan
    return statistics.mean(figures), statistics.stdev(figures) / math.sqrt(len(figures))


def difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Return the difference of two means and its standard error."""
    (mean, error), (other_mean, other_error) = summary(one), summary(other)
    return mean - other_mean, math.hypot(error, other_error)


def apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two means differ by more than two standard errors of their difference."""
    between, spread = difference(one, other)
    return abs(between) > 2 * spread


def verdict(figures: Sequence[float], reference: Sequence[float]) -> str:
    """Say better or worse, where less is better, only where the figures show it."""
    if not apart(figures, reference):
        return "no difference shown"
    between, spread = difference(figures, reference)
    return f"{'better' if between < 0 else 'worse'} by {abs(between):.4f} ± {spread:.4f}"
