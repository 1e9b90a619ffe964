"""Power laws of a loss in compute, one for each residual, and the compute that one saves another.

    L_m(C) = a_m C^(-b_m) + c

The floor c is shared: it stands for what the text itself leaves open, which no residual changes,
and five sizes say too little of a floor for each. With it the multiplier, that is how many times
the compute of the reference reaches the loss that m has at C, is a line in logarithms:

    log M(C) = (log a - log a_m) / b + (b_m / b - 1) log C

so that a gain holds where b_m = b, grows where b_m > b and fades where b_m < b.

For a given c the laws are least squares in two parameters each, from the line of log(L - c) by
Gauss-Newton steps; c is sought in one dimension, over a grid that is drawn finer four times. There
is no start to choose, and many samples are fitted at once.

Intervals are those of a bootstrap: to the mean of a size come deviations of seeds, drawn anew, of
all residuals together, because seeds share the order of the data. They are drawn from those of
every size with several seeds, since three seeds of one size know too little of its spread. Even the
six degrees of freedom of three such sizes know it roughly, and deviations are stretched by
Student's quantile over the normal one: of 300 intervals of 95 % so many more held a planted
multiplier, 94 % in place of 89 %. The bootstrap knows of seeds only: not of rates that could have
been tuned better, nor of a law that is another one. What a multiplier is without any law is read
between the runs of the reference, on straight lines in both logarithms.
"""

# Shape letters: R samples, G floors, M residuals, S sizes, K seeds.

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Laws", "bootstrap", "fit", "interval", "log_multiplier_between", "resampled"]

Array = NDArray[np.float64]

GRID, ZOOMS, STEPS = 17, 4, 4
LEVEL = 0.95  # of intervals
LARGEST = 0.98  # of the least loss: a floor above that leaves nothing to fit


@dataclass(frozen=True)
class Laws:
    """Fitted laws of M residuals, the first being the reference, in R samples.

    Args:
        log_a: log a_m, shape (R, M).
        b: Exponents, shape (R, M).
        c: Floors, shape (R,).
        misfit: Root mean square of what the laws leave of the mean losses, shape (R,).
    """

    log_a: Array
    b: Array
    c: Array
    misfit: Array

    def loss(self, log_compute: float) -> Array:
        """L_m(C), shape (R, M)."""
        return np.exp(self.log_a - self.b * log_compute) + self.c[:, None]

    def log_multiplier(self, log_compute: float) -> Array:
        """log M(C), shape (R, M); 0 for the reference."""
        offset = (self.log_a[:, :1] - self.log_a) / self.b[:, :1]
        return offset + self.trend() * log_compute

    def trend(self) -> Array:
        """The slope of log M in log C, shape (R, M)."""
        return self.b / self.b[:, :1] - 1.0


def fit(log_compute: Array, losses: Array, counts: Array) -> Laws:
    """Least squares of mean losses, each weighted by its number of runs.

    Args:
        log_compute: log C, shape (M, S); a constant may be left out of all.
        losses: Mean losses, shape (R, M, S).
        counts: Runs behind each, shape (S,).

    Raises:
        ValueError: fewer than three sizes, or a loss that is not finite and above 0.
    """
    if log_compute.shape[-1] < 3:
        raise ValueError(f"a law of three parameters needs 3 sizes, got {log_compute.shape[-1]}")
    if not (np.isfinite(losses) & (losses > 0)).all():
        raise ValueError("losses must be finite and above 0")
    low, high = np.zeros(len(losses)), LARGEST * losses.min((1, 2))
    for _ in range(1 + ZOOMS):
        floors = np.linspace(low, high, GRID, axis=1)  # (R, G)
        log_a, b, error = _lines(log_compute, losses, counts, floors)
        best = error.argmin(1)
        rows = np.arange(len(losses))
        low = floors[rows, np.maximum(best - 1, 0)]
        high = floors[rows, np.minimum(best + 1, GRID - 1)]
    size = counts.sum() * log_compute.shape[0]
    return Laws(
        log_a[rows, best], b[rows, best], floors[rows, best], np.sqrt(error[rows, best] / size)
    )


def _lines(
    log_compute: Array, losses: Array, counts: Array, floors: Array
) -> tuple[Array, Array, Array]:
    """log a (R, G, M), b (R, G, M) and the summed squares (R, G) at given floors."""
    centre = log_compute.mean()  # log a and b are then nearly apart
    x = (log_compute - centre)[None, None]
    above = losses[:, None] - floors[:, :, None, None]
    log_a, b = _weighted(x, np.log(above), counts * above**2)
    for _ in range(STEPS):
        law = np.exp(log_a[..., None] - b[..., None] * x)
        # A step of Gauss and Newton: what is left, as a share of the law, is fitted by a line.
        more, fewer = _weighted(x, (above - law) / law, counts * law**2)
        log_a, b = log_a + more, b + fewer
    law = np.exp(log_a[..., None] - b[..., None] * x)
    error = (counts * (above - law) ** 2).sum((-1, -2))
    return log_a + b * centre, b, np.where(np.isfinite(error), error, np.inf)


def _weighted(x: Array, y: Array, weight: Array) -> tuple[Array, Array]:
    """Height at x = 0 and fall of the weighted line through (x, y) over the last axis."""
    total = weight.sum(-1)
    mean_x, mean_y = (weight * x).sum(-1) / total, (weight * y).sum(-1) / total
    away = x - mean_x[..., None]
    slope = (weight * away * (y - mean_y[..., None])).sum(-1) / (weight * away**2).sum(-1)
    return mean_y - slope * mean_x, -slope


def bootstrap(
    log_compute: Array, runs: Array, *, samples: int, generator: np.random.Generator
) -> Laws:
    """Laws of runs drawn anew; see `resampled`.

    Args:
        log_compute: log C, shape (M, S).
        runs: Losses, shape (M, S, K); NaN behind the last seed of a size.
        samples: How often, R.
        generator: Source of randomness.
    """
    counts = (~np.isnan(runs[0])).sum(-1).astype(float)
    return fit(log_compute, resampled(runs, samples=samples, generator=generator), counts)


def resampled(runs: Array, *, samples: int, generator: np.random.Generator) -> Array:
    """Mean losses (R, M, S) of runs drawn anew.

    Args:
        runs: Losses, shape (M, S, K); NaN behind the last seed of a size.
        samples: How often, R.
        generator: Source of randomness.

    Raises:
        ValueError: no size has several seeds, or a residual lacks a run that another has.
    """
    present = ~np.isnan(runs)
    if (present != present[:1]).any():
        raise ValueError("every residual must have the same seeds at a size")
    counts = present[0].sum(-1)
    several = np.flatnonzero(counts > 1)
    if not len(several):
        raise ValueError("a bootstrap needs a size with several seeds")
    means = np.nanmean(runs, -1)
    from scipy import stats

    freedom = (counts[several] - 1).sum()
    end = (1 + LEVEL) / 2
    stretch = stats.t.ppf(end, freedom) / stats.norm.ppf(end)
    # Deviations from the mean of n runs are too small by √((n - 1) / n).
    away = np.concatenate(
        [
            (runs[:, size, :count] - means[:, size, None]) * stretch * np.sqrt(count / (count - 1))
            for size, count in zip(several, counts[several], strict=True)
        ],
        axis=1,
    )
    drawn = np.repeat(means[None], samples, 0)
    for size, count in enumerate(counts):
        chosen = generator.integers(away.shape[1], size=(samples, count))
        drawn[:, :, size] += away[:, chosen].mean(-1).T
    return drawn


def log_multiplier_between(log_compute: Array, losses: Array) -> Array:
    """log M of every residual and size, read between the sizes of the reference, without a law.

    The compute at which the reference has a loss lies on straight lines through its sizes, in
    logarithms of both; before the first and behind the last size, on the nearest of the lines.

    Args:
        log_compute: log C, shape (M, S).
        losses: Mean losses, shape (R, M, S), that fall from size to size in the reference.

    Returns:
        Shape (R, M, S); 0 for the reference.

    Raises:
        ValueError: a loss of the reference that does not fall.
    """
    y, x = np.log(losses), log_compute[0]
    steps = np.diff(y[:, 0])  # (R, S - 1)
    if not (steps < 0).all():
        raise ValueError("the losses of the reference must fall from size to size")
    # The line of a loss is that behind the last inner size whose loss is above it.
    line = (y[..., None] < y[:, 0, 1:-1][:, None, None]).sum(-1)
    rows = np.arange(len(y))[:, None, None]
    slope = np.diff(x)[line] / steps[rows, line]
    return x[line] + slope * (y - y[rows, 0, line]) - log_compute


def interval(samples: Array) -> tuple[float, float]:
    """The quantiles of samples between which 95 % lie, as many left out on either side."""
    rest = 50 * (1 - LEVEL)
    low, high = np.percentile(samples, [rest, 100 - rest])
    return float(low), float(high)
