"""Training reports exactly at its rungs, resumes bit for bit, and stops where numbers are not finite."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from metabench import algorithms
from metabench.core import Report, trees
from metabench.data.tasks import frozen, sampling
from metabench.nets import layers
from metabench.nets.kernels import cpu
from metabench.training import loop
from metabench.training.loop import State
from tests.support import small

ALGORITHMS = ["maml", "fomaml", "alpha_maml", "maml_pp"]


def run(name: str = "maml", device: str = "cpu", **values: object) -> list[tuple[Report, State]]:
    return list(loop.train(small.config(name, **values), small.splits(), device=device))


def numbers(report: Report) -> tuple[float, ...]:
    """Take what must repeat: everything but time and memory."""
    logs = {name: value for name, value in report.logs.items() if not name.startswith("system/")}
    return (report.tasks_seen, report.val_accuracy, report.val_loss, report.train_loss, *logs.values())


def is_identical(left: State, right: State) -> bool:
    groups = zip(left[:3], right[:3], strict=True)
    return all(
        torch.equal(a, b)
        for mine, theirs in groups
        for a, b in zip(trees.leaves(mine), trees.leaves(theirs), strict=True)
    )


def test_reports_come_exactly_at_the_rungs_whatever_the_batch_size() -> None:
    reports = [report for report, _ in run(tasks=20, rungs=(7, 20))]
    assert [report.tasks_seen for report in reports] == [7, 20]


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("outer_optimizer", ["adam", "sgd"])
def test_resuming_from_disk_equals_not_stopping_bit_for_bit(
    name: str, outer_optimizer: str, tmp_path: Path, device: str
) -> None:
    values = {"outer_optimizer": outer_optimizer}
    if name == "maml_pp":
        values["per_step_statistics"] = True
    whole = run(name, device, **values)
    config = small.config(name, **values)
    _, stopped = whole[0]
    loop.save_state(tmp_path, stopped)
    loaded = loop.load_state(tmp_path, config, small.splits(), device)
    assert loaded.tasks_seen == 8
    resumed = list(loop.train(config, small.splits(), device=device, state=loaded))
    assert [numbers(report) for report, _ in resumed] == [numbers(report) for report, _ in whole[1:]]
    assert is_identical(resumed[-1][1], whole[-1][1])


def test_the_same_seed_gives_the_same_numbers_in_another_process() -> None:
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from tests.training.test_loop import run, numbers\n"
        "print(repr([numbers(report) for report, _ in run('alpha_maml')]))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == repr([numbers(report) for report, _ in run("alpha_maml")])


def test_another_seed_gives_other_numbers() -> None:
    first = run()[-1][0]
    config = small.config().model_copy(update={"seed": 1})
    assert list(loop.train(config, small.splits()))[-1][0].train_loss != first.train_loss


def test_a_run_that_diverges_reports_it_and_ends() -> None:
    reports = [report for report, _ in run(outer_optimizer="sgd", outer_lr=1e30)]
    assert len(reports) < 3
    assert not reports[-1].finite
    assert math.isnan(reports[-1].val_accuracy)


@pytest.mark.parametrize(
    ("name", "tasks"),
    [("maml", 300), *(pytest.param(name, 800, marks=pytest.mark.slow) for name in ALGORITHMS[1:])],
)
def test_training_learns(name: str, tasks: int) -> None:
    """On noise images whose classes are told apart by their mean, accuracy rises well above chance."""
    config = small.config(name, tasks=tasks, rungs=(tasks,), inner_lr=0.3, outer_lr=3e-3)
    # With the moments of three support images the noise is too large a part of what is normalised.
    network = config.network.model_copy(update={"batch_norm": "transductive"})
    config = config.model_copy(update={"validation_tasks": 100, "network": network})
    report = list(loop.train(config, small.splits()))[-1][0]
    assert report.val_accuracy > 0.6


def test_the_listener_hears_rates_and_means() -> None:
    heard: list[tuple[int, dict[str, float]]] = []
    config = small.config("maml_pp")
    list(loop.train(config, small.splits(), listen=lambda seen, means: heard.append((seen, dict(means)))))
    assert [seen for seen, _ in heard] == [4, 8, 12, 16, 20, 24]
    assert {
        "meta_train/loss",
        "meta_train/accuracy",
        "lr/outer",
        "grad/norm",
        "system/tasks_per_second",
    } <= set(heard[0][1])
    assert "lr/inner/conv1.weight/1" in heard[0][1]


REGRESSORS = algorithms.names("regression")


@pytest.mark.parametrize("name", REGRESSORS)
def test_regression_reports_its_error_as_loss_and_minus_it_as_score(name: str) -> None:
    heard: list[dict[str, float]] = []
    training = loop.train(
        small.regression(name), small.sinusoids(), listen=lambda seen, means: heard.append(dict(means))
    )
    for report, _ in training:
        assert report.finite
        assert report.val_score == -report.val_loss < 0
        assert math.isnan(report.val_accuracy)
        assert math.isnan(report.train_accuracy)
    if algorithms.get(name).is_trained:
        assert heard[-1]["meta_train/error"] > 0
    assert not [tag for means in heard for tag in means if "accuracy" in tag]


def test_training_on_sinusoids_beats_predicting_zero_by_a_fifth() -> None:
    splits = small.sinusoids()
    config = small.regression(inner_lr=0.03, outer_lr=1e-2, task_batch_size=20, tasks=4000)
    *_, (report, _) = loop.train(config, splits)
    tasks = frozen.frozen(splits, "meta_validation", config.task, config.validation_tasks, "search")
    y = frozen.gather(splits.meta_validation.images, tasks.groups[0].indices, tasks.groups[0].shape).query.y
    assert report.val_loss < float(y.square().mean()) * 0.8  # 0.68 where this was written


def test_a_regression_resumed_from_disk_equals_not_stopping_bit_for_bit(tmp_path: Path) -> None:
    config, splits = small.regression(), small.sinusoids()
    whole = list(loop.train(config, splits))
    loop.save_state(tmp_path, whole[0][1])
    state = loop.load_state(tmp_path, config, splits)
    resumed = list(loop.train(config, splits, state=state))
    assert [report.val_loss for report, _ in resumed] == [report.val_loss for report, _ in whole[1:]]
    assert is_identical(resumed[-1][1], whole[-1][1])


def prepared(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    monkeypatch.setattr(layers, "_plain", set())
    config, splits = small.config(), small.splits()
    learner = loop.build(config, splits)
    state = loop.start(config, learner)
    return config, loop.model(learner, state), sampling.pool(splits.meta_train, config.task)


def test_kernels_that_are_right_are_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop.check_kernels(*prepared(monkeypatch))
    assert layers.has_kernels(torch.device("cpu"))
    assert not caplog.messages


@pytest.mark.parametrize("wrong", ["gradient", "nothing finite"])
def test_kernels_that_are_wrong_give_way_to_torchs_layers_with_a_warning(
    wrong: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = cpu.rectify_grad_grad

    def planted(*args: Any) -> Any:
        of_g, *others = right(*args)
        return of_g * (1.02 if wrong == "gradient" else torch.nan), *others

    args = prepared(monkeypatch)
    monkeypatch.setattr(cpu, "rectify_grad_grad", planted)
    loop.check_kernels(*args)
    assert not layers.has_kernels(torch.device("cpu"))
    (line,) = caplog.messages
    assert line.startswith(
        "kernels for cpu are not used, but torch's own layers, which took 1.7 times as long"
    )
    assert re.search(r"their meta-gradient is (inf|0\.\d+) of its size away from float64's, that of", line)
    with layers.plain(torch.device("cpu")):
        loop.check_kernels(*args)  # not compared again
    assert len(caplog.messages) == 1


def test_a_run_on_a_device_checks_its_kernels_and_one_on_a_processor_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def checked(*args: Any) -> None:
        raise InterruptedError

    monkeypatch.setattr(loop, "check_kernels", checked)
    next(iter(loop.train(small.config(), small.splits())))
    with pytest.raises(InterruptedError):
        next(iter(loop.train(small.config(), small.splits(), device="meta")))
