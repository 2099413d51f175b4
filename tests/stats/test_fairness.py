"""Measures of two groups: fairlearn's on the same rows, pooled over tasks, and with intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_ratio,
    equal_opportunity_difference,
    selection_rate,
)
from sklearn.metrics import balanced_accuracy_score

from metabench import stats
from metabench.stats import fairness

SAME = 1e-12  # float64: the same sums in another order
N_TASKS, N_ROWS = 30, 8


def rows(seed: int = 0, n_tasks: int = N_TASKS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw guesses, labels and groups [T, n]: the protected are fewer, and less often granted the outcome."""
    rng = np.random.default_rng(seed)
    group = (rng.random((n_tasks, N_ROWS)) < rng.beta(1, 2, (n_tasks, 1))).astype(int)
    y = (rng.random((n_tasks, N_ROWS)) < 0.6 - 0.2 * group).astype(int)
    guess = (rng.random((n_tasks, N_ROWS)) < 0.3 + 0.4 * y - 0.15 * group).astype(int)
    return guess, y, group


@pytest.mark.parametrize("seed", range(5))
def test_pooled_measures_are_those_of_fairlearn_on_all_rows(seed: int) -> None:
    guess, y, group = rows(seed)
    measured = stats.measures(stats.count(guess, y, group))
    flat = {"y_true": y.ravel(), "y_pred": guess.ravel(), "sensitive_features": group.ravel()}
    frame = MetricFrame(metrics=selection_rate, **flat)
    expected = {
        "accuracy": (guess == y).mean(),
        "balanced_accuracy": balanced_accuracy_score(y.ravel(), guess.ravel()),
        "dp_gap": frame.difference(),
        "dp_ratio": demographic_parity_ratio(**flat),
        "eo_gap": equal_opportunity_difference(**flat),
    }
    assert measured.keys() == expected.keys()
    for name, value in expected.items():
        figures = measured[name]
        assert figures is not None
        assert figures.shape == (N_TASKS,)
        assert figures.mean() == pytest.approx(value, abs=SAME), name


def test_each_measure_goes_as_its_tasks_say_to_first_order() -> None:
    """Weighing a task a little more moves the pooled measure by its figure's distance from the mean."""
    counts = stats.count(*rows()).astype(float)
    small = 1e-6  # where a central difference in float64 is off by about 1e-10
    for name, figures in stats.measures(counts).items():
        assert figures is not None
        for task in (0, 7):
            moved = []
            for sign in (1, -1):
                weighed = counts.copy()
                weighed[task] *= 1 + sign * small
                changed = stats.measures(weighed)[name]
                assert changed is not None
                moved.append(float(changed.mean()))
            slope = (moved[0] - moved[1]) / (2 * small)
            assert slope == pytest.approx((figures[task] - figures.mean()) / N_TASKS, abs=1e-8), name


def test_gaps_are_the_same_of_groups_by_their_other_names_and_none_where_nothing_is_counted() -> None:
    guess, y, group = rows()
    one, other = (stats.measures(stats.count(guess, y, g)) for g in (group, 1 - group))
    for name in ("dp_gap", "dp_ratio", "eo_gap"):
        np.testing.assert_allclose(one[name], other[name], atol=SAME)
    alone = stats.measures(stats.count(guess, y, np.zeros_like(group)))
    assert {name for name, figures in alone.items() if figures is None} == {"dp_gap", "dp_ratio", "eo_gap"}
    nobody = stats.measures(stats.count(np.zeros_like(guess), y, group))
    assert nobody["dp_ratio"] is None, "none of nobody is no ratio"
    assert nobody["dp_gap"] is not None
    assert not nobody["dp_gap"].any()


def test_the_hypervolume_is_the_area_of_what_is_dominated() -> None:
    assert stats.hypervolume([(0.0, 1.0)], 0.5) == 1
    assert stats.hypervolume([], 0.5) == stats.hypervolume([(0.3, 0.4)], 0.5) == 0
    # To the right of a gap of 0.2 a fifth over chance of a half, and from 0.5 on four fifths.
    volume = stats.hypervolume([(0.5, 0.9), (0.2, 0.6), (0.6, 0.7)], 0.5)
    assert volume == pytest.approx(0.3 * 0.2 + 0.5 * 0.8)
    assert stats.hypervolume([(0.5, 0.9), (0.2, 0.6)], 0.5) == pytest.approx(volume)


def test_tasks_without_a_group_are_counted_and_leave_the_gap_as_it_is() -> None:
    guess, y, group = rows()
    empty = np.zeros((3, 8), np.int64)
    counts = stats.count(guess, y, group)
    more = stats.measures(np.concatenate([counts, empty]))["dp_gap"]
    plain = stats.measures(counts)["dp_gap"]
    assert more is not None
    assert plain is not None
    assert more.mean() == pytest.approx(plain.mean(), abs=SAME)
    has_both = [(g == 1).any() and (g == 0).any() for g in group]
    deserve = [
        ((g == 1) & (one == 1)).any() and ((g == 0) & (one == 1)).any()
        for g, one in zip(group, y, strict=True)
    ]
    assert stats.n_defined(np.concatenate([counts, empty])) == (sum(has_both), sum(deserve))


def test_seeds_are_measured_each_by_itself() -> None:
    counts = np.stack([stats.count(*rows(seed)) for seed in range(3)])
    gaps = stats.measures(counts)["eo_gap"]
    assert gaps is not None
    for seed, figures in enumerate(gaps):
        np.testing.assert_allclose(figures, stats.measures(counts[seed])["eo_gap"], atol=SAME)


def test_networks_that_favour_opposite_groups_do_not_cancel() -> None:
    counts = stats.count(*rows(0))
    favours_others = counts.reshape(-1, 2, 4)[:, ::-1].reshape(-1, 8)
    one, both = (stats.measures(one)["dp_gap"] for one in (counts, np.stack([counts, favours_others])))
    assert one is not None
    assert both is not None
    assert both.mean() == pytest.approx(one.mean())
    assert one.mean() > 0.01


def test_intervals_of_a_pooled_gap_cover_the_truth() -> None:
    hits, n_draws = 0, 300
    truth = stats.measures(stats.count(*rows(10_000, 40_000)))["dp_gap"]
    assert truth is not None
    for seed in range(n_draws):
        figures = stats.measures(stats.count(*rows(seed, 80)))["dp_gap"]
        assert figures is not None
        interval = stats.mean_interval(figures)
        hits += interval.low <= truth.mean() <= interval.high
    # Of 300 draws at 95 %, between 92 and 98 % with a probability of 99 %.
    assert 0.915 <= hits / n_draws <= 0.985


def test_thresholds_grant_as_many_of_both_groups_and_are_the_most_accurate_of_these() -> None:
    rng = np.random.default_rng(3)
    group = rng.integers(0, 2, 4000)
    y = (rng.random(4000) < 0.6 - 0.3 * group).astype(int)
    p = 1 / (1 + np.exp(-rng.normal(2 * y - 1 - group, 1)))
    chosen = fairness.thresholds(p, y, group)
    assert chosen is not None
    rates = [(p > chosen[g])[group == g].mean() for g in (0, 1)]
    assert rates[0] == pytest.approx(rates[1], abs=2e-3)  # of 2000 rows each
    right = ((p > np.take(chosen, group)) == y).mean()
    for share in np.linspace(0.05, 0.95, 19):
        cuts = [np.quantile(p[group == g], 1 - share) for g in (0, 1)]
        assert right >= ((p > np.take(cuts, group)) == y).mean() - SAME
    assert fairness.thresholds(p, y, np.zeros_like(group)) is None
