"""Temperature and conformal threshold: limits in which they are known, and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import norm

from metabench import stats

REPEATS = 400


def labelled(seed: int = 0, n: int = 40_000, n_classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits, and labels with the very probabilities that they stand for."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, n_classes))
    chosen = rng.random((n, 1)) < softmax(logits, 1).cumsum(1)
    return logits, chosen.argmax(1)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_logits_that_are_too_large_by_a_factor_get_it_as_temperature(factor: float) -> None:
    logits, y = labelled()
    assert stats.temperature(factor * logits, y) == pytest.approx(factor, rel=0.02)  # of 40,000 draws


def test_a_temperature_asks_for_differences_of_logits_only() -> None:
    logits, y = labelled(n=500)
    expected = stats.temperature(logits, y)
    assert stats.temperature(log_softmax(logits, 1), y) == pytest.approx(expected, rel=1e-5)
    absent = np.concatenate([logits, np.full((500, 2), -np.inf)], 1)
    assert stats.temperature(absent, y) == pytest.approx(expected, rel=1e-5)


def test_queries_that_are_all_right_make_nobody_certain() -> None:
    """Least NLL of n right guesses alone is at temperature 0, where a probability is 1."""
    for n in (10, 1000):
        logits = np.tile([3.0, 0.0], (n, 1))
        t = stats.temperature(logits, np.zeros(n, int))
        # n guesses are right, and one more is right half the time.
        assert softmax(logits[0] / t)[0] == pytest.approx((n + 0.5) / (n + 1), rel=1e-4)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("n_tasks", [19, 99, 150])
def test_one_query_a_task_is_split_conformal_prediction(coverage: float, n_tasks: int) -> None:
    scores = np.random.default_rng(0).normal(size=n_tasks)
    place = math.ceil(coverage * (n_tasks + 1) - 1e-9)
    expected = np.sort(scores)[place - 1] if place <= n_tasks else math.inf
    assert stats.threshold(scores[:, None], coverage) == expected
    # Queries that say the same as the first say nothing.
    padded = np.concatenate([np.tile(scores[:, None], (1, 3)), np.full((n_tasks, 2), np.nan)], 1)
    assert stats.threshold(padded, coverage) == expected


def test_too_few_tasks_and_queries_without_a_number_put_every_class_into_a_set() -> None:
    scores = np.random.default_rng(0).normal(size=(20, 5))
    assert stats.threshold(scores, stats.most_coverage(20)) == scores.max()
    assert stats.threshold(scores, stats.most_coverage(20) + 0.001) == math.inf
    scores[:3] = np.inf
    assert stats.threshold(scores, 0.9) == math.inf
    assert stats.threshold(scores, 0.8) < math.inf


@pytest.mark.parametrize("task_sd", [0.0, 1.0, 3.0])
def test_a_query_of_a_new_task_is_covered_as_often_as_is_promised(task_sd: float) -> None:
    """Scores are normal around the task's own mean, so that the truth of each threshold is known."""
    rng, n_tasks = np.random.default_rng(0), 150
    covered = []
    for _ in range(REPEATS):
        scores = rng.normal(0, task_sd, (n_tasks, 1)) + rng.normal(0, 1, (n_tasks, 10))
        covered.append(norm.cdf(stats.threshold(scores, 0.9) / math.hypot(task_sd, 1)))
    se = np.std(covered) / math.sqrt(REPEATS)
    assert 0.9 - 3 * se <= np.mean(covered) <= 0.9 + 2 / (n_tasks + 1) + 3 * se
    assert se < 0.002


def test_tasks_of_many_queries_do_not_outvote_others() -> None:
    """Where hard tasks have few queries, pooling all queries would cover too little."""
    rng, n_tasks = np.random.default_rng(0), 150
    covered, pooled = [], []
    for _ in range(REPEATS):
        is_hard = rng.random(n_tasks) < 0.3
        scores = rng.normal(2.0 * is_hard[:, None], 1, (n_tasks, 20))
        scores[is_hard, 4:] = np.nan
        truth = norm.cdf(
            np.subtract.outer([stats.threshold(scores, 0.9), np.nanquantile(scores, 0.9)], [0, 2])
        )
        covered.append(truth[0] @ [0.7, 0.3])
        pooled.append(truth[1] @ [0.7, 0.3])
    assert 0.895 < np.mean(covered) < 0.92
    assert np.mean(pooled) < 0.88
