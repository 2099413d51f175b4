"""Intervals over pictures: what other pictures of the same classes, and not only other tasks, would change.

Where classes are few, tasks share their pictures, as support in one and as query in another, so that tasks
are not independent and an interval over them is too narrow. A picture's influence is what it moves the mean
by in both roles together (Hoeffding's projection): one that looks like no other is a hard query and a poor
example at once, so that the two add up before they are squared. Pictures are drawn within their class.

A task's own luck is in the influence of each of its support pictures; what is counted more than once is
taken off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metabench.stats.classes import Design, design
from metabench.stats.crossed import (
    Floats,
    VarianceComponent,
    matrix,
    seed_variance,
    task_variance,
    variance,
)
from metabench.stats.intervals import PICTURES, SEEDS_PICTURES, Interval, Scale, around

Places = NDArray[np.int64]

LEAST_LEFT = 0.5
"""The share of the influences' spread that no task's luck takes away: with few tasks it is known badly."""

FOLDS_OFF = 0.5
"""The share of what pictures give that is taken off the spread of folds: with all of it off, five folds
whose trainings differ much were covered 90 %."""


class Influences(NamedTuple):
    """By how much each of P pictures moved the mean over T tasks."""

    moved: Floats  # [seeds, P]
    strata: Places  # [P], whose pictures are exchangeable: those of a class, in a fold
    repeats: float  # how often a task's own luck is counted among them
    classes: Design  # of the tasks
    folds: int = 1  # as many equal stretches of the tasks, each with pictures and a training of its own


def influences(
    right: Floats, queries: Places, support: Sequence[Places], strata: Places
) -> tuple[Floats, float]:
    """Return what each picture [P] moves the mean over tasks by, in both roles, and `repeats`.

    Args:
        right: [T, Q], how right the answer to each query is; NaN where a task has fewer.
        queries: [T, Q], the number of each query's picture; any where there is none.
        support: the numbers of the support pictures of each task.
        strata: [P], the class of each picture.
    """
    asked = ~np.isnan(right)
    weights = (asked / asked.sum(1, keepdims=True) / len(right))[asked]  # of each answer in the mean
    places, answers = queries[asked], right[asked]
    mean = np.bincount(strata[places], weights * answers) / _positive(np.bincount(strata[places], weights))
    as_query = np.bincount(places, weights * (answers - mean[strata[places]]), len(strata))
    shown, present = np.concatenate(support), [np.unique(strata[one]) for one in support]
    luck = _luck(np.nanmean(right, axis=1), design([one.tolist() for one in present])) / len(right)
    as_support = np.bincount(shown, np.repeat(luck, [len(one) for one in support]), len(strata))
    n = np.bincount(strata)[strata]  # pictures of each one's class
    n_tasks = np.bincount(np.concatenate(present), minlength=strata.max() + 1)
    shots = (np.bincount(strata[shown], minlength=len(n_tasks)) / _positive(n_tasks))[strata]
    # A support picture is no query, and leaves others less room in the support: both hide a part of it.
    left = np.maximum(n - shots, 1.0)  # across domains queries are of another stratum, and none may be left
    factor = (n - 1) / left
    moved = factor * as_support + n / left * as_query
    return moved, float(np.square(factor[shown]).sum()) / len(right)


def _positive(counts: Floats | Places) -> Floats:
    return np.where(counts > 0, counts, 1.0)


def _luck(per_task: Floats, classes: Design) -> Floats:
    """Return what is left of tasks' scores [T] where the classes that each has say all that they can."""
    shares = classes.shares.toarray()
    return per_task - shares @ np.linalg.lstsq(shares, per_task, rcond=None)[0]


def of_pictures(per_task: Floats, pictures: Influences) -> VarianceComponent:
    """Return the variance that pictures and tasks [T], averaged over seeds, give to the mean."""
    alone, moved = task_variance(per_task), pictures.moved.mean(axis=0)
    parts = [moved[pictures.strata == one] for one in np.unique(pictures.strata)]
    spreads = np.array([len(part) * variance(part) for part in parts if len(part) > 1])
    free = np.array([len(part) - 1 for part in parts if len(part) > 1])
    spread, luck = spreads.sum(), np.square(_luck(per_task, pictures.classes)).sum() / len(per_task) ** 2
    whole = max(spread - (pictures.repeats - 1) * luck, LEAST_LEFT * spread)
    if not whole > alone.variance:
        return alone
    return VarianceComponent(float(whole), float(spread**2 / np.square(spreads).dot(1 / free)))


def difference_of(a: Influences, b: Influences) -> Influences:
    """Return what each picture moves the difference of two means by, averaged over seeds."""
    return a._replace(moved=(a.moved.mean(axis=0) - b.moved.mean(axis=0))[None])


def of_trainings(scores: Floats, folds: int, beside: VarianceComponent) -> list[VarianceComponent]:
    """Return the variance that training again gives to the mean of [seeds, T]; none where one has all tasks.

    Args:
        beside: what pictures and tasks give to it, which also moves folds apart.
    """
    if len(scores) > 1:
        return [seed_variance(scores)]
    if folds < 2:
        return []
    spread = variance(scores.reshape(folds, -1).mean(axis=1)) / folds
    return [VarianceComponent(max(spread - FOLDS_OFF * beside.variance, 0.0), folds - 1)]


def picture_interval(
    scores: ArrayLike, pictures: Influences, scale: Scale | None = None, is_trained: bool = True
) -> Interval:
    """Return the mean of [seeds, T] with its interval over pictures, tasks and, of several, trainings."""
    x = matrix(scores)
    pictures_part = of_pictures(x.mean(axis=0), pictures)
    trainings = of_trainings(x, pictures.folds, pictures_part) if is_trained else []
    over = SEEDS_PICTURES if trainings else PICTURES
    n_units = min(x.shape[1], len(pictures.strata))
    return around(float(x.mean()), [pictures_part, *trainings], over, scale, n_units)
