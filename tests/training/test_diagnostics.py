"""Diagnostics: each figure against a hand computation or a limit in which it is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metabench.core import Tree
from metabench.data.tasks import frozen
from metabench.storage import files
from metabench.training import diagnostics, evaluate, loop
from metabench.training import run as runs
from tests.support import small


@pytest.fixture(autouse=True)
def all_steps_and_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in {"STEPS": 10, "TASKS": 100, "FOLLOWED": 40}.items():
        monkeypatch.setattr(diagnostics, name, number)


def prepared(name: str = "maml", **values: Any) -> tuple[tuple[Any, ...], Any]:
    config, splits = small.config(name, **values), small.splits()
    if name != "maml":
        config = config.model_copy(update={"hyperparameters": values})
    learner = loop.build(config, splits)
    state = loop.start(config, learner)
    tasks = frozen.frozen(splits, "meta_test", config.task, 12, "test")
    images = splits.meta_test.images
    return (loop.model(learner, state), images, tasks), learner


def test_the_curve_over_inner_steps_passes_through_the_evaluation() -> None:
    args, learner = prepared(inner_steps=3, inner_lr=0.3)
    diagnosis = diagnostics.diagnose(*args)
    assert [point["step"] for point in diagnosis["over_steps"]] == list(range(11))
    for step in (0, 3, 10):
        h = dataclasses.replace(learner.h, eval_steps=step)
        expected = evaluate.evaluate(args[0]._replace(h=h), *args[1:]).score.mean()
        assert diagnosis["over_steps"][step]["mean"] == pytest.approx(expected)


def test_a_long_adaptation_is_followed_to_its_end_at_a_bounded_cost() -> None:
    args, learner = prepared("finetune", inner_steps=100)
    steps = {point["step"]: point["mean"] for point in diagnostics.diagnose(*args)["over_steps"]}
    assert list(steps) == [*range(11), 20, 50, 100]
    assert steps[100] == pytest.approx(evaluate.evaluate(*args).score.mean())
    for evaluated in (11, 99, 1001, 5000):
        model = args[0]._replace(h=dataclasses.replace(learner.h, inner_steps=evaluated))
        further = [step for step in diagnostics.over_steps(model) if step > diagnostics.STEPS]
        assert further[-1] == evaluated
        assert sum(further) < 3 * evaluated


@pytest.mark.parametrize("name", ["scratch", "finetune", "baseline_pp"])
def test_a_baseline_that_descends_the_support_set_has_its_curve_too(name: str) -> None:
    args, learner = prepared(name)
    diagnosis = diagnostics.diagnose(*args)
    for step in (0, 7):
        h = dataclasses.replace(learner.h, inner_steps=step)
        expected = evaluate.evaluate(args[0]._replace(h=h), *args[1:]).score.mean()
        assert diagnosis["over_steps"][step]["mean"] == pytest.approx(expected)
    assert 0 <= diagnosis["diverged"] <= 1


def test_the_worst_tenth_is_the_mean_of_the_lowest_accuracies() -> None:
    args, _ = prepared()
    score = np.sort(evaluate.evaluate(*args).score)
    assert diagnostics.diagnose(*args)["worst_tenth"] == pytest.approx(score[:2].mean())  # 2 of 12


def test_no_task_diverges_at_a_small_rate_and_most_do_at_an_absurd_one() -> None:
    calm = diagnostics.diagnose(*prepared(inner_lr=0.01)[0])["diverged"]
    wild = diagnostics.diagnose(*prepared(inner_lr=1e4)[0])["diverged"]
    assert calm == 0
    assert wild > 0.5


def test_a_task_that_is_not_finite_counts_as_diverged() -> None:
    assert diagnostics.diagnose(*prepared(inner_lr=1e30)[0])["diverged"] == 1


def test_what_has_no_inner_loop_has_no_curve() -> None:
    args, _ = prepared("nearest_mean")
    diagnosis = diagnostics.diagnose(*args)
    assert diagnosis["over_steps"] is None
    assert diagnosis["diverged"] is None
    assert 0 <= diagnosis["calibration_error"] <= 1


def calibration(logits: torch.Tensor, y: torch.Tensor) -> float:
    binned: Tree = diagnostics.binned(logits, y)
    return diagnostics.calibration_error({key: value.double().numpy()[None] for key, value in binned.items()})


def test_certain_and_right_is_calibrated_and_certain_and_wrong_is_not() -> None:
    logits = torch.eye(4) * 50
    assert calibration(logits, torch.arange(4)) == pytest.approx(0, abs=1e-6)
    assert calibration(logits, torch.arange(4).flip(0)) == pytest.approx(1, abs=1e-6)


def test_knowing_nothing_and_saying_so_is_calibrated() -> None:
    assert calibration(torch.zeros(8, 4), torch.arange(4).repeat(2)) == pytest.approx(0, abs=1e-6)


def test_calibration_error_weighs_bins_by_their_queries() -> None:
    # three queries sure to 0.9 of which two are right, one sure to 0.6 and right
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.6, 0.4]], dtype=torch.float64)
    expected = 3 / 4 * abs(0.9 - 2 / 3) + 1 / 4 * abs(0.6 - 1)
    assert calibration(p.log(), torch.tensor([0, 0, 1, 0])) == pytest.approx(expected)


def test_scalars_hold_the_curve_by_inner_step() -> None:
    args, _ = prepared()
    rows = diagnostics.scalars(diagnostics.diagnose(*args), "accuracy")
    assert [step for step, _ in rows] == [0, *range(11)]
    assert set(rows[0][1]) == {
        "diagnostics/worst_tenth",
        "diagnostics/calibration_error",
        "diagnostics/diverged",
    }


def test_a_run_keeps_its_diagnosis_and_shows_it_over_inner_steps(tmp_path: Path) -> None:
    config, splits = small.config(), small.splits()
    runs.train_run(config, splits, tmp_path)
    diagnosis = files.read_json(tmp_path / files.DIAGNOSTICS)
    assert len(diagnosis["over_steps"]) == 11
    events = EventAccumulator(str(tmp_path / files.TENSORBOARD)).Reload()  # in the run's own folder
    steps = [event.step for event in events.Scalars("diagnostics/accuracy_over_inner_steps")]
    assert steps == list(range(11))
    (tmp_path / files.DIAGNOSTICS).unlink()  # as after a kill between training and diagnosis
    runs.train_run(config, splits, tmp_path)
    assert files.read_json(tmp_path / files.DIAGNOSTICS) == diagnosis


def test_meta_test_records_a_diagnosis_of_its_own_tasks(tmp_path: Path) -> None:
    config, splits = small.config(), small.splits()
    runs.train_run(config, splits, tmp_path)
    result = runs.test_run(tmp_path, splits, 20)
    trained = result["diagnostics"]["over_steps"][config.hyperparameters["inner_steps"]]
    assert trained["mean"] == pytest.approx(np.mean(result["accuracy"]))


def test_only_the_first_tasks_are_followed_over_inner_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "FOLLOWED", 5)
    args, _ = prepared(inner_steps=2, inner_lr=0.3)
    diagnosis = diagnostics.diagnose(*args)
    assert (diagnosis["tasks"], diagnosis["followed"]) == (12, 5)
    score = evaluate.evaluate(*args).score
    assert diagnosis["over_steps"][2]["mean"] == pytest.approx(score[:5].mean())


def test_meta_test_may_be_scored_without_a_diagnosis(tmp_path: Path) -> None:
    config, splits = small.config(), small.splits()
    runs.train_run(config, splits, tmp_path)
    result = runs.test_run(tmp_path, splits, 20, is_diagnosed=False)
    assert "diagnostics" not in result
    assert result["accuracy"] == runs.test_run(tmp_path, splits, 20)["accuracy"]


def test_the_steps_of_evaluation_are_not_evaluated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    n_tasks, score = [], diagnostics._score
    monkeypatch.setattr(diagnostics, "FOLLOWED", 5)
    monkeypatch.setattr(
        diagnostics,
        "_score",
        lambda model, images, tasks, traces: (
            n_tasks.append(sum(len(g.positions) for g in tasks.groups)) or score(model, images, tasks, traces)
        ),
    )
    args, _ = prepared(inner_steps=2, inner_lr=0.3)
    followed = diagnostics.diagnose(*args)["over_steps"]
    assert n_tasks == [12] + [5] * (len(followed) - 1)
