"""Intervals over seeds and tasks, and paired comparisons; numbers in, numbers out, NaN stays NaN.

Seeds and tasks are crossed factors: every seed is tested on the same frozen tasks. Resampling tasks anew
within each resampled seed would pretend that S seeds saw S times as many tasks, so both are resampled
independently and every resampled seed is averaged over the same resampled tasks.

A handful of seeds makes the plain percentile interval too short: with 3 seeds, whose spread doubles that
over tasks, it covered 84 % of 3000 simulated truths instead of 95 %. So each resampled effect is stretched by
sqrt(n / (n - 1)), and the interval by t / z at Satterthwaite's degrees of freedom. In the same simulation
that covered 94 %, and 98 % where seeds did not differ at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 4000  # the noise that this leaves is about 2 % of the interval's half-width

TASKS = "tasks"
SEEDS_AND_TASKS = "seeds and tasks"


class Interval(NamedTuple):
    """A mean with its 95 % interval and what the interval speaks of."""

    mean: float
    low: float
    high: float
    over: str  # "tasks": these very trained networks; "seeds and tasks": training again as well


class Paired(NamedTuple):
    """How much higher one setting is than another on the same tasks."""

    difference: float
    low: float
    high: float
    p: float  # two-sided, over tasks: these very trained networks; NaN where all differences are equal
    over: str  # as in Interval; "seeds and tasks" only where both sides have several seeds


def mean_interval(accuracies: ArrayLike) -> Interval:
    """Return the mean over tasks [T] with its t interval."""
    x = np.asarray(accuracies, dtype=np.float64)
    mean = float(x.mean())
    if x.size < 2:
        return Interval(mean, np.nan, np.nan, TASKS)
    half = float(_t(x.size - 1) * x.std(ddof=1) / np.sqrt(x.size))
    return Interval(mean, mean - half, mean + half, TASKS)


def seeds_and_tasks(accuracies: ArrayLike, seed: int = 0) -> Interval:
    """Return the mean of [seeds, T] with its bootstrap interval; one seed leaves only tasks to resample."""
    x = _matrix(accuracies)
    low, high = _interval([x], np.random.default_rng(seed))
    return Interval(float(x.mean()), low, high, SEEDS_AND_TASKS if len(x) > 1 else TASKS)


def paired(a: ArrayLike, b: ArrayLike, seed: int = 0) -> Paired:
    """Compare [seeds, T] with [seeds, T] on the same tasks.

    The two sides' seeds are independent trainings, even where their numbers agree, so they are resampled
    apart; tasks are resampled together.
    """
    x, y = _matrix(a), _matrix(b)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{x.shape[1]} and {y.shape[1]} tasks: a paired comparison needs the same tasks")
    difference = float(x.mean() - y.mean())
    low, high = _interval([x, -y], np.random.default_rng(seed))
    over = SEEDS_AND_TASKS if min(len(x), len(y)) > 1 else TASKS
    return Paired(difference, low, high, _p_value(x.mean(axis=0), y.mean(axis=0)), over)


def paired_se(a: ArrayLike, b: ArrayLike) -> float:
    """Return the standard error, over tasks, of the mean difference of [T] and [T] on the same tasks."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"shapes {x.shape} and {y.shape}: a paired comparison needs the same tasks")
    return float((x - y).std(ddof=1) / np.sqrt(x.size)) if x.size > 1 else np.nan


def _matrix(accuracies: ArrayLike) -> Floats:
    x = np.asarray(accuracies, dtype=np.float64)
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"shape {x.shape}: accuracies must be [seeds, tasks] and not empty")
    return x


def _interval(sides: Sequence[Floats], rng: np.random.Generator) -> tuple[float, float]:
    n_tasks = sides[0].shape[1]
    estimate = sum(float(side.mean()) for side in sides)
    if n_tasks < 2:
        return np.nan, np.nan
    picks = rng.integers(n_tasks, size=(RESAMPLES, n_tasks))
    draws = np.full(RESAMPLES, estimate)
    for side in sides:
        seed_means = side.mean(axis=1, keepdims=True)  # [S, 1]
        resampled = np.stack([row[picks].mean(axis=1) for row in side])  # [S, RESAMPLES]
        resampled = seed_means + _stretch(n_tasks) * (resampled - seed_means)
        draws += (_seed_weights(len(side), rng) * resampled).sum(axis=0) - side.mean()
    widening = _t(_degrees_of_freedom(sides)) / stats.norm.ppf(0.5 + CONFIDENCE / 2)
    tail = (1 - CONFIDENCE) / 2
    low, high = estimate + widening * (np.quantile(draws, [tail, 1 - tail]) - estimate)
    return float(low), float(high)


def _seed_weights(n_seeds: int, rng: np.random.Generator) -> Floats:
    if n_seeds == 1:
        return np.ones((1, RESAMPLES))
    even = 1 / n_seeds
    weights = rng.multinomial(n_seeds, np.full(n_seeds, even), size=RESAMPLES).T / n_seeds
    return even + _stretch(n_seeds) * (weights - even)  # [S, RESAMPLES]


def _stretch(n: int) -> float:
    # A sample's own spread is short of the population's by this factor; with 3 seeds that is 18 %.
    return float(np.sqrt(n / (n - 1)))


def _degrees_of_freedom(sides: Sequence[Floats]) -> float:
    n_tasks = sides[0].shape[1]
    per_task = np.sum([side.mean(axis=0) for side in sides], axis=0)
    parts = [(per_task.var(ddof=1) / n_tasks, n_tasks - 1)]
    parts += [(side.mean(axis=1).var(ddof=1) / len(side), len(side) - 1) for side in sides if len(side) > 1]
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return float(n_tasks - 1)
    # Satterthwaite: the t distribution that fits a sum of estimated variances.
    return float(total**2 / sum(variance**2 / freedom for variance, freedom in parts))


def _t(freedom: float) -> float:
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom))


def _p_value(a: Floats, b: Floats) -> float:
    if len(a) < 2 or np.ptp(a - b) == 0:
        return np.nan
    return float(stats.ttest_rel(a, b).pvalue)
