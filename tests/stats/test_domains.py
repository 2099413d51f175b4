"""Intervals over domains: what they are of, and that they cover what they promise where there are few."""

from __future__ import annotations

import numpy as np
import pytest

from metabench import stats
from metabench.stats.domains import of_domains

N_DOMAINS, N_TASKS = 3, 90
DOMAINS = [7 * (task % N_DOMAINS) for task in range(N_TASKS)]


def scored(rng: np.random.Generator, spread: float, n_seeds: int = 1) -> np.ndarray:
    effects = dict(zip(sorted(set(DOMAINS)), rng.normal(0, spread, N_DOMAINS), strict=True))
    hard = np.array([effects[one] for one in DOMAINS]) + rng.normal(0, 0.1, N_TASKS)
    return 0.6 + hard + rng.normal(0, 0.01, (n_seeds, N_TASKS))


def test_of_domains_with_as_many_tasks_the_interval_is_student_s_over_their_means() -> None:
    x = scored(np.random.default_rng(0), 0.05)
    means = [x[0, np.array(DOMAINS) == one].mean() for one in sorted(set(DOMAINS))]
    assert of_domains(x, DOMAINS)[0] == pytest.approx(means)
    ours, plain = stats.domain_interval(x, DOMAINS), stats.mean_interval(means)
    assert ours[:3] == pytest.approx(plain[:3])
    assert ours.over == "domains"
    assert stats.domain_interval(np.repeat(x, 2, 0), DOMAINS).over == "seeds and domains"


def test_the_mean_is_of_all_tasks_and_names_and_order_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    x, uneven = scored(rng, 0.05, 3), [0] * 50 + [1] * 30 + [2] * 10
    ours = stats.domain_interval(x, uneven)
    assert ours.mean == pytest.approx(x.mean())
    order = rng.permutation(N_TASKS)
    renamed = [100 - uneven[task] for task in order]
    assert stats.domain_interval(x[:, order], renamed)[:3] == pytest.approx(ours[:3])


def test_of_a_domain_for_each_task_it_is_the_interval_over_tasks() -> None:
    x = scored(np.random.default_rng(2), 0.05)
    assert stats.domain_interval(x, range(N_TASKS))[:3] == pytest.approx(stats.mean_interval(x[0])[:3])


def test_three_domains_are_enough_to_cover_and_resampling_them_is_not() -> None:
    rng = np.random.default_rng(3)
    n_covered = n_resampled = 0
    for _ in range(1000):
        x = scored(rng, 0.05)
        interval, means = stats.domain_interval(x, DOMAINS), of_domains(x, DOMAINS)[0]
        n_covered += interval.low <= 0.6 <= interval.high
        drawn = means[rng.integers(0, N_DOMAINS, (200, N_DOMAINS))].mean(1)
        n_resampled += np.quantile(drawn, 0.025) <= 0.6 <= np.quantile(drawn, 0.975)
    assert abs(n_covered / 1000 - 0.95) < 0.025  # standard deviation 0.007
    assert n_resampled / 1000 < 0.8


def test_a_difference_of_two_that_domains_move_alike_is_not_widened_by_them() -> None:
    rng = np.random.default_rng(4)
    hard = scored(rng, 0.3)
    x, y = (hard + shift + rng.normal(0, 0.02, (3, N_TASKS)) for shift in (0.05, 0.0))
    difference, alone = stats.paired_domains(x, y, DOMAINS), stats.domain_interval(x, DOMAINS)
    assert difference.mean == pytest.approx(x.mean() - y.mean())
    assert difference.high - difference.low < 0.3 * (alone.high - alone.low)
    assert difference.over == "seeds and domains"


def test_domains_of_other_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="90 tasks, and domains of 2"):
        stats.domain_interval(np.zeros((1, N_TASKS)), [0, 1])
