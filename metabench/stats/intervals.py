"""Intervals of a mean over tasks, over seeds, and over both, that end where the figure itself does.

The bounds are symmetric on a scale without ends: a share's logit, a positive number's logarithm. The delta
method carries the standard error there, so in the middle, where it is small, they are Student's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from metabench.stats.crossed import (
    CONFIDENCE,
    VarianceComponent,
    half_width,
    matrix,
    seed_variance,
    task_variance,
    total,
)

Scale = Literal["share", "positive"]
"""Between 0 and 1, or at least 0; None in its place: no ends are known."""

TASKS = "tasks"
SEEDS = "seeds"
SEEDS_AND_TASKS = "seeds and tasks"
CLASSES = "classes and tasks"
SEEDS_CLASSES = "seeds, classes and tasks"
PICTURES = "pictures"
SEEDS_PICTURES = "seeds and pictures"

MOST = 600.0  # of a logarithm; beyond, numbers end

FEW_SEEDS = 3
"""Seeds below which an interval does not say, or says only very roughly, what training again would change."""


class Interval(NamedTuple):
    """A mean with its 95 % interval and what the interval speaks of."""

    mean: float
    low: float
    high: float
    over: str  # what would be drawn again: tasks: these very trained networks; seeds: training again


def mean_interval(scores: ArrayLike, scale: Scale | None = None) -> Interval:
    """Return the mean over tasks [T] with its interval; Student's where no scale is said."""
    x = np.asarray(scores, dtype=np.float64)
    return around(float(x.mean()), [task_variance(x)], TASKS, scale, len(x))


def tasks_half_width(scores: ArrayLike, scale: Scale | None) -> float:
    """Return the half-width over tasks [T] that `bounds` needs: Student's, of equals half their width."""
    x = np.asarray(scores, dtype=np.float64)
    parts = [task_variance(x)]
    if total(parts) > 0:
        return half_width(parts)
    _, low, high, _ = mean_interval(x, scale)
    return (high - low) / 2


def seed_interval(scores: ArrayLike, scale: Scale | None = None) -> Interval:
    """Return the mean of [seeds, T] with the interval of the seeds' means, on these very tasks."""
    # The spread of a mean, here over seeds.
    return mean_interval(matrix(scores).mean(axis=1), scale)._replace(over=SEEDS)


def seeds_and_tasks(scores: ArrayLike, scale: Scale | None = None) -> Interval:
    """Return the mean of [seeds, T] with its interval over both; one seed leaves only tasks."""
    x = matrix(scores)
    parts = [task_variance(x.mean(axis=0))]
    if len(x) > 1:
        parts.append(seed_variance(x))
    return around(float(x.mean()), parts, SEEDS_AND_TASKS if len(x) > 1 else TASKS, scale, x.shape[1])


def around(
    mean: float, parts: Sequence[VarianceComponent], over: str, scale: Scale | None, n_units: float
) -> Interval:
    """Return a mean with the interval that the parts of its variance give.

    Args:
        n_units: how many independent figures it is the mean of: all that counts where they are equal.
    """
    if total(parts) == 0:
        low, high = of_equals(mean, n_units, 0, 1) if scale == "share" else (np.nan, np.nan)
    else:
        low, high = bounds(mean, half_width(parts), scale)
    return Interval(mean, low, high, over)


def bounds(mean: float, half: float, scale: Scale | None) -> tuple[float, float]:
    """Return the bounds of an interval whose half-width would be `half` on a scale without ends."""
    if scale is None:
        return mean - half, mean + half
    if scale == "share" and mean in (0, 1):
        return max(0.0, mean - 2 * half), min(1.0, mean + 2 * half)  # all of the width lies on one side
    if scale == "positive":
        factor = float(np.exp(min(half / mean, MOST))) if mean > 0 else np.nan
        return mean / factor, mean * factor
    place, away = scipy.special.logit(mean), half / (mean * (1 - mean))
    return float(scipy.special.expit(place - away)), float(scipy.special.expit(place + away))


def of_equals(value: float, n_units: float, least: float, most: float) -> tuple[float, float]:
    """Return the bounds of a mean of which n independent figures are all equal.

    With 95 % confidence at most a share q = 1 - 0.05 ** (1 / n) of all others differs from them, by as much
    as there is room for. This holds for every distribution between `least` and `most`.
    """
    others = -float(np.expm1(np.log1p(-CONFIDENCE) / n_units))
    return value - others * (value - least), value + others * (most - value)
