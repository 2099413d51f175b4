"""Several settings at once: ranks, performance profiles, and tests over settings instead of tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy
from numpy.typing import ArrayLike

from metabench.stats.compare import holm
from metabench.stats.crossed import Floats

LEAST_SETTINGS = 8
"""Below that, a signed-rank test that is adjusted for a few pairs cannot find anything."""

RATIOS = (1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0)


def ranks(costs: ArrayLike) -> Floats:
    """Return the ranks of rows within each setting [rows, settings]: 1 for the lowest cost, ties averaged."""
    return np.asarray(
        scipy.stats.rankdata(np.asarray(costs, dtype=np.float64), axis=0, nan_policy="propagate")
    )


def profile(costs: ArrayLike, ratios: Sequence[float] = RATIOS) -> Floats:
    """Return the share of settings in which a row costs at most so many times the lowest (Dolan, More 2002).

    Args:
        costs: [rows, settings], at least 0, such as errors.

    Returns:
        [rows, ratios], never falling along a row.
    """
    x = np.asarray(costs, dtype=np.float64)
    best = x.min(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.where(x == best, 1.0, x / best)
    within = times[:, :, None] <= np.asarray(ratios) * (1 + 1e-12)
    shares: Floats = within.mean(axis=1)
    shares[np.isnan(x).any(axis=1)] = np.nan
    return shares


def friedman(costs: ArrayLike) -> float:
    """Return the p of rows [rows, settings] being alike in all settings; NaN below three rows."""
    x = np.asarray(costs, dtype=np.float64)
    if len(x) < 3 or np.ptp(x, axis=0).max() == 0:
        return np.nan
    return float(scipy.stats.friedmanchisquare(*x).pvalue)


def signed_ranks(costs: ArrayLike) -> Floats:
    """Return the p of every pair of rows over settings: Wilcoxon's signed ranks, adjusted by Holm."""
    x = np.asarray(costs, dtype=np.float64)
    pairs = [(a, b) for a in range(len(x)) for b in range(a)]
    p = [1.0 if (x[a] == x[b]).all() else float(scipy.stats.wilcoxon(x[a], x[b]).pvalue) for a, b in pairs]
    table = np.eye(len(x))
    for (a, b), adjusted in zip(pairs, holm(p), strict=True):
        table[a, b] = table[b, a] = adjusted
    return table
