"""How two groups fare by predictions of a wanted outcome, from counts that are pooled over tasks.

A task of fifteen rows may hold none of a group, and a mean of its gaps would be of few tasks, each a guess.
So numerators and denominators are added up first. A pooled figure is no mean over tasks, but nearly one: each
task is given the figure that its counts add to the whole to first order, so that their mean is the pooled
figure, and their spread gives its intervals (the delta method, or infinitesimal jackknife).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from metabench.stats.crossed import Floats

COUNTS = (2, 2, 2)
"""Rows of a task by group (1: protected), label (1: wanted) and guess."""


def pooled(numerator: Floats, denominator: Floats) -> Floats | None:
    """Return what each of [..., T] tasks adds to a ratio of sums; None where nothing is counted."""
    whole = denominator.mean(axis=-1, keepdims=True)
    if not np.all(whole > 0):
        return None
    ratio = numerator.mean(axis=-1, keepdims=True) / whole
    return np.asarray(ratio + (numerator - ratio * denominator) / whole)


def gap(a: Floats | None, b: Floats | None) -> Floats | None:
    """Return what tasks add to the size of a difference of two ratios, of each seed by itself.

    Over seeds the mean is that of sizes: networks that favour opposite groups are each unfair.
    """
    if a is None or b is None:
        return None
    difference = a - b
    return np.where(difference.mean(axis=-1, keepdims=True) < 0, -difference, difference)


def ratio(a: Floats | None, b: Floats | None) -> Floats | None:
    """Return what tasks add to the smaller of two ratios over the larger; None where both are 0."""
    if a is None or b is None:
        return None
    means = [one.mean(axis=-1, keepdims=True) for one in (a, b)]
    is_less = means[0] <= means[1]
    low, high = np.where(is_less, a, b), np.where(is_less, b, a)
    least, most = np.minimum(*means), np.maximum(*means)
    if not np.all(most > 0):
        return None
    return np.asarray(least / most + (low - least - least / most * (high - most)) / most)


def measures(counts: ArrayLike) -> Mapping[str, Floats | None]:
    """Return each measure as figures of [..., T] tasks, whose mean is the pooled measure.

    Args:
        counts: [..., T, 8], or with `COUNTS` in place of the 8.
    """
    n = np.asarray(counts, dtype=np.float64)
    n = n.reshape(*n.shape[: n.ndim - (1 if n.shape[-1] == 8 else 3)], *COUNTS)
    rows, taken = n.sum((-2, -1)), n[..., 1].sum(-1)  # [..., T, group]
    of_label, right = n.sum((-3, -1)), np.stack([n[..., :, y, y].sum(-1) for y in (0, 1)], -1)
    deserving, granted = n[..., 1, :].sum(-1), n[..., 1, 1]
    rates = [pooled(taken[..., g], rows[..., g]) for g in (0, 1)]
    recalls = [pooled(right[..., y], of_label[..., y]) for y in (0, 1)]
    balanced = None if recalls[0] is None or recalls[1] is None else (recalls[0] + recalls[1]) / 2
    return {
        "accuracy": pooled(right.sum(-1), rows.sum(-1)),
        "balanced_accuracy": balanced,
        "dp_gap": gap(*rates),
        "dp_ratio": ratio(*rates),
        "eo_gap": gap(*(pooled(granted[..., g], deserving[..., g]) for g in (0, 1))),
    }


def hypervolume(points: Iterable[tuple[float, float]], chance: float) -> float:
    """Return what gaps and accuracies dominate, of all between no gap with no error, and guessing.

    Args:
        points: (gap, accuracy) each.
        chance: the accuracy of guessing; what is worse dominates nothing.
    """
    area, best, before = 0.0, chance, 0.0
    for gap, accuracy in [*sorted(points), (1.0, 0.0)]:
        area += (min(gap, 1.0) - before) * (best - chance)
        best, before = max(best, accuracy), min(gap, 1.0)
    return area / (1 - chance)


def n_defined(counts: ArrayLike) -> tuple[int, int]:
    """Return in how many of T tasks [T, 8] there are rows of both groups, and deserving ones of both."""
    n = np.asarray(counts).reshape(-1, *COUNTS)
    has_both, both_deserve = n.sum((2, 3)) > 0, n[:, :, 1].sum(2) > 0
    return int(has_both.all(1).sum()), int(both_deserve.all(1).sum())


def count(guess: ArrayLike, y: ArrayLike, group: ArrayLike) -> np.ndarray:
    """Count the rows of each task [T, n] by group, label and guess: int64 [T, 8]."""
    place = 4 * np.asarray(group) + 2 * np.asarray(y) + np.asarray(guess)
    return np.stack([(place == one).sum(1) for one in range(8)], axis=1).astype(np.int64)


def thresholds(p: Floats, y: ArrayLike, group: ArrayLike) -> tuple[float, float] | None:
    """Choose for each group above which probability the outcome is granted, to as many of both.

    Of the shares that may be granted it is the one that is right most often; None where a group is not there.
    """
    y, group = np.asarray(y), np.asarray(group)
    if not all((group == g).any() for g in (0, 1)):
        return None
    best: tuple[float, tuple[float, float]] = (-1.0, (0.5, 0.5))
    for share in np.linspace(0.02, 0.98, 97):
        cuts = tuple(float(np.quantile(p[group == g], 1 - share)) for g in (0, 1))
        right = float(((p > np.take(cuts, group)) == y).mean())
        if right > best[0]:
            best = right, (cuts[0], cuts[1])
    return best[1]
