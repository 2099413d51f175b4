"""Intervals: that they cover what they promise, and obey what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays
from scipy import stats as scipy_stats

from metabench import stats

SCALES: tuple[stats.Scale, ...] = ("share", "positive")

shapes = some.tuples(some.integers(1, 4), some.integers(2, 12))
# Sixteenths: accuracies of few queries, which are often all equal or all right.
shares = shapes.flatmap(lambda shape: arrays.arrays(float, shape, elements=some.integers(0, 16))).map(
    lambda x: x / 16
)
pairs = shapes.flatmap(
    lambda shape: some.tuples(*2 * [arrays.arrays(float, shape, elements=some.integers(0, 16))])
).map(lambda pair: (pair[0] / 16, pair[1] / 16))


def every_interval(x: np.ndarray, scale: stats.Scale) -> list[stats.Interval]:
    """Return each interval that is shown of a row."""
    classes = stats.design([(t % 3, 3 + t % 2) for t in range(x.shape[1])])
    shown = [
        stats.mean_interval(x[0], scale),
        stats.seeds_and_tasks(x, scale),
        stats.class_interval(x, classes, scale),
    ]
    return [*shown, stats.seed_interval(x, scale)] if len(x) > 1 else shown


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


@pytest.mark.parametrize("scale", [None, *SCALES])
def test_with_one_seed_only_tasks_are_left_and_that_is_said(scale: stats.Scale | None) -> None:
    x = np.random.default_rng(1).uniform(0.5, 0.7, 400)
    assert stats.seeds_and_tasks(x[None], scale) == stats.mean_interval(x, scale)
    assert stats.seeds_and_tasks(np.stack([x, x + 0.01]), scale).over == "seeds and tasks"


@given(shares)
@example(np.ones((2, 5)))
@example(np.zeros((1, 2)))
@example(np.eye(2))
def test_no_interval_of_shares_leaves_0_to_1_and_each_holds_its_mean(x: np.ndarray) -> None:
    for mean, low, high, _ in every_interval(x, "share"):
        assert 0 <= low <= mean + 1e-12
        assert mean - 1e-12 <= high <= 1
        assert low < high
    low, high = stats.bounds(float(x[0].mean()), stats.tasks_half_width(x[0], "share"), "share")
    assert 0 <= low < high <= 1


@given(shares)
def test_the_interval_of_what_is_wrong_mirrors_that_of_what_is_right(x: np.ndarray) -> None:
    for right, wrong in zip(every_interval(x, "share"), every_interval(1 - x, "share"), strict=True):
        assert (wrong.low, wrong.high) == pytest.approx((1 - right.high, 1 - right.low), abs=1e-9)


@given(shares, some.floats(0.01, 100))
def test_an_interval_of_errors_is_positive_and_keeps_its_shape_in_other_units(
    x: np.ndarray, unit: float
) -> None:
    errors = x + 1e-3 * np.arange(1, x.shape[1] + 1) + np.arange(len(x))[:, None]
    others = every_interval(unit * errors, "positive")
    for one, other in zip(every_interval(errors, "positive"), others, strict=True):
        assert 0 < one.low <= one.mean <= one.high
        assert other[:3] == pytest.approx([unit * value for value in one[:3]], rel=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_where_the_spread_is_small_each_interval_is_students(scale: stats.Scale) -> None:
    x = 0.5 + 0.02 * crossed(np.random.default_rng(12), 4, 300, 0.02)
    for ours, plain in zip(every_interval(x, scale), every_interval(x, None), strict=True):  # type: ignore[arg-type]
        assert ours[:3] == pytest.approx(plain[:3], abs=0.01 * (plain.high - plain.low))


def test_a_seed_that_differs_widens_the_interval_as_far_as_two_seeds_must() -> None:
    x = np.random.default_rng(13).uniform(0.5, 0.7, (1, 300))
    one, two = (
        stats.seeds_and_tasks(x, "share"),
        stats.seeds_and_tasks(np.stack([x[0], x[0] + 0.05]), "share"),
    )
    assert two.high - two.low > 10 * (one.high - one.low)
    # One degree of freedom: 12.7 standard errors of sqrt(2) / 2 times the distance, on the logit's scale.
    away = 12.706 * 0.025 / (two.mean * (1 - two.mean))
    reached = scipy_stats.logistic.ppf(two.high) - scipy_stats.logistic.ppf(two.mean)
    assert reached == pytest.approx(away, rel=0.02)  # tasks have a small part in it


def test_where_all_are_right_the_bound_is_the_lowest_that_would_be_so_once_in_twenty() -> None:
    for n_tasks in (2, 20, 600):
        low, high = stats.mean_interval(np.ones(n_tasks), "share")[1:3]
        assert low**n_tasks == pytest.approx(0.05)
        assert high == 1
    assert stats.bounds(1.0, stats.tasks_half_width(np.ones(20), "share"), "share") == pytest.approx(
        stats.mean_interval(np.ones(20), "share")[1:3]
    )
    fewer = stats.class_interval(np.ones((1, 30)), stats.design([(0, 1), (1, 2), (2, 0)] * 10), "share")
    assert fewer.low == pytest.approx(0.05 ** (1 / 3))  # three classes


@given(shares)
def test_a_recorded_half_width_gives_the_same_bounds_as_the_figures(x: np.ndarray) -> None:
    if np.ptp(x[0]) > 0:
        half = stats.tasks_half_width(x[0], "share")
        assert stats.bounds(float(x[0].mean()), half, "share") == stats.mean_interval(x[0], "share")[1:3]


@given(pairs, some.sampled_from([(True, True), (True, False), (False, False)]))
@example((np.ones((1, 3)), np.zeros((1, 3))), (True, True))
@example((np.ones((1, 30)), np.ones((1, 30))), (True, True))
def test_p_is_below_a_twentieth_where_the_interval_excludes_zero_and_nowhere_else(
    pair: tuple[np.ndarray, np.ndarray], trained: tuple[bool, bool]
) -> None:
    x, y = pair
    compared = stats.paired(x, y, trained, "share")
    assert -1 <= compared.low <= compared.difference + 1e-12
    assert compared.difference - 1e-12 <= compared.high <= 1
    assert (compared.p < 0.05) == (compared.low > 0 or compared.high < 0)
    design = stats.design([(t, t + 1) for t in range(x.shape[1])])
    assert stats.paired_classes(x, y, design, trained, "share").low >= -1


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
    design = stats.design([(t % 4, 4 + t % 3) for t in range(40)])
    assert np.isnan(stats.class_interval(broken, design)[:3]).all()
    assert np.isnan(stats.paired_classes(x, broken, design)[:3]).all()


def test_without_spread_or_ends_or_with_one_task_nothing_is_known() -> None:
    ones = np.ones((3, 20))
    for scale in (None, "positive"):
        assert np.isnan(stats.seeds_and_tasks(ones, scale)[1:3]).all()
    assert np.isnan(stats.paired(ones, 2 * ones).p)
    assert np.isnan(stats.seeds_and_tasks([[0.5]], "share")[1:3]).all()
    assert np.isnan(stats.seeds_and_tasks([[0.5]] * 3, "share")[1:3]).all()


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
