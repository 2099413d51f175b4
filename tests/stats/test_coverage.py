"""Intervals cover what they promise on results of known truth; `benchmarks/coverage.py` has the full table.

With n draws of a 95 % event, 3 standard errors are 3 * sqrt(0.95 * 0.05 / n): 2.7 points with 600.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from metabench import stats

REPEATS = 600
LEAST, MOST = 0.923, 0.977


@pytest.mark.parametrize(
    ("kind", "n_seeds", "seed_sd"),
    [
        ("normal", 1, 0.0),
        ("normal", 3, 0.005),
        ("normal", 3, 0.02),
        ("normal", 10, 0.005),
        ("accuracy", 3, 0.005),
        ("normal", 2, 0.01),
        ("ceiling", 2, 0.005),
        ("ceiling", 5, 0.005),
        ("error", 1, 0.0),
        ("error", 2, 0.3),
        ("error", 5, 0.05),
    ],
)
def test_the_headline_covers_its_truth(coverage: ModuleType, kind: str, n_seeds: int, seed_sd: float) -> None:
    drawn = coverage.results(np.random.default_rng(0), kind, n_seeds, 600, seed_sd)

    def truth(one: object) -> float:
        return one.these_networks if n_seeds == 1 else one.everywhere  # type: ignore[attr-defined]

    scale = coverage.scale_of(kind)
    covered = coverage.cover(lambda x: stats.seeds_and_tasks(x, scale), truth, drawn, REPEATS)
    assert LEAST <= covered.share <= MOST


def test_one_seed_says_nothing_of_training_again_and_neither_does_the_plain_interval(
    coverage: ModuleType,
) -> None:
    for n_seeds, interval in (
        (1, stats.seeds_and_tasks),
        (3, lambda x: stats.mean_interval(x.mean(axis=0))),  # as if three seeds were one network
    ):
        drawn = coverage.results(np.random.default_rng(1), "normal", n_seeds, 600, 0.02)
        assert coverage.cover(interval, lambda one: one.everywhere, drawn, 200).share < 0.7


@pytest.mark.parametrize("seed_sd", [0.0, 0.02])
def test_seeds_alone_cover_what_new_seeds_reach_on_these_tasks(coverage: ModuleType, seed_sd: float) -> None:
    drawn = coverage.results(np.random.default_rng(2), "normal", 3, 600, seed_sd)
    covered = coverage.cover(stats.seed_interval, lambda one: one.these_tasks, drawn, REPEATS)
    assert LEAST <= covered.share <= MOST


@pytest.mark.parametrize(("n_classes", "of_classes"), [(20, 0.4), (423, 0.2)])
def test_classes_are_covered_where_tasks_alone_are_far_off(
    coverage: ModuleType, n_classes: int, of_classes: float
) -> None:
    rng = np.random.default_rng(3)
    classes = coverage.tasks_of(rng, 600, n_classes)
    design = stats.design(classes.tolist())
    drawn = coverage.with_classes(rng, classes, 3, 0.005, of_classes)
    ours = coverage.cover(lambda x: stats.class_interval(x, design), lambda d: d.everywhere, drawn, REPEATS)
    assert LEAST <= ours.share <= MOST
    plain = coverage.cover(stats.seeds_and_tasks, lambda d: d.everywhere, drawn, 200)
    assert plain.share < (0.7 if n_classes < 100 else 0.93)


@pytest.mark.parametrize(("kind", "seed_sd"), [("normal", 0.02), ("ceiling", 0.005), ("error", 0.3)])
def test_equal_settings_are_told_apart_as_rarely_as_promised_but_not_by_tasks_alone(
    coverage: ModuleType, kind: str, seed_sd: float
) -> None:
    for n_seeds in (3, 10):
        covered, by_tasks, by_both = coverage.false_alarms(
            np.random.default_rng(4), kind, n_seeds, 600, seed_sd, REPEATS // 2
        )
        assert by_both == pytest.approx(1 - covered)
        assert covered >= 0.912  # 3 standard errors of 300 draws; few seeds cover more
        assert by_tasks > 0.4


def test_boards_name_a_better_row_and_reject_the_best_at_most_once_in_twenty(coverage: ModuleType) -> None:
    repeats = 150
    most = 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)
    for n_seeds, ahead in ((3, 0.0), (5, 0.05)):
        single, apart, best, others = coverage.wrong_boards(
            np.random.default_rng(5), 6, n_seeds, ahead, repeats
        )
        assert single <= 0.06
        assert apart <= most
        assert best <= most
        assert others > 0.9 if ahead else others <= most
