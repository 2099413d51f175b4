"""Intervals over classes: what other test classes, and not only other tasks of these, would change.

Tasks that share a class are not independent, and there are far fewer classes than tasks. A task's score is
taken as the mean of effects of its classes, plus what is its own. How much more alike tasks are that share
classes gives an unbiased estimate of the variance of these effects (MINQUE with zero prior weight, whatever
the design), and the mean gets the variance that they give it. Satterthwaite's degrees of freedom follow
from the variances of both quadratic forms.

Resampling classes outright is no way: of 5-way tasks, one in ten consists of resampled classes only, each in
another multiple, so the few that are left say more of themselves than of their classes. Over 600 tasks such
an interval was 2.5 times (69 classes) to 4 times (423) as wide as it had to be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from metabench.stats.crossed import ROUNDING, Floats, VarianceComponent, matrix, seed_variance, task_variance
from metabench.stats.intervals import CLASSES, SEEDS_CLASSES, Interval, Scale, around

RARE = 30
"""Right answers that each class and pair is given besides: bad luck with a rare one is not the worst."""


def weighed(times: ArrayLike, chances: ArrayLike) -> Floats:
    """Return how often, of so many chances, something went wrong, as far as their number can tell."""
    return np.asarray(times, dtype=np.float64) / (np.asarray(chances) + RARE)


class Design(NamedTuple):
    """Which classes each of T tasks has, and what its unbiased estimates rest on."""

    shares: sparse.csr_array  # [T, classes], rows of equal shares that add up to 1
    traces: tuple[float, float, float, float]  # of the powers of the centred shares' cross product
    weight: float  # of the variance of one class's effect in that of the mean

    @property
    def n_classes(self) -> int:
        """Return how many classes occur."""
        return int(self.shares.shape[1])

    @property
    def n_units(self) -> float:
        """Return how many classes of equal weight, or tasks, would say as much of a mean."""
        return min(float(self.shares.shape[0]), 1 / self.weight)


def design(classes: Sequence[Sequence[int]]) -> Design:
    """Describe tasks by their classes; tasks may have different numbers of them."""
    columns = {name: column for column, name in enumerate(sorted({c for task in classes for c in task}))}
    rows = np.repeat(np.arange(len(classes)), [len(task) for task in classes])
    places = np.array([columns[c] for task in classes for c in task])
    values = np.repeat([1 / len(task) for task in classes], [len(task) for task in classes])
    shares = sparse.csr_array((values, (rows, places)), shape=(len(classes), len(columns)))
    sums = np.asarray(shares.sum(axis=0)).ravel()
    return Design(shares, _traces(shares, sums), float(np.square(sums).sum()) / len(classes) ** 2)


def _traces(shares: sparse.csr_array, sums: Floats) -> tuple[float, float, float, float]:
    """Return the traces of the first powers of A - u u' / T: A the shares' cross product, u their sums.

    A stays sparse where there are as many classes as tasks; the centred matrix would not.
    """
    n = shares.shape[0]
    a = (shares.T @ shares).tocsr()
    twice = a @ a
    plain = (a.trace(), (a * a).sum(), (twice * a).sum(), (twice * twice).sum())
    v = a @ sums
    w = a @ v
    u0, u1, u2, u3 = sums @ sums / n, sums @ v / n, v @ v / n, v @ w / n  # u' A^k u / T
    return (
        float(plain[0] - u0),
        float(plain[1] - 2 * u1 + u0**2),
        float(plain[2] - 3 * u2 + 3 * u1 * u0 - u0**3),
        float(plain[3] - 4 * u3 + 4 * u2 * u0 + 2 * u1**2 - 4 * u1 * u0**2 + u0**4),
    )


def of_classes(per_task: Floats, classes: Design) -> VarianceComponent:
    """Return the variance that classes and tasks [T], averaged over seeds, give to the mean."""
    n_tasks = len(per_task)
    alone = task_variance(per_task)
    t1, t2, t3, t4 = classes.traces
    free = n_tasks - 1
    determinant = t2 * free - t1**2
    # Where no class is in two tasks, tasks say all.
    if n_tasks < 3 or alone.variance == 0 or determinant <= 1e-9 * t2 * free:
        return alone
    r = per_task - per_task.mean()
    shared, single = float(np.square(classes.shares.T @ r).sum()), float(np.square(r).sum())
    effect = (shared * free - single * t1) / determinant
    noise = (single * t2 - shared * t1) / determinant
    if effect <= ROUNDING * noise:
        return alone
    variance = effect * classes.weight + noise / n_tasks
    # The variance as a sum of both forms, whose own (co)variances follow from normal effects.
    a = (classes.weight * free - t1 / n_tasks) / determinant
    b = (t2 / n_tasks - classes.weight * t1) / determinant
    spread = 2 * (
        a**2 * (effect**2 * t4 + 2 * effect * noise * t3 + noise**2 * t2)
        + 2 * a * b * (effect**2 * t3 + 2 * effect * noise * t2 + noise**2 * t1)
        + b**2 * (effect**2 * t2 + 2 * effect * noise * t1 + noise**2 * free)
    )
    return VarianceComponent(variance, max(1.0, 2 * variance**2 / spread))


def class_interval(scores: ArrayLike, classes: Design, scale: Scale | None = None) -> Interval:
    """Return the mean of [seeds, T] with its interval over classes, tasks and, of several, seeds."""
    x = matrix(scores)
    if x.shape[1] != classes.shares.shape[0]:
        raise ValueError(f"{x.shape[1]} tasks, and classes of {classes.shares.shape[0]}")
    parts = [of_classes(x.mean(axis=0), classes)]
    if len(x) > 1:
        parts.append(seed_variance(x))
    over = SEEDS_CLASSES if len(x) > 1 else CLASSES
    return around(float(x.mean()), parts, over, scale, classes.n_units)


def kappa(counts: ArrayLike) -> float:
    """Return Cohen's kappa of counts [O, O] by label and guess: 1: all right; 0: as by chance."""
    shares = np.asarray(counts, np.float64) / np.sum(counts)
    by_chance = float(shares.sum(1) @ shares.sum(0))  # guesses that know only how common each is
    return (float(np.trace(shares)) - by_chance) / (1 - by_chance) if by_chance < 1 else math.nan
