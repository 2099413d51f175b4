"""Variances of crossed seeds and tasks, and the quantiles of their sums: by hand, and by other routes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats as scipy_stats

from metabench.stats import crossed
from metabench.stats.crossed import VarianceComponent

parts = some.lists(
    some.builds(VarianceComponent, some.floats(1e-6, 1e2), some.floats(1, 1e4)), min_size=1, max_size=3
)


def test_one_part_is_students() -> None:
    part = [VarianceComponent(4.0, 7)]
    assert crossed.half_width(part) == pytest.approx(2 * scipy_stats.t.ppf(0.975, 7))
    assert crossed.p_value(3.0, part) == pytest.approx(2 * scipy_stats.t.sf(1.5, 7))


@given(parts)
def test_the_quantile_of_a_sum_lies_between_those_of_its_parts(components: list[VarianceComponent]) -> None:
    quantiles = [crossed.quantile([part], 0.025) for part in components]
    assert min(quantiles) - 1e-9 <= crossed.quantile(components, 0.025) <= max(quantiles) + 1e-9


@given(parts)
def test_p_is_a_twentieth_where_the_interval_just_reaches_zero(components: list[VarianceComponent]) -> None:
    assert crossed.p_value(crossed.half_width(components), components) == pytest.approx(0.05, rel=1e-6)


def test_p_falls_with_the_distance_and_is_none_where_nothing_varies() -> None:
    components = [VarianceComponent(1.0, 2), VarianceComponent(0.5, 599)]
    p = [crossed.p_value(distance, components) for distance in (0.0, 1.0, -1.0, 5.0, 1e6, 1e60)]
    assert p[0] == 1
    assert p[1] == p[2]
    assert p[1] > p[3] > p[4] > p[5] > 0
    assert np.isnan(crossed.p_value(1.0, [VarianceComponent(0.0, 2)]))
    assert np.isnan(crossed.p_value(np.nan, components))
    assert np.isnan(crossed.p_value(1.0, [VarianceComponent(np.nan, 2)]))


def test_effects_of_seeds_alone_are_their_variance_and_noise_is_taken_off() -> None:
    effects = np.array([0.0, 1.0, 2.0, 5.0])
    tasks = np.random.default_rng(0).normal(size=30)
    clean = effects[:, None] + tasks
    assert crossed.seed_variance(clean) == pytest.approx((effects.var(ddof=1) / 4, 3))
    # Noise that leaves the means of seeds and tasks as they are changes the third mean square only.
    noise = np.random.default_rng(1).normal(size=(4, 30))
    noise += noise.mean() - noise.mean(0) - noise.mean(1, keepdims=True)
    square = np.square(noise).sum() / (3 * 29)
    assert crossed.seed_variance(clean + noise).variance == pytest.approx(
        effects.var(ddof=1) / 4 - square / 120
    )
    assert crossed.seed_variance(clean[:2] + noise[:2]).variance == pytest.approx(
        (clean + noise)[:2].mean(1).var(ddof=1) / 2
    )


def test_the_variance_of_the_mean_is_estimated_without_bias() -> None:
    rng = np.random.default_rng(2)
    n_seeds, n_tasks, variances = 4, 20, []
    for _ in range(4000):
        x = (
            rng.normal(0, 0.5, (n_seeds, 1))
            + rng.normal(0, 1, n_tasks)
            + rng.normal(0, 1, (n_seeds, n_tasks))
        )
        variances.append(crossed.total([crossed.task_variance(x.mean(0)), crossed.seed_variance(x)]))
    truth = 0.25 / n_seeds + 1 / n_tasks + 1 / (n_seeds * n_tasks)
    # Cutting at zero adds a little; 4000 draws leave 1 %.
    assert np.mean(variances) == pytest.approx(truth, rel=0.04)


def test_the_degrees_of_freedom_of_two_sides_are_welchs() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(0, 1, (5, 1)) + np.zeros((5, 9)), rng.normal(0, 3, (8, 1)) + np.zeros((8, 9))
    welch = scipy_stats.ttest_ind(x[:, 0], y[:, 0], equal_var=False)
    component = crossed.seed_variance(x, y)
    assert component.freedom == pytest.approx(welch.df)
    assert crossed.p_value(x.mean() - y.mean(), [component]) == pytest.approx(welch.pvalue, rel=1e-6)
