"""Comparing methods over many data sets by their ranks.

On each of N sets the k methods are ranked, 1 for the best, tied ones sharing the mean of their
places. Friedman's statistic, corrected for ties,

    χ² = (k − 1) N² Σ_j (R_j − (k+1)/2)² / Σ_ij (r_ij − (k+1)/2)²

with mean ranks R_j, has k − 1 degrees of freedom if all methods are alike. Where it says otherwise,
two methods differ by Nemenyi's test if their mean ranks do by more than

    CD = q √(k (k+1) / (6 N)),

with q the quantile of the studentized range for k groups and ∞ degrees of freedom, over √2.

Source: Demšar 2006, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7.
Differs from it: the correction for ties (Conover 1999, §5.8); N² here where sums of ranks are
squared there.
"""

# Shape letters: N sets, k methods.

import math

import numpy as np

__all__ = ["critical_difference", "friedman", "rank"]


def rank(figures: np.ndarray) -> np.ndarray:
    """Rank figures (N, k), larger being better, along each row."""
    from scipy.stats import rankdata

    return rankdata(-np.asarray(figures, dtype=float), axis=1)


def friedman(ranks: np.ndarray) -> tuple[float, float]:
    """Return χ² and its p-value for ranks (N, k).

    Raises:
        ValueError: fewer than 2 sets or 3 methods, or all methods tied everywhere.
    """
    from scipy.stats import chi2

    sets, methods = ranks.shape
    if sets < 2 or methods < 3:
        raise ValueError(f"at least 2 sets and 3 methods are needed, got {sets} and {methods}")
    middle = (methods + 1) / 2
    spread = float(((ranks - middle) ** 2).sum())
    if spread == 0.0:
        raise ValueError("every method has the same figure on every set; there is nothing to rank")
    between = float(((ranks.mean(0) - middle) ** 2).sum())
    statistic = (methods - 1) * sets**2 * between / spread
    return statistic, float(chi2.sf(statistic, methods - 1))


def critical_difference(methods: int, sets: int, *, alpha: float = 0.05) -> float:
    """Return by how much the mean ranks of two methods must differ, at level α."""
    from scipy.stats import studentized_range

    quantile = float(studentized_range.ppf(1 - alpha, methods, math.inf)) / math.sqrt(2)
    return quantile * math.sqrt(methods * (methods + 1) / (6 * sets))
