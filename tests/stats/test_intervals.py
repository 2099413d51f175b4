"""Intervals: that they cover what they promise, and obey what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from metabench import stats


def crossed(rng: np.random.Generator, n_seeds: int, n_tasks: int, seeds_sd: float) -> np.ndarray:
    """Draw [seeds, tasks] around zero: one effect a seed, one a task, and noise."""
    seeds = rng.normal(0, seeds_sd, (n_seeds, 1))
    return seeds + rng.normal(0, 0.1, n_tasks) + rng.normal(0, 0.07, (n_seeds, n_tasks))


def test_the_interval_over_tasks_is_students() -> None:
    x = np.random.default_rng(0).uniform(size=50)
    interval = stats.mean_interval(x)
    expected = scipy_stats.t.interval(0.95, 49, x.mean(), scipy_stats.sem(x))
    assert interval[:3] == pytest.approx((x.mean(), *expected))
    assert interval.over == "tasks"


def test_with_one_seed_the_bootstrap_agrees_with_students_interval_and_says_so() -> None:
    x = np.random.default_rng(1).normal(0.6, 0.1, 400)
    interval = stats.seeds_and_tasks(x[None])
    expected = stats.mean_interval(x)
    half = expected.high - expected.mean
    # 4000 resamples leave a noise of 2 % of the half-width in each bound.
    assert interval[:3] == pytest.approx(expected[:3], abs=0.06 * half)
    assert interval.over == "tasks"
    assert stats.seeds_and_tasks(np.stack([x, x + 0.01])).over == "seeds and tasks"


def test_with_many_seeds_and_tasks_the_width_is_that_of_the_crossed_design() -> None:
    x = crossed(np.random.default_rng(2), 60, 400, 0.02)
    low, high = stats.seeds_and_tasks(x)[1:3]
    # Var(mean) = var(seed) / S + var(task) / T + var(noise) / ST, here estimated from the draws.
    expected = np.sqrt(x.mean(1).var(ddof=1) / 60 + x.mean(0).var(ddof=1) / 400)
    assert high - low == pytest.approx(2 * 1.96 * expected, rel=0.08)


def test_seeds_that_agree_do_not_shorten_the_interval_over_the_same_tasks() -> None:
    x = np.random.default_rng(3).normal(0.6, 0.1, (1, 300))
    one = stats.seeds_and_tasks(x)
    five = stats.seeds_and_tasks(np.repeat(x, 5, axis=0))
    assert five.high - five.low == pytest.approx(one.high - one.low, rel=0.06)


def test_the_order_of_tasks_and_of_seeds_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    x, y = crossed(rng, 3, 200, 0.01), crossed(rng, 4, 200, 0.01)
    order = rng.permutation(200)
    for ours, theirs in (
        (stats.seeds_and_tasks(x)[:3], stats.seeds_and_tasks(x[::-1, order])[:3]),
        (stats.paired(x, y)[:3], stats.paired(x[:, order], y[::-1, order])[:3]),
    ):
        half = (ours[2] - ours[1]) / 2
        assert ours == pytest.approx(theirs, abs=0.08 * half)
    assert stats.paired(x, y).p == pytest.approx(stats.paired(x[:, order], y[:, order]).p)


def test_swapping_the_sides_flips_the_sign_and_keeps_p() -> None:
    rng = np.random.default_rng(6)
    tasks = rng.normal(0.6, 0.1, 200)
    x, y = tasks + rng.normal(0.01, 0.05, (3, 200)), tasks + rng.normal(0, 0.05, (3, 200))
    there, back = stats.paired(x, y), stats.paired(y, x)
    half = (there.high - there.low) / 2
    assert there.difference == pytest.approx(-back.difference)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.08 * half)
    assert there.p == pytest.approx(back.p)
    assert there.p_tasks == pytest.approx(scipy_stats.ttest_rel(x.mean(0), y.mean(0)).pvalue)
    assert there.higher == pytest.approx(1 - back.higher)


def test_pairing_removes_what_tasks_have_in_common() -> None:
    rng = np.random.default_rng(7)
    tasks = rng.normal(0.6, 0.2, 300)
    x, y = tasks + rng.normal(0.02, 0.02, (3, 300)), tasks + rng.normal(0, 0.02, (3, 300))
    comparison = stats.paired(x, y)
    assert comparison.low > 0
    alone = stats.seeds_and_tasks(x)
    assert comparison.high - comparison.low < 0.2 * (alone.high - alone.low)


def test_the_numbers_of_seeds_may_differ_but_tasks_must_not() -> None:
    x = crossed(np.random.default_rng(8), 3, 40, 0.01)
    assert stats.paired(x, x[:1]).over == "tasks"
    assert stats.paired(x, x[:1], trained=(True, False)).over == "seeds and tasks"
    assert stats.paired(x, x[:2]).over == "seeds and tasks"
    with pytest.raises(ValueError, match="40 and 39 tasks"):
        stats.paired(x, x[:, 1:])
    with pytest.raises(ValueError, match=r"\[seeds, tasks\]"):
        stats.seeds_and_tasks(x[0])


def test_nan_stays_nan() -> None:
    x = crossed(np.random.default_rng(9), 3, 40, 0.01)
    broken = x.copy()
    broken[1, 7] = np.nan
    assert np.isnan(stats.mean_interval(broken[1])[:3]).all()
    assert np.isnan(stats.seeds_and_tasks(broken)[:3]).all()
    assert np.isnan(stats.seed_interval(broken)[:3]).all()
    assert np.isnan(stats.paired(x, broken)[:4]).all()
    assert np.isnan(stats.paired(x, broken)[5:]).all()
    found = stats.design([(t % 4, 4 + t % 3) for t in range(40)])
    assert np.isnan(stats.class_interval(broken, found)[:3]).all()
    assert np.isnan(stats.paired_classes(x, broken, found)[:3]).all()


def test_no_spread_gives_an_interval_of_no_length_and_no_p() -> None:
    ones = np.ones((3, 20))
    assert stats.seeds_and_tasks(ones)[:3] == (1, 1, 1)
    comparison = stats.paired(ones, ones)
    assert comparison[:3] == (0, 0, 0)
    assert np.isnan(comparison.p)
    assert np.isnan(stats.seeds_and_tasks([[0.5]])[1:3]).all()


def test_the_same_seed_gives_the_same_interval() -> None:
    x = crossed(np.random.default_rng(10), 3, 50, 0.01)
    assert stats.seeds_and_tasks(x, seed=1) == stats.seeds_and_tasks(x, seed=1)
    assert stats.seeds_and_tasks(x, seed=1) != stats.seeds_and_tasks(x, seed=2)


def test_the_paired_error_is_that_of_the_differences_mean() -> None:
    rng = np.random.default_rng(1)
    a, shared = rng.normal(size=40), rng.normal(size=40)
    interval = stats.mean_interval(a - shared)
    width = scipy_stats.t.ppf(0.975, 39) * stats.paired_se(a, shared)
    assert (interval.high - interval.low) / 2 == pytest.approx(width, rel=1e-12)
    assert stats.paired_se(a + shared, shared + 1) == pytest.approx(
        stats.paired_se(a, np.zeros(40)), rel=1e-9
    )
    assert stats.paired_se(a, a) == 0
    with pytest.raises(ValueError, match="same tasks"):
        stats.paired_se(a, shared[:20])
