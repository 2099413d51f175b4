"""Variances of a mean over seeds and tasks, and what a sum of estimated variances promises.

Seeds and tasks are crossed: every seed is tested on the same frozen tasks. With effects of seeds, of tasks
and of both together, the mean of S seeds and T tasks has the variance

    var(seed) / S + var(task) / T + var(both) / (S T)

The spread of the tasks' means over seeds holds the second and third term; that of the seeds' means holds the
first and, again, the third, which is therefore taken off.

A sum of variances that are known on few degrees of freedom has no t distribution. Satterthwaite's
approximation covered 92 % of simulated truths with three seeds; the rule of Cochran and Cox, which averages
the quantiles of the parts by their variances, covered 93.5 to 97 % from three seeds on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95

ROUNDING = 1e-12  # of figures, relative; what differs by less is equal


class VarianceComponent(NamedTuple):
    """One of the variances that add up to that of a mean, and the degrees of freedom it is known on."""

    variance: float
    freedom: float


def matrix(scores: ArrayLike) -> Floats:
    """Return [seeds, tasks] as float64; any other shape is a ValueError."""
    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"shape {x.shape}: accuracies must be [seeds, tasks] and not empty")
    return x


def variance(values: Floats) -> float:
    """Return the unbiased variance of values; zero where they differ by rounding only."""
    if np.ptp(values) <= ROUNDING * np.abs(values).max():
        return 0.0
    return float(values.var(ddof=1))


def task_variance(per_task: Floats) -> VarianceComponent:
    """Return the variance that tasks [T], averaged over seeds, give to their mean."""
    n_tasks = len(per_task)
    if n_tasks < 2:
        return VarianceComponent(np.nan, 1)
    return VarianceComponent(variance(per_task) / n_tasks, n_tasks - 1)


def seed_variance(*sides: Floats, noise_off: float = 1.0) -> VarianceComponent:
    """Return the variance that seeds give to a mean, or to a difference of two, beside that of tasks.

    Args:
        sides: [seeds, tasks] each, of at least two seeds.
        noise_off: the share of what is of both seed and task that is taken off; of two seeds none is.
    """
    freedoms = [len(side) - 1 for side in sides]
    spreads = [variance(side.mean(axis=1)) / len(side) for side in sides]
    spread = sum(spreads)
    kept = spread
    # With two seeds there is one degree of freedom: taking the noise off covered 91 % at worst.
    if noise_off and min(freedoms) > 1:
        kept = float(np.maximum(spread - noise_off * sum(map(_noise, sides)), 0.0))
    if spread == 0:
        return VarianceComponent(kept, min(freedoms))
    # Welch: the noisier side decides.
    shares = sum(one**2 / freedom for one, freedom in zip(spreads, freedoms, strict=True))
    return VarianceComponent(kept, spread**2 / shares)


def _noise(x: Floats) -> float:
    """Return the part of the spread of seeds' means that is of both seed and task."""
    n_seeds, n_tasks = x.shape
    if n_tasks < 2:
        return np.nan
    rest = x - x.mean(axis=1, keepdims=True) - x.mean(axis=0) + x.mean()
    return float(np.square(rest).sum()) / ((n_seeds - 1) * (n_tasks - 1)) / (n_seeds * n_tasks)


def total(parts: Sequence[VarianceComponent]) -> float:
    """Add up variances."""
    return sum(part.variance for part in parts)


def quantile(parts: Sequence[VarianceComponent], tail: float) -> float:
    """Return how many standard errors a mean strays with this probability to one side (Cochran and Cox)."""
    quantiles = [(part.variance, -float(scipy.special.stdtrit(part.freedom, tail))) for part in parts]
    whole = total(parts)
    if whole == 0:
        return max(one for _, one in quantiles)
    return sum(variance * one for variance, one in quantiles) / whole


def half_width(parts: Sequence[VarianceComponent]) -> float:
    """Return half the width of the 95 % interval of a mean whose variance has these parts."""
    return quantile(parts, (1 - CONFIDENCE) / 2) * float(np.sqrt(total(parts)))


def p_value(distance: float, parts: Sequence[VarianceComponent]) -> float:
    """Return the two-sided p at which the interval of a mean just reaches zero; NaN where nothing varies."""
    error = float(np.sqrt(total(parts)))
    if not np.isfinite(error) or not np.isfinite(distance) or error == 0:
        return np.nan
    away = abs(distance) / error
    if away == 0:
        return 1.0
    lowest = 1e-30  # beyond it, p says no more
    if quantile(parts, lowest) < away:
        return 2 * lowest
    logged = scipy.optimize.brentq(
        lambda log: quantile(parts, np.exp(log)) - away, np.log(lowest), np.log(0.5)
    )
    return float(2 * np.exp(logged))
