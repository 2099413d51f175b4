"""A Gaussian process over learning curves of settings: arrays in, arrays out.

A score of a setting x after t tasks, with u = log(t / full budget) / log 27, is taken to be

    y(x, u) = m + s u + g(x) + h(x) (u - u0) + a + w(u) + noise

with m and s common to all, g and h smooth over settings by one kernel, an offset a and a random walk w in log
tasks that are each trial's own, and independent noise of a variance that is given. The standard deviations
below are in units of a scale; by how much all variances are to be multiplied, the marginal likelihood chooses
out of a few factors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.special import ndtr

Array = NDArray[np.float64]

LEVEL, TREND, SETTING, SLOPE, OFFSET, WALK = 1.0, 2.0, 1.0, 0.7, 0.15, 0.4
"""Standard deviations of m, s, g, h, a, and of w at the full budget from a 27th of it."""

PIVOT = -1.0
"""u0: where g alone tells settings apart."""

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""What the variances may be multiplied with."""

LENGTH_LOG, LENGTH_LINEAR = 1.4, 0.4
"""Lengthscales of the kernel of settings: nats, and a share of the range."""

FLOOR = 0.8
"""Correlation of settings that differ in a choice; of those that differ in a whole number it is more."""


class Fit(NamedTuple):
    """A posterior, ready to be asked."""

    factor: float  # of the variances
    root: Array  # [n, n] lower Cholesky factor of the covariance of what was observed
    whitened: Array  # [n] root^-1 y
    log_likelihood: float


WALKED_FROM = 1.5
"""Random walks start at u = -1.5, a 140th of the budget, where no rung is below."""

DRAWS = 512


def log_tasks(tasks: Sequence[float], full: float) -> Array:
    """Return u: 0 at the full budget, -1 at a 27th of it."""
    return np.asarray(np.log(np.asarray(tasks, dtype=np.float64) / full) / math.log(27))


def similarity(a: Array, b: Array, floors: Array) -> Array:
    """Return the kernel of settings.

    Args:
        a, b: coordinates in lengthscales, [n, D] and [m, D].
        floors: [D] what remains of the correlation however far two are apart in a coordinate.
    """
    smooth = floors == 0
    squared = np.zeros((len(a), len(b)))
    for k in np.flatnonzero(smooth):
        squared += (a[:, k, None] - b[None, :, k]) ** 2
    result = np.exp(-0.5 * squared)
    if not smooth.all():  # few values, which many settings share
        rows, of_a = _distinct(a[:, ~smooth])
        columns, of_b = _distinct(b[:, ~smooth])
        apart = (rows[:, None, :] - columns[None, :, :]) ** 2
        left = floors[~smooth] + (1 - floors[~smooth]) * np.exp(-0.5 * apart)
        result *= left.prod(axis=2)[np.ix_(of_a, of_b)]
    return np.asarray(result)


def _distinct(points: Array) -> tuple[Array, NDArray[np.int64]]:
    """Return the points that differ, and which of them each is: `np.unique` of rows sorts them as bytes."""
    which, first = np.zeros(len(points), dtype=np.int64), np.zeros(min(len(points), 1), dtype=np.int64)
    for column in points.T:
        values, place = np.unique(column, return_inverse=True)
        _, first, which = np.unique(which * len(values) + place, return_index=True, return_inverse=True)
    return points[first], which


def covariance(kernel: Array, same: NDArray[np.bool_], u: Array, v: Array) -> Array:
    """Return the prior covariance of scores without noise, in squares of the scale.

    Args:
        kernel: similarity of the settings; all have one shape, or shapes that broadcast.
        same: whether two are of one trial.
        u, v: log tasks.
    """
    u, v = np.broadcast_arrays(u, v)
    settings = kernel * (SETTING**2 + SLOPE**2 * (u - PIVOT) * (v - PIVOT))
    table = np.asarray(LEVEL**2 + TREND**2 * u * v + settings)
    walked = np.maximum(np.minimum(u[same], v[same]) + WALKED_FROM, 0.0)
    table[same] += OFFSET**2 + WALK**2 * walked  # few of a table are
    return table


def fit(prior: Array, y: Array, noise: Array) -> Fit:
    """Condition on scores, with the factor of the variances that makes them most likely.

    Args:
        prior: [n, n] covariance of what is observed, without noise.
        y: [n] the scores minus their prior mean.
        noise: [n] variances.
    """
    return max((condition(factor, prior, y, noise) for factor in FACTORS), key=lambda one: one.log_likelihood)


def condition(factor: float, prior: Array, y: Array, noise: Array) -> Fit:
    """Condition on scores with a given factor of the variances; see `fit`."""
    matrix = factor * prior
    matrix[np.diag_indices_from(matrix)] += noise
    root = cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    whitened = solve_triangular(root, y, lower=True, check_finite=False)
    # log N(y; 0, L L') = -|L^-1 y|^2 / 2 - sum log L_ii - n/2 log 2 pi
    likelihood = (
        -0.5 * whitened @ whitened - np.log(np.diag(root)).sum() - 0.5 * len(y) * math.log(2 * math.pi)
    )
    return Fit(factor, root, whitened, float(likelihood))


def mean(one: Fit, cross: Array) -> Array:
    """Return the posterior mean, [m], where the prior covariances with what was observed are [n, m]."""
    weights = solve_triangular(one.root, one.whitened, lower=True, trans="T", check_finite=False)
    return np.asarray(one.factor * (weights @ cross))


def whiten(one: Fit, cross: Array) -> Array:
    """Return L^-1 k for the prior covariances [n, m] of what was observed with what is asked for."""
    return np.asarray(solve_triangular(one.root, one.factor * cross, lower=True, check_finite=False))


def expected_improvement(gap: Array, spread: Array) -> Array:
    """Return E max(0, d) for d normal with mean `gap` and standard deviation `spread`."""
    safe = np.maximum(spread, 1e-300)
    z = np.clip(gap / safe, -40, 40)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return np.where(spread > 0, gap * ndtr(z) + spread * density, np.maximum(gap, 0.0))


def expected_best(mean: Array, spread: Array) -> float:
    """Return E max(0, f_1, ...) for jointly normal f of mean [n] and covariance [n, n], by fixed draws."""
    values, vectors = np.linalg.eigh(spread)
    draws = np.random.default_rng(0).standard_normal((DRAWS, len(mean)))
    f = mean + draws @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    return float(np.maximum(f.max(axis=1), 0.0).mean())
