"""Intervals over classes: two routes to one estimate, and what must not change it."""

from __future__ import annotations

import numpy as np
import pytest

from metabench import stats
from metabench.stats import classes as by_class

N_TASKS, N_CLASSES, WAY = 60, 12, 3


def tasks_of(rng: np.random.Generator) -> list[list[int]]:
    return [rng.permutation(N_CLASSES)[:WAY].tolist() for _ in range(N_TASKS)]


def scored(rng: np.random.Generator, tasks: list[list[int]], spread: float) -> np.ndarray:
    effects = rng.normal(0, spread, 100)
    return np.array([effects[task].mean() for task in tasks]) + rng.normal(0, 0.1, len(tasks))


def test_variance_and_degrees_of_freedom_are_those_of_the_whole_matrices() -> None:
    rng = np.random.default_rng(0)
    tasks = tasks_of(rng)
    y = scored(rng, tasks, 0.3)
    z = np.zeros((N_TASKS, N_CLASSES))
    for row, task in enumerate(tasks):
        z[row, task] = 1 / WAY
    centre = np.eye(N_TASKS) - 1 / N_TASKS
    forms = [centre @ z @ z.T @ centre, centre]
    parts = [z @ z.T, np.eye(N_TASKS)]
    expected = np.array([[np.trace(form @ part) for part in parts] for form in forms])
    effect, noise = np.linalg.solve(expected, [y @ form @ y for form in forms])
    of_mean = np.array([part.sum() for part in parts]) / N_TASKS**2
    variance = of_mean @ [effect, noise]
    whole = effect * parts[0] + noise * parts[1]
    a = np.linalg.solve(expected.T, of_mean)
    form = a[0] * forms[0] + a[1] * forms[1]
    spread = 2 * np.trace(form @ whole @ form @ whole)  # the variance of a quadratic form in normal numbers
    assert effect > 0
    assert by_class.of_classes(y, stats.design(tasks)) == pytest.approx((variance, 2 * variance**2 / spread))


def test_where_no_two_tasks_share_a_class_tasks_say_all() -> None:
    y = np.random.default_rng(1).normal(size=(1, 30))
    design = stats.design([(3 * t, 3 * t + 1, 3 * t + 2) for t in range(30)])
    assert stats.class_interval(y, design)[:3] == pytest.approx(stats.mean_interval(y[0])[:3])
    assert stats.class_interval(y, design).over == "classes and tasks"
    assert stats.class_interval(np.repeat(y, 2, 0), design).over == "seeds, classes and tasks"


def test_names_of_classes_and_order_of_tasks_do_not_matter_and_ways_may_differ() -> None:
    rng = np.random.default_rng(2)
    tasks = [task[: 2 + t % 2] for t, task in enumerate(tasks_of(rng))]
    y = np.stack([scored(rng, tasks, 0.3) for _ in range(3)])
    order = rng.permutation(N_TASKS)
    renamed = [[7 * c + 1000 for c in tasks[t]] for t in order]
    ours = stats.class_interval(y, stats.design(tasks))
    assert stats.class_interval(y[:, order], stats.design(renamed))[:3] == pytest.approx(ours[:3])


def test_effects_of_classes_widen_the_interval_and_their_absence_hardly_does() -> None:
    rng = np.random.default_rng(3)
    tasks = tasks_of(rng)
    design = stats.design(tasks)
    ratios = {}
    for spread in (0.0, 0.3):
        widths = []
        for _ in range(200):
            y = scored(rng, tasks, spread)[None]
            ours, plain = stats.class_interval(y, design), stats.mean_interval(y[0])
            widths.append((ours.high - ours.low) / (plain.high - plain.low))
        ratios[spread] = np.median(widths)
    assert ratios[0.0] < 1.1
    # Truth: var = 0.3^2/3 over 12 classes' effects of 3/12 weight each, against 0.2^2 over 60 tasks.
    assert ratios[0.3] > 2


def test_a_difference_of_two_that_classes_move_alike_is_not_widened_by_them() -> None:
    rng = np.random.default_rng(4)
    tasks = tasks_of(rng)
    design = stats.design(tasks)
    hard = scored(rng, tasks, 0.5)
    x, y = (hard + rng.normal(shift, 0.02, (3, N_TASKS)) for shift in (0.05, 0.0))
    difference = stats.paired_classes(x, y, design)
    alone = stats.class_interval(x, design)
    assert difference.low > 0
    assert difference.high - difference.low < 0.3 * (alone.high - alone.low)
    assert difference.mean == pytest.approx(stats.paired(x, y).difference)


def test_classes_of_other_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="30 tasks, and classes of 2"):
        stats.class_interval(np.zeros((1, 30)), stats.design([(0, 1), (1, 2)]))


def test_kappa_is_sklearns_and_knows_chance() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    rng = np.random.default_rng(0)
    true = rng.choice(4, 500, p=[0.4, 0.3, 0.2, 0.1])
    guess = np.where(rng.random(500) < 0.6, true, rng.integers(4, size=500))
    counts = metrics.confusion_matrix(true, guess)
    assert stats.kappa(counts) == pytest.approx(metrics.cohen_kappa_score(true, guess), abs=1e-12)
    assert stats.kappa(np.diag([3, 5, 1])) == 1
    assert stats.kappa(np.outer([0.2, 0.8], [0.6, 0.4])) == pytest.approx(0, abs=1e-12)
    assert np.isnan(stats.kappa([[7, 0], [0, 0]]))
