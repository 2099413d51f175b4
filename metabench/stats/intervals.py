"""Intervals of a mean over tasks, over seeds, and over both.

The bootstrap resamples seeds and tasks independently: seeds and tasks are crossed, and resampling tasks anew
within each resampled seed would pretend that S seeds saw S times as many tasks. A handful of seeds makes its
plain percentiles too short (they covered 84 % with three), so each level is scaled to its unbiased variance,
and the percentiles to the width of `crossed.half_width`. What resampling adds to that is the skew.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from metabench.stats.crossed import (
    CONFIDENCE,
    Floats,
    VarianceComponent,
    half_width,
    matrix,
    seed_variance,
    task_variance,
)

RESAMPLES = 4000  # the noise that this leaves is about 2 % of the interval's half-width
UNITS = 1000  # that are resampled at most; of more tasks, sums of some are
BLOCK = 250  # resamples that are multiplied at once; more would only take memory

TASKS = "tasks"
SEEDS = "seeds"
SEEDS_AND_TASKS = "seeds and tasks"
CLASSES = "classes and tasks"
SEEDS_CLASSES = "seeds, classes and tasks"

FEW_SEEDS = 3
"""Seeds below which an interval does not say, or says only very roughly, what training again would change."""


class Interval(NamedTuple):
    """A mean with its 95 % interval and what the interval speaks of."""

    mean: float
    low: float
    high: float
    over: str  # what would be drawn again: tasks: these very trained networks; seeds: training again


def mean_interval(scores: ArrayLike) -> Interval:
    """Return the mean over tasks [T] with its t interval."""
    x = np.asarray(scores, dtype=np.float64)
    return around(float(x.mean()), [task_variance(x)], TASKS)


def seed_interval(scores: ArrayLike) -> Interval:
    """Return the mean of [seeds, T] with the t interval of the seeds' means, on these very tasks."""
    means = matrix(scores).mean(axis=1)
    return around(float(means.mean()), [task_variance(means)], SEEDS)  # the spread of a mean, here over seeds


def seeds_and_tasks(scores: ArrayLike, seed: int = 0) -> Interval:
    """Return the mean of [seeds, T] with its bootstrap interval; one seed leaves only tasks to resample."""
    x = matrix(scores)
    n_seeds, n_tasks = x.shape
    mean = float(x.mean())
    over = SEEDS_AND_TASKS if n_seeds > 1 else TASKS
    if n_tasks < 2:
        return Interval(mean, np.nan, np.nan, over)
    per_task = x.mean(axis=0)
    parts = [task_variance(per_task)]
    draws = _resampled(per_task - mean, parts[0], seed)
    if n_seeds > 1:
        parts.append(seed_variance(x))
        draws = draws + _resampled(x.mean(axis=1) - mean, parts[1], seed + 1)
    spread = float(np.sqrt(sum(part.variance for part in parts)))
    if spread == 0:
        return Interval(mean, mean, mean, over)
    normal = float(special.ndtri(0.5 + CONFIDENCE / 2)) * spread
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail]) * (half_width(parts) / normal)
    return Interval(mean, mean + float(low), mean + float(high), over)


def around(mean: float, parts: list[VarianceComponent], over: str) -> Interval:
    """Return a mean with the interval that the parts of its variance give."""
    half = half_width(parts)
    return Interval(mean, mean - half, mean + half, over)


def _resampled(effects: Floats, part: VarianceComponent, seed: int) -> Floats:
    """Resample centred effects, scaled to a variance of their mean, and return the means [RESAMPLES]."""
    n = len(effects)
    if n > UNITS:  # sums of a few tasks have the skew of the mean as well, and the variance is set below
        effects = np.add.reduceat(effects, np.arange(UNITS) * n // UNITS)
    counts = _counts(len(effects), seed)
    narrow = effects.astype(np.float32)  # centred, so seven digits are plenty
    blocks = [counts[i : i + BLOCK].astype(np.float32) @ narrow for i in range(0, RESAMPLES, BLOCK)]
    plain = float(np.square(effects).sum())  # the variance of what is resampled here
    if plain == 0:
        return np.zeros(RESAMPLES)
    return np.concatenate(blocks).astype(np.float64) * float(np.sqrt(part.variance / plain))


@functools.lru_cache(maxsize=4)
def _counts(n: int, seed: int) -> NDArray[np.uint8]:
    """Draw how often each of n is in each resample: [RESAMPLES, n], the same for all rows of a board."""
    rng = np.random.default_rng(seed)
    counts = np.empty((RESAMPLES, n), np.uint8)
    for row in counts:
        row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
    return counts
