"""Comparisons on the same tasks: a difference, its test, many tests at once, and what they leave of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from metabench.stats.classes import Design, of_classes
from metabench.stats.crossed import (
    Floats,
    VarianceComponent,
    half_width,
    matrix,
    p_value,
    seed_variance,
    task_variance,
    total,
)
from metabench.stats.intervals import (
    CLASSES,
    PICTURES,
    SEEDS_AND_TASKS,
    SEEDS_CLASSES,
    SEEDS_PICTURES,
    TASKS,
    Interval,
    Scale,
    of_equals,
)
from metabench.stats.pictures import Influences, difference_of, of_pictures, of_trainings

ENOUGH_SEEDS = 5
TESTS_OFF = 0.5
"""The share of the noise that is taken off a difference, and the seeds a side from which on. With all of it
off p < 0.05 was right, but p < 0.002, as of the surest of 28 pairs, came 3 times too often of five seeds and
6 times of three; with none off, five seeds and more would say less than they can."""


class Paired(NamedTuple):
    """How much higher one setting is than another on the same tasks."""

    difference: float
    low: float
    high: float
    p: float  # two-sided, below 0.05 where the interval excludes zero
    over: str  # as in Interval; "seeds and tasks" only where both sides have several seeds
    p_tasks: float  # t test over tasks, or pictures, of these very networks: blind to training again
    higher: float  # probability that a seed of the first is higher on a task than one of the second


def paired(
    a: ArrayLike,
    b: ArrayLike,
    trained: tuple[bool, bool] = (True, True),
    scale: Scale | None = None,
    pictures: tuple[Influences, Influences] | None = None,
) -> Paired:
    """Compare [seeds, T] with [seeds, T] on the same tasks.

    The two sides' seeds are independent trainings, even where their numbers agree.

    Args:
        trained: False for a side that training again could not change, such as a baseline.
        scale: of the figures that are compared.
        pictures: what those of few classes, which tasks share, moved each side by.
    """
    x, y = _same_tasks(a, b)
    difference = float(x.mean() - y.mean())
    per_task = x.mean(axis=0) - y.mean(axis=0)
    seeds = _seed_parts(x, y, trained)
    n_units, over = len(per_task), (TASKS, SEEDS_AND_TASKS)
    parts = [task_variance(per_task), *seeds]
    if pictures is not None:
        apart = difference_of(*pictures)
        n_units, over = min(n_units, len(apart.strata)), (PICTURES, SEEDS_PICTURES)
        parts = [of_pictures(per_task, apart)]
        parts += seeds or (of_trainings(per_task[None], apart.folds, parts[0]) if any(trained) else [])
    low, high = _apart(difference, parts, scale, n_units)
    p, p_tasks = (_p_apart(difference, some, scale, n_units) for some in (parts, parts[:1]))
    return Paired(difference, low, high, p, over[len(parts) > 1], p_tasks, _higher(x, y))


def paired_classes(
    a: ArrayLike,
    b: ArrayLike,
    classes: Design,
    trained: tuple[bool, bool] = (True, True),
    scale: Scale | None = None,
) -> Interval:
    """Return the difference of [seeds, T] and [seeds, T] with its interval over classes, tasks and seeds."""
    x, y = _same_tasks(a, b)
    difference = float(x.mean() - y.mean())
    seeds = _seed_parts(x, y, trained)
    parts = [of_classes(x.mean(axis=0) - y.mean(axis=0), classes), *seeds]
    low, high = _apart(difference, parts, scale, classes.n_units)
    return Interval(difference, low, high, SEEDS_CLASSES if seeds else CLASSES)


def _apart(
    difference: float, parts: Sequence[VarianceComponent], scale: Scale | None, n_units: float
) -> tuple[float, float]:
    """Return the bounds of a difference: between -1 and 1 where it is one of shares."""
    if total(parts) == 0:
        return of_equals(difference, n_units, -1, 1) if scale == "share" else (np.nan, np.nan)
    half = half_width(parts)
    low, high = difference - half, difference + half
    return (max(low, -1.0), min(high, 1.0)) if scale == "share" else (low, high)


def _p_apart(
    difference: float, parts: Sequence[VarianceComponent], scale: Scale | None, n_tasks: int
) -> float:
    """Return the two-sided p at which the bounds of a difference just reach zero."""
    if total(parts) > 0 or scale != "share":
        return p_value(difference, parts)
    return float((1 + abs(difference)) ** -n_tasks)  # where `of_equals` reaches it


def paired_se(a: ArrayLike, b: ArrayLike) -> float:
    """Return the standard error, over tasks, of the mean difference of [T] and [T] on the same tasks."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"shapes {x.shape} and {y.shape}: a paired comparison needs the same tasks")
    return float((x - y).std(ddof=1) / np.sqrt(x.size)) if x.size > 1 else np.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm 1979); NaN is no test and stays NaN."""
    p = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted.tolist()


def p_best(p_behind: ArrayLike, n_rows: int) -> list[float]:
    """Return, for each row, the p of its being the best: at most 0.05 of boards reject the true best.

    A row is given up where some other is surely better, each one-sided test adjusted for the n - 1 others
    (multiple comparisons with the best; Hsu's idea with Bonferroni's bound). That holds although the rows
    that do best are picked by the same data: an error needs one of the n - 1 tests of the true best to fail,
    and which row that is was fixed before anything was seen. So the rows that are left hold the best one
    with 95 % confidence. Naming one of them as the best would be another matter.

    Args:
        p_behind: [rows, rows], one-sided p of the first being no worse than the second; NaN: not tested.
        n_rows: how many rows are distinct.
    """
    p = np.asarray(p_behind, dtype=np.float64)
    if n_rows == 1:
        return [1.0] * len(p)
    least = np.where(np.isnan(p).all(axis=1), np.nan, np.fmin.reduce(p, axis=1, initial=np.inf))
    return np.minimum(1.0, (n_rows - 1) * least).tolist()


def rank_ranges(is_better: ArrayLike) -> list[tuple[int, int]]:
    """Return the best and the worst rank that each row may have.

    Args:
        is_better: [rows, rows], whether the first is better than the second beyond doubt.
    """
    better = np.asarray(is_better, dtype=bool)
    n_rows = len(better)
    best, worst = 1 + better.sum(axis=0), n_rows - better.sum(axis=1)
    return [(int(low), int(high)) for low, high in zip(best, worst, strict=True)]


def _same_tasks(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    x, y = matrix(a), matrix(b)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{x.shape[1]} and {y.shape[1]} tasks: a paired comparison needs the same tasks")
    return x, y


def _seed_parts(x: Floats, y: Floats, trained: tuple[bool, bool]) -> list[VarianceComponent]:
    """Return the variance of both sides' seeds, or none where a trained side has one seed only."""
    sides = [side for side, is_trained in zip((x, y), trained, strict=True) if is_trained]
    if not sides or any(len(side) < 2 for side in sides):
        return []
    noise_off = TESTS_OFF if all(len(side) >= ENOUGH_SEEDS for side in sides) else 0.0
    return [seed_variance(*sides, noise_off=noise_off)]


def _higher(x: Floats, y: Floats) -> float:
    if np.isnan(x).any() or np.isnan(y).any():
        return np.nan
    against = np.stack([np.where(one > y, 1.0, np.where(one == y, 0.5, 0.0)).mean() for one in x])
    return float(against.mean())
