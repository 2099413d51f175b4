"""Exports: pandas reads back what the folders hold, from CSV and from Parquet alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metabench import leaderboard
from metabench.report.exports import records, tables
from metabench.storage import files
from tests.leaderboard.folders import CLASSES, NAMES, accuracies, alone, finish, make_run, make_search

MEANS = {"maml": (0.7, 0.6), "fomaml": (0.65, 0.64)}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folders = [
        finish(make_search(tmp_path / "search"), MEANS),
        alone(make_run(tmp_path / "run", "protonet", 7, 0.5), 0.3),
    ]
    line = {"trial": "maml-002", "algorithm": "maml", "status": "complete", "is_default": False}
    line |= {"tasks_seen": 100, "seconds": 1.0}
    settings = {"inner_lr": 1, "inner_steps": True, "cosine": "late", "seconds_like": 0.5}
    files.append_line(tmp_path / "search" / files.TRIALS, {**line, "hyperparameters": settings})
    tables.write(tmp_path / "out", tables.tables(leaderboard.read(folders), leaderboard.leaderboard(folders)))
    return tmp_path / "out"


def both(out: Path, name: str) -> pd.DataFrame:
    """Read a table from Parquet, and see that its CSV says the same."""
    parquet = pd.read_parquet(out / f"{name}.parquet")
    csv = pd.read_csv(out / f"{name}.csv", dtype=parquet.dtypes.to_dict(), keep_default_na=True)
    pd.testing.assert_frame_equal(parquet, csv, check_exact=False, rtol=1e-12)
    return parquet


def test_every_task_of_every_seed_is_a_line(out: Path) -> None:
    tasks = both(out, "tasks")
    # Four rows of two seeds, a baseline and a run, of 40 tasks each.
    assert len(tasks) == 10 * 40
    one = tasks[(tasks.algorithm == "maml") & (tasks.variant == "tuned") & (tasks.seed == 1)]
    assert one.accuracy.tolist() == accuracies(0.7, 1)
    assert one.loss.tolist() == accuracies(1, 1)
    assert one.task.tolist() == list(range(40))
    assert one.classes.iloc[3] == "; ".join(NAMES[int(row)] for row in CLASSES[3].split())
    assert tasks[tasks.algorithm == "nearest_mean"].seed.isna().all()
    wide = tasks.pivot_table(index="task", columns=["algorithm", "variant"], values="accuracy")
    assert wide["protonet", "run"].mean() == pytest.approx(np.mean(accuracies(0.5, 7)))
    single = tasks.set_index("algorithm").accuracy_one_at_a_time
    assert single["protonet"].tolist() == accuracies(0.3, 7)
    assert single["nearest_mean"].tolist() == wide["nearest_mean", "baseline"].tolist()
    assert single["maml"].isna().all()  # results of before lack it


def test_trackers_are_told_both_ways_of_asking(out: Path, tmp_path: Path) -> None:
    (experiment,) = records.experiments(leaderboard.read([tmp_path / "run"]))
    figures = experiment.records[0].points[100]
    assert figures["meta_test/accuracy"] == pytest.approx(np.mean(accuracies(0.5, 7)))
    assert figures["meta_test/accuracy_one_at_a_time"] == pytest.approx(np.mean(accuracies(0.3, 7)))


def test_rows_and_comparisons_are_those_of_the_leaderboard(out: Path, tmp_path: Path) -> None:
    shown = leaderboard.leaderboard([tmp_path / "search", tmp_path / "run"])
    rows = both(out, "rows")
    assert rows.name.tolist() == [row["name"] for row in shown["rows"]]
    assert rows.accuracy.tolist() == [row["accuracy"] for row in shown["rows"]]
    assert rows.vs_best_verdict.dropna().tolist() == [
        row["vs_best"]["verdict"] for row in shown["rows"][1:-1]
    ]
    settings = rows.set_index("name").hyperparameters["maml:tuned"]
    assert json.loads(settings) == {"inner_lr": 0.4, "inner_steps": 5}
    pairs = both(out, "comparisons")
    assert pairs.p_holm.tolist() == [pair["p_holm"] for pair in shown["comparisons"]]


def test_trials_have_a_column_a_setting_even_where_values_differ_in_kind(out: Path) -> None:
    trials = both(out, "trials").set_index("trial")
    assert trials["setting.inner_lr"].dtype == "Float64"
    assert trials["setting.inner_lr"].loc["maml-002"] == 1.0
    assert [json.loads(one) for one in trials["setting.inner_steps"].loc[["maml-000", "maml-002"]]] == [
        5,
        True,
    ]
    assert trials["setting.cosine"].dropna().to_dict() == {"maml-002": "late"}
    assert trials.val_accuracy.loc["maml-000"] == 0.4
    assert trials.val_accuracy.isna().loc["maml-001"]  # it diverged


def test_a_search_without_results_is_written_as_well(tmp_path: Path) -> None:
    search = make_search(tmp_path / "search")
    paths = tables.write(
        tmp_path, tables.tables(leaderboard.read([search]), leaderboard.leaderboard([search]))
    )
    assert len(paths) == 8
    assert pd.read_parquet(tmp_path / "tasks.parquet").empty
    assert len(both(tmp_path, "trials")) == 4
