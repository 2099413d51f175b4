"""The interval over pictures: what it is made of, and that it covers where one over tasks does not."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from metabench import stats
from metabench.stats.pictures import of_pictures


@pytest.mark.parametrize(
    "place", [0, *(pytest.param(one, marks=pytest.mark.slow) for one in (1, 2, 3, 5, 6, 7))]
)
def test_pictures_are_covered_where_tasks_that_share_them_are_far_off(
    coverage: ModuleType, place: int
) -> None:
    few = coverage.FEW[place]._replace(n_tasks=100)
    covered = coverage.over_pictures(np.random.default_rng(place), few, 120)
    # 3 standard errors of 120 draws: 6 points below; folds, of which half is counted twice, cover more.
    assert 0.89 <= covered.share <= (0.993 if few.folds == 1 else 1)
    assert covered.other < 0.65


def test_two_equals_that_answer_alike_are_not_told_apart_by_their_tasks(coverage: ModuleType) -> None:
    rng, few = np.random.default_rng(1), coverage.FEW[0]
    alarms = []
    for _ in range(40):
        (x, a), (y, b) = (coverage.shared_pictures(rng, few) for _ in range(2))
        over_tasks = stats.paired(x, y, (False, False), "share")
        over_pictures = stats.paired(x, y, (False, False), "share", (a, b))
        assert over_pictures.over == stats.PICTURES
        alarms.append((over_tasks.p < 0.05, over_pictures.p < 0.05))
    by_tasks, by_pictures = np.mean(alarms, axis=0)
    assert by_tasks > 0.5
    assert by_pictures <= 0.15  # 3 standard errors above 5 %


def test_one_shot_of_all_classes_has_the_influences_that_its_sums_say() -> None:
    # Two classes of three pictures, one support and one query each; picture 2 is never recognised.
    places = np.array([[s, q] for s in range(3) for q in range(3) if s != q])
    support = [np.array([a, 3 + b]) for a, _ in places for b, _ in places]
    queries = np.array([[a, 3 + b] for _, a in places for _, b in places])
    right = (queries != 2).astype(float)
    moved, repeats = stats.influences(right, queries, support, np.array([0, 0, 0, 1, 1, 1]))
    # Every pair of a class: the mean is that of pictures alone, so each moves it by its share of it.
    accuracy = np.array([1, 1, 0, 1, 1, 1])
    expected = (accuracy - np.repeat([2 / 3, 1], 3)) / 6
    np.testing.assert_allclose(moved, expected, atol=1e-12)
    assert repeats == pytest.approx(2.0)


def test_a_picture_that_fails_in_both_roles_counts_with_both_at_once() -> None:
    rng = np.random.default_rng(0)
    per_task = rng.normal(0.6, 0.1, 500)
    classes = stats.design([[0, 1]] * 500)
    strata, hard = np.repeat([0, 1], 20), np.repeat([[0.01, -0.01]], 20, axis=0).ravel()
    one = stats.Influences(hard[None], strata, 2.0, classes)
    both = one._replace(moved=2 * one.moved)
    ratio = of_pictures(per_task, both).variance / of_pictures(per_task, one).variance
    assert ratio == pytest.approx(4, rel=0.1)
    assert of_pictures(per_task, one._replace(moved=0 * one.moved)).variance == pytest.approx(
        per_task.var(ddof=1) / 500
    )
