"""A run on tasks with groups: what its test records, who may learn it, and rows and pages that say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metabench as mb
from metabench import algorithms, data, stats
from metabench.core import GROUPED, MetabenchError
from metabench.core.config import RunConfig, TaskConfig
from metabench.data.tasks import frozen
from metabench.leaderboard import as_csv, as_markdown, assemble, read
from metabench.report.html import page, reading
from metabench.storage import files
from metabench.training import evaluate, fairness, inputs, loop, run, vectorise
from metabench.training.graphs.trace import TraceCache
from tests.algorithms import problems
from tests.support import small

PLANE: dict[str, Any] = {"name": "zafar", "options": {"tasks": 60, "people": 24}}
SHAPE: dict[str, Any] = {"way": 2, "shot": 6, "query": 6, "test_query": 8, "validation_tasks": 6}
BRIEF: dict[str, Any] = {"network": "mlp", "width": 8, "depth": 1, "norm": "none", "quiet": True}
NETWORK: dict[str, Any] = {"name": "mlp", "width": 8, "depth": 1, "norm": "none"}
TASK = TaskConfig(dataset="zafar", options=PLANE["options"], way=2, shot=6, query=4, test_query=4)
N_TASKS = 12


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Train and test MAML without and with fairness."""
    place = tmp_path_factory.mktemp("fair")
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fairness, "TASKS", 40)
        for gamma in (0.0, 30.0):
            settings = {"reports": 2, "gamma": gamma, "regulariser": "squared", "outer_lr": 0.01}
            out = place / f"gamma-{gamma:g}"
            made.append(mb.train("fair_maml", PLANE, tasks=60, out=out, **SHAPE, **BRIEF, **settings))
            made[-1].test(N_TASKS, quiet=True)
    return made


def record(one: Any) -> dict[str, Any]:
    return dict(files.read_json(Path(one.folder) / files.TEST))


def test_a_test_counts_the_queries_of_each_task_by_group_label_and_guess(runs: list[Any]) -> None:
    result = record(runs[0])
    counts = np.array(result["groups"])
    assert counts.shape == (N_TASKS, 8)
    assert (counts.sum(1) == 8).all()
    np.testing.assert_allclose(counts[:, [0, 3, 4, 7]].sum(1) / 8, result["accuracy"], atol=1e-6)  # float32
    config = run.read_config(Path(runs[0].folder))
    splits = data.load(config.task)
    tasks = frozen.frozen(splits, "meta_test", config.task, N_TASKS, "test")
    seen = fairness.outcomes(run.open_run(Path(runs[0].folder), splits).model, splits.meta_test.images, tasks)
    by_hand = [
        [
            int(((seen["group"][t] == g) & (seen["y"][t] == y) & ((seen["p"][t] > 0.5) == guess)).sum())
            for g in (0, 1)
            for y in (0, 1)
            for guess in (0, 1)
        ]
        for t in range(N_TASKS)
    ]
    assert counts.tolist() == by_hand


def test_thresholds_are_chosen_on_meta_validation_and_counted_beside(runs: list[Any]) -> None:
    result, config = record(runs[0]), run.read_config(Path(runs[0].folder))
    splits = data.load(config.task)
    model = run.open_run(Path(runs[0].folder), splits).model
    before = frozen.frozen(splits, "meta_validation", config.task, 40, "calibration")
    chosen = stats.thresholds(**fairness.outcomes(model, splits.meta_validation.images, before))
    assert result["thresholds"] == pytest.approx(chosen)
    adjusted = np.array(result["groups_at_thresholds"])
    assert (adjusted.sum(1) == 8).all()
    plain = np.array(result["groups"])
    # Groups and labels are as they were: only guesses move.
    np.testing.assert_array_equal(plain.reshape(-1, 4, 2).sum(2), adjusted.reshape(-1, 4, 2).sum(2))


def test_reports_say_the_gap_on_meta_validation_as_the_counts_do(runs: list[Any]) -> None:
    config = run.read_config(Path(runs[1].folder))
    splits = data.load(config.task)
    tasks = frozen.frozen(splits, "meta_validation", config.task, config.validation_tasks, "search")
    reports = list(files.read_lines(Path(runs[1].folder) / files.REPORTS))
    kept = max(reports, key=lambda report: report["val_score"])
    model = run.open_run(Path(runs[1].folder), splits).model
    p, y, group = fairness.outcomes(model, splits.meta_validation.images, tasks).values()
    for name, figures in stats.measures(stats.count(p > 0.5, y, group)).items():
        if figures is not None and name != "accuracy":
            assert kept["logs"][f"meta_validation/{name}"] == pytest.approx(figures.mean()), name
    assert "meta_validation/dp_gap" in kept["logs"]


def test_a_board_has_measures_with_intervals_and_a_row_at_thresholds(runs: list[Any]) -> None:
    board = mb.leaderboard(*runs)
    rows = {row["hyperparameters"]["gamma"]: row for row in board.rows if row["variant"] == "run"}
    for gamma, one in zip((0.0, 30.0), runs, strict=True):
        board_row, counts = rows[gamma], np.array(record(one)["groups"])
        for name, figures in stats.measures(counts).items():
            assert name in ("accuracy", "dp_ratio") or board_row[name] == pytest.approx(figures.mean())
        assert board_row["dp_low"] < board_row["dp_gap"] < board_row["dp_high"]
        assert board_row["dp_class_low"] < board_row["dp_gap"] < board_row["dp_class_high"]
        assert (board_row["gap_tasks"], board_row["eo_tasks"]) == stats.n_defined(counts)
        assert sum(place[1] for place in board_row["by_place"]) == 8 * N_TASKS
    at_thresholds = [row for row in board.rows if row["algorithm"].endswith(" at thresholds")]
    assert {row["name"]: row["hyperparameters"]["gamma"] for row in at_thresholds} == {
        f"fair_maml run (gamma={gamma}) at thresholds:baseline": gamma for gamma in (0.0, 30.0)
    }
    assert all(row["variant"] == "baseline" and row["rank"] is None for row in at_thresholds)
    adjusted = np.array(record(runs[0])["groups_at_thresholds"])
    accuracies = {round(row["accuracy"], 9) for row in at_thresholds}
    assert round(float(adjusted[:, [0, 3, 4, 7]].sum() / adjusted.sum()), 9) in accuracies


def test_tables_of_the_board_and_a_page_show_them(runs: list[Any]) -> None:
    folders = [Path(one.folder) for one in runs]
    board = assemble(read(folders))
    assert "Parity gap" in as_markdown(board)
    header, *lines = as_csv(board).splitlines()
    assert "dp_class_high" in header
    assert len(lines) == len(board["rows"])
    results = reading.read(folders)
    parts = {part.title: part for section in page.sections(results) for part in section.parts}
    picture, places = parts["Accuracy against the parity gap"], parts["By place"]
    figure = picture.draw(9.0)
    assert len(figure.axes) == 1
    assert "hypervolume" in picture.caption
    assert len(places.rows) == len(board["rows"][0]["by_place"])


def test_groups_are_remembered_where_the_data_are_not(runs: list[Any]) -> None:
    about = inputs.read(Path(runs[0].folder))
    assert about.has_group
    assert about.kinds == ("classification", GROUPED)
    opened = run.open_weights(Path(runs[0].folder), about)
    assert opened.config.algorithm == "fair_maml"


def test_predicting_without_groups_is_refused_in_one_line(runs: list[Any]) -> None:
    with pytest.raises(MetabenchError, match="fair_maml adapts to the groups of its support set"):
        mb.load(runs[0])


def test_data_without_groups_are_refused_before_a_file_is_opened() -> None:
    for dataset in ("omniglot", {"name": "table", "options": {"path": "none.csv", "label": "kind"}}):
        with pytest.raises(MetabenchError, match=r"'fair_maml': .* has no column of groups; take data whose"):
            mb.train("fair_maml", dataset, way=2, quiet=True)


def configured(name: str, **values: Any) -> RunConfig:
    described = small.config(name, tasks=8, rungs=(8,)).model_dump()
    fields = algorithms.get(name).hparams.__dataclass_fields__
    settings = {"task_batch_size": 4, "inner_steps": 2, **values}
    settings = {key: value for key, value in settings.items() if key in fields}
    return RunConfig.model_validate(
        {**described, "task": TASK.model_dump(), "network": NETWORK, "hyperparameters": settings}
    )


@pytest.mark.parametrize("name", [*algorithms.names("classification"), *algorithms.names(GROUPED)])
def test_every_classifier_is_measured_on_tasks_with_groups(name: str) -> None:
    splits, config = data.load(TASK), configured(name)
    data.check(TASK, splits)
    ((report, state),) = loop.train(config, splits)
    assert report.finite
    model = loop.model(loop.build(config, splits), state)
    tasks = frozen.frozen(splits, "meta_test", TASK, 5, "test")
    counted = fairness.counted(model, splits, TASK, splits.meta_test.images, tasks)
    tested = evaluate.test(model, splits.meta_test.images, tasks)
    right = np.array(counted["groups"])[:, [0, 3, 4, 7]].sum(1) / 4
    np.testing.assert_allclose(right, tested.score, atol=1e-6)  # float32


def test_recorded_steps_give_the_same_bits(device: str) -> None:
    splits, config = data.load(TASK), configured("fair_maml", gamma=2.0)
    learner = loop.build(config, splits)
    model = loop.model(learner, loop.start(config, learner, device))
    group = frozen.frozen(splits, "meta_validation", TASK, 6, "search").groups[0]
    tasks = frozen.gather(splits.meta_validation.images.to(device), group.indices, group.shape)
    traces = TraceCache()
    for _ in range(3):
        recorded, plain = (
            vectorise.meta_gradient(model, tasks, 0.5, 4, cache).gradient["theta"] for cache in (traces, None)
        )
        assert problems.largest_difference(recorded, plain) == 0
