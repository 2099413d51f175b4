"""How far probabilities can be trusted: a temperature, and a threshold for sets that hold the right class."""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike

from metabench.stats.crossed import Floats

MOST = 100.0
"""Temperature that is not exceeded; its inverse is the least."""

ROUNDING = 1e-9  # of sums of weights


def temperature(log_p: ArrayLike, labels: ArrayLike) -> float:
    """Return the number that logits are to be divided by for the least mean NLL.

    Queries that are all classified rightly would ask for 0, and so for certainty. Therefore one query more
    counts, whose label is any class, with each as likely.

    Args:
        log_p: logits, or logarithms of probabilities, [n, N]; -inf of classes that a query's task lacks.
        labels: the right class of each query, [n].
    """
    logits, y = np.asarray(log_p, dtype=np.float64), np.asarray(labels)
    is_class = logits > -np.inf
    right = logits[np.arange(len(y)), y]
    any_class = np.mean(logits, axis=1, where=is_class)

    def nll(log_t: float) -> float:
        scaled = np.where(is_class, logits, -np.inf) / math.exp(log_t)
        total = np.logaddexp.reduce(scaled, axis=1)
        rights = (total - right / math.exp(log_t)).sum()
        return float(rights + (total - any_class / math.exp(log_t)).mean())

    bounds = (-math.log(MOST), math.log(MOST))
    fit = scipy.optimize.minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-7})
    return math.exp(fit.x)


def threshold(scores: ArrayLike, coverage: float) -> float:
    """Return the score that a new query's does not exceed with the probability that is asked for.

    Hierarchical conformal prediction: tasks are exchangeable, each weighs the same however many queries it
    has, and the new task's score may be infinite. With K tasks the probability of a query of a new task is at
    least the coverage, and at most 2 / (K + 1) above it where no scores are equal. With one query a task it
    is split conformal prediction.

    Lee, Barber and Willett 2023, arXiv 2306.06342.

    Args:
        scores: of each query, higher where its right class looks worse, [K, n]; NaN beyond a task's queries.
        coverage: between 0 and 1; the threshold is infinite where K tasks are too few to tell.
    """
    s: Floats = np.asarray(scores, dtype=np.float64)
    is_query = ~np.isnan(s)
    weights = is_query / (is_query.sum(1, keepdims=True) * (len(s) + 1))
    order = np.argsort(s[is_query], kind="stable")
    reached = np.cumsum(weights[is_query][order]) >= coverage - ROUNDING
    return float(s[is_query][order][reached.argmax()]) if reached.any() else math.inf


def most_coverage(n_tasks: int) -> float:
    """Return the highest coverage for which so many tasks give a finite threshold."""
    return n_tasks / (n_tasks + 1)
