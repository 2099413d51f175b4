"""Meta-test of a learner of unlabelled images: without them, without distractors, and what it took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import metabench as mb
from metabench import leaderboard
from metabench.api.describe import describe_run
from metabench.core import MetabenchError, Task, Tree
from metabench.core.config import Between, RunConfig
from metabench.data.tasks import frozen
from metabench.leaderboard.columns import COLUMNS
from metabench.search import space as spaces
from metabench.storage import files
from metabench.training import evaluate, loop, unlabelled
from metabench.training import run as runs
from metabench.training.vectorise import Model
from tests.support import small

BESIDE = {"unlabelled": 1, "distractors": 2, "labelled": 0.5}


def config(algorithm: str = "soft_kmeans", **changes: Any) -> RunConfig:
    task = small.TASK.model_copy(update={**BESIDE, **changes})
    described = small.config(algorithm, tasks=8, rungs=(8,))
    values = {"task_batch_size": 4}
    return described.model_copy(update={"task": task, "hyperparameters": values})


def model(described: RunConfig) -> Model:
    learner = loop.build(described, small.splits())
    return loop.model(learner, loop.start(described, learner))


def scores(its: Model, tasks: frozen.FrozenTasks) -> list[float]:
    per_task: list[float] = evaluate.evaluate(its, small.splits().meta_test.images, tasks).score.tolist()
    return per_task


@pytest.mark.parametrize("way", [3, Between(low=2, high=3)], ids=["3", "2-3"])
def test_figures_and_what_was_taken_are_those_of_the_same_tasks(way: Any) -> None:
    described = config(way=way)
    its, images = model(described), small.splits().meta_test.images
    tasks = frozen.frozen(small.splits(), "meta_test", described.task, 6, "test")
    seen = unlabelled.compare(its, images, tasks)
    assert seen["accuracy_without_unlabelled"] == scores(its, frozen.without(tasks, "unlabelled"))
    assert seen["accuracy_without_distractors"] == scores(its, frozen.without(tasks, "distractors"))
    counts = {key: seen["unlabelled"][key] for key in ("of_each_class", "distractors")}
    assert counts == {"of_each_class": 1, "distractors": 2}

    def take(model: Model, task: Task) -> Tree:
        algorithm, net, meta, buffers, h = model
        return {"taken": algorithm.adapt(net, meta, buffers, task.support, h)["taken"]}

    areas, of_classes, others = [], [], []
    for group in tasks.groups:
        taken = evaluate.over(take, its, images, frozen.FrozenTasks((group,), ""))["taken"]
        for row, mine in zip(taken, frozen.is_own(group).numpy(), strict=True):
            areas.append(roc_auc_score(mine, row))
            of_classes += row[mine].tolist()
            others += row[~mine].tolist()
    assert seen["unlabelled"]["auroc"] == pytest.approx(np.mean(areas))
    assert seen["unlabelled"]["taken"] == pytest.approx(np.mean(of_classes))
    assert seen["unlabelled"]["taken_distractors"] == pytest.approx(np.mean(others))


def test_nothing_is_compared_where_nothing_is_read() -> None:
    splits = small.splits()
    for described in (config("protonet"), config(test_unlabelled=0)):
        tasks = frozen.frozen(splits, "meta_test", described.task, 4, "test")
        assert unlabelled.compare(model(described), splits.meta_test.images, tasks) == {}


def test_the_board_shows_what_unlabelled_images_gain(tmp_path: Path) -> None:
    splits, folders = small.splits(), [tmp_path / str(seed) for seed in range(2)]
    for seed, folder in enumerate(folders):
        runs.train_run(config().model_copy(update={"seed": seed}), splits, folder)
        runs.test_run(folder, splits, 6)
    row = leaderboard.leaderboard(folders)["rows"][0]
    tests = [files.read_json(folder / files.TEST) for folder in folders]
    without = np.array([test["accuracy_without_unlabelled"] for test in tests])
    gains = np.array([test["accuracy"] for test in tests]) - without
    assert row["labelled"] == 0.5
    assert row["accuracy_without_unlabelled"] == pytest.approx(without.mean())
    assert row["gain"] == pytest.approx(gains.mean())
    assert row["taken_auroc"] == pytest.approx(np.mean([test["unlabelled"]["auroc"] for test in tests]))
    titles = {column.title: column.show(row) for column in COLUMNS}
    assert titles["Labelled %"] == "50.0"
    assert titles["By unlabelled"].startswith(f"{100 * gains.mean():+.1f} [")


def test_a_run_is_tested_with_other_unlabelled_images_under_a_name_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"way": 3, "query": 2, "test_query": 3, "width": 4, "tasks": 4, "reports": 1, "quiet": True}
    beside = {"unlabelled": 2, "distractors": 2, "labelled": 0.3, "validation_tasks": 2, "task_batch_size": 4}
    run = mb.train("soft_kmeans", "glyphs", **settings, **beside)
    usual = run.test(4, quiet=True).record
    other = run.test(4, unlabelled=1, distractors=0, quiet=True).record
    assert usual["unlabelled"]["distractors"] == 2
    assert other["unlabelled"]["of_each_class"] == 1
    assert other["unlabelled"]["auroc"] is None
    assert "accuracy_without_distractors" not in other
    assert "unlabelled" not in run.test(4, unlabelled=0, quiet=True).record
    names = {path.name for path in run.folder.glob("test*.json")}
    assert len(names) == 3
    assert json.loads((run.folder / files.TEST).read_text())["tasks_hash"] == usual["tasks_hash"]
    with pytest.raises(MetabenchError, match="`task_list`: says which unlabelled images there are"):
        run.test(4, task_list=run.folder / "tasks", unlabelled=1, quiet=True)
    # What the run's own tasks would need need not be there.
    few = {"n_classes": 20, "n_examples": 14}
    assert run.test(4, dataset="glyphs", options=few, unlabelled=0, quiet=True).record["tasks"] == 4
    for asked, said in (
        ({"unlabelled": 99}, "and unlabelled=99 need"),
        ({"unlabelled": 0, "distractors": 1}, "distractors=1: have"),
    ):
        with pytest.raises(MetabenchError, match=said) as error:
            run.test(4, **asked, quiet=True)
        assert "test_unlabelled" not in str(error.value)
        assert "test_distractors" not in str(error.value)
    other = mb.train("protonet", "glyphs", **settings, validation_tasks=2, task_batch_size=4)
    with pytest.raises(MetabenchError, match="protonet learns nothing from unlabelled images; leave their"):
        other.test(4, unlabelled=1, quiet=True)


REFUSED = [
    ("soft_kmeans", {}, "algorithm 'soft_kmeans': unlabelled=0: leaves nothing to refine with"),
    ("maml_semi", {}, "algorithm 'maml_semi': unlabelled=0: leaves nothing to refine with"),
    ("maml_semi", {"threshold": 1.2}, "hyperparameters.threshold=1.2: must be <= 1"),
    ("soft_kmeans", {"refine_in_training": False}, "the mask of refinement=masked is learnt there"),
    (
        "soft_kmeans",
        {"turn_classes": True},
        "turn_classes=True: unlabelled images have no label to be turned by",
    ),
]


@pytest.mark.parametrize(("name", "settings", "text"), REFUSED, ids=[text for *_, text in REFUSED])
def test_settings_that_leave_nothing_to_learn_from_are_refused(
    name: str, settings: dict[str, Any], text: str
) -> None:
    task = {"dataset": "glyphs", **({"unlabelled": 2} if settings else {})}
    with pytest.raises(MetabenchError) as caught:
        describe_run(task, {}, {"algorithm": name}, settings)
    assert text in str(caught.value)


def test_a_space_without_unlabelled_images_is_refused_for_learners_of_them() -> None:
    budget = {"tasks": 90, "trials": 3, "grace": 10}
    space = {"task": {"dataset": "glyphs"}, "budget": budget, "algorithms": {"soft_kmeans.mine": {}}}
    with pytest.raises(MetabenchError, match=r"algorithms.soft_kmeans.mine: unlabelled=0: leaves nothing"):
        spaces.check(space, "space")


def test_every_row_of_the_shipped_space_learns_from_small_tasks() -> None:
    space = spaces.load(Path(__file__).parents[2] / "search_spaces" / "omniglot_semi.yaml")
    for name in space.algorithms:
        its = spaces.of(space, name)
        values = {**its.resolve(its.published[0]), "task_batch_size": 4}
        described = config(name).model_copy(update={"hyperparameters": values, "tasks": 4, "rungs": [4]})
        ((report, _),) = loop.train(described, small.splits())
        assert report.finite, name
        assert report.val_accuracy > 0, name
