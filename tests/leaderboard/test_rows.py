"""Rows: what a finished, a running and a mixed set of folders say, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metabench import stats
from metabench.core import MetabenchError
from metabench.core.metrics import ERROR
from metabench.leaderboard import as_markdown, leaderboard, read, versus
from metabench.leaderboard.rows import KEYS, keys
from metabench.storage import files
from metabench.training import run as runs
from tests.leaderboard.folders import (
    BEFORE,
    TASK,
    accuracies,
    alone,
    change,
    finish,
    make_run,
    make_search,
    report,
)
from tests.support import small

MEANS = {"maml": (0.7, 0.6), "fomaml": (0.65, 0.64)}


def rows(board: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["algorithm"], row["variant"]): row for row in board["rows"]}


def interval(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("accuracy", "ci_low", "ci_high", "ci_over"))


def test_a_finished_search_has_a_tuned_and_a_default_row_and_baselines_best_first(tmp_path: Path) -> None:
    board = leaderboard([finish(make_search(tmp_path), MEANS)])
    assert (board["protocol"], board["task"], board["status"]) == (1, TASK, "finished")
    assert [(row["algorithm"], row["variant"]) for row in board["rows"]] == [
        ("maml", "tuned"),
        ("fomaml", "tuned"),
        ("fomaml", "default"),
        ("maml", "default"),
        ("nearest_mean", "baseline"),
        ("chance", "baseline"),
    ]
    assert all(tuple(row) == KEYS for row in board["rows"])
    assert board["metric"] == {"name": "accuracy", "better": "higher"}


def test_the_interval_and_the_paired_difference_are_those_of_the_files(tmp_path: Path) -> None:
    table = rows(leaderboard([finish(make_search(tmp_path), MEANS)]))
    tuned = np.array([accuracies(0.7, seed) for seed in (0, 1)])
    default = np.array([accuracies(0.6, seed) for seed in (2, 3)])
    row = table["maml", "tuned"]
    expected = stats.seeds_and_tasks(tuned, "share")
    assert interval(row) == pytest.approx(expected)
    compared = stats.paired(tuned, default, scale="share")
    assert row["vs_default"] == {
        "difference": compared.difference,
        "ci_low": compared.low,
        "ci_high": compared.high,
        "over": "seeds and tasks",
        "p": compared.p,
        "p_tasks": compared.p_tasks,
        "higher": compared.higher,
    }
    assert row["vs_default"]["ci_low"] > 0
    assert table["maml", "default"]["vs_default"] is None


def test_a_row_says_what_was_spent_and_what_was_chosen(tmp_path: Path) -> None:
    table = rows(leaderboard([finish(make_search(tmp_path), MEANS)]))
    tuned, default = table["maml", "tuned"], table["maml", "default"]
    assert tuned["hyperparameters"] == {"inner_lr": 0.4, "inner_steps": 5}
    assert default["hyperparameters"] == {"inner_lr": 0.1, "inner_steps": 5}
    assert (tuned["val_accuracy"], tuned["confirm_accuracy"], default["val_accuracy"]) == (0.6, 0.58, 0.55)
    # To find: both trials of 30 tasks. To train: a final run of 100 tasks, in either row.
    search = ("trials", "search_tasks", "search_seconds")
    assert [[row[key] for key in search] for row in (tuned, default)] == [[2, 60, 6.0], [0, 0, 0]]
    training = ("training_tasks", "training_seconds", "peak_memory")
    assert [[row[key] for key in training] for row in (tuned, default)] == [[100, 10.0, 1100]] * 2
    for row in (tuned, default):
        assert [row[key] for key in ("seeds", "test_tasks", "batch_norm")] == [2, 40, "transductive"]


def test_the_baselines_are_nearest_mean_with_an_interval_over_tasks_and_chance_without(
    tmp_path: Path,
) -> None:
    table = rows(leaderboard([finish(make_search(tmp_path), MEANS)]))
    nearest, chance = table["nearest_mean", "baseline"], table["chance", "baseline"]
    expected = stats.mean_interval(accuracies(0.35, 9), "share")
    assert (nearest["accuracy"], nearest["ci_low"], nearest["ci_high"], nearest["ci_over"]) == pytest.approx(
        expected
    )
    assert (chance["accuracy"], chance["ci_low"], chance["ci_high"]) == (0.2, None, None)


def test_of_regression_the_lowest_error_stands_first_and_nothing_is_called_accuracy(tmp_path: Path) -> None:
    means = {"maml": (0.2, 0.3), "fomaml": (0.25, 0.24)}
    board = leaderboard([finish(make_search(tmp_path, metric="error"), means, "error")])
    assert board["metric"] == {"name": "error", "better": "lower"}
    assert [(row["algorithm"], row["variant"]) for row in board["rows"]] == [
        ("maml", "tuned"),
        ("fomaml", "default"),
        ("fomaml", "tuned"),
        ("maml", "default"),
        ("zero", "baseline"),
    ]
    assert all(tuple(row) == keys(ERROR) for row in board["rows"])
    assert all(row[key] is None for row in board["rows"] for key in KEYS if "accuracy" in key)
    row = board["rows"][0]
    expected = stats.seeds_and_tasks([accuracies(0.2, seed) for seed in (0, 1)], "positive")
    assert [row[key] for key in ("error", "ci_low", "ci_high", "ci_over")] == list(expected)
    assert (row["val_error"], row["confirm_error"]) == (0.6, 0.58)
    assert row["vs_default"]["difference"] == pytest.approx(-0.1, abs=0.01)
    assert row["vs_default"]["ci_high"] < 0


def test_a_running_search_of_regression_shows_the_lowest_error_so_far(tmp_path: Path) -> None:
    table = rows(leaderboard([make_search(tmp_path, metric="error")]))
    assert table.keys() == {
        ("maml", "tuned"),
        ("fomaml", "tuned"),
        ("maml", "default"),
        ("fomaml", "default"),
    }
    assert table["maml", "tuned"]["val_error"] == 0.4  # the trial that ended, not the live one at 0.45
    run = make_run(tmp_path / "run", "maml", 0, None, metric="error")
    assert rows(leaderboard([run]))["maml", "run"]["val_error"] == 0.5  # the last report, not the first


def test_accuracies_and_errors_do_not_share_a_leaderboard(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / metric, "maml", 0, 0.5, metric=metric) for metric in ("accuracy", "error"))
    with pytest.raises(MetabenchError, match=r"way: 5 in .*accuracy; 1 in .*error"):
        leaderboard([a, b])


def test_a_running_search_shows_the_best_validation_accuracy_so_far(tmp_path: Path) -> None:
    board = leaderboard([make_search(tmp_path)])
    table = rows(board)
    assert board["status"] == "running"
    maml, fomaml = table["maml", "tuned"], table["fomaml", "tuned"]
    assert (maml["status"], maml["accuracy"], maml["val_accuracy"]) == ("running", None, 0.45)
    assert (maml["trials"], maml["search_tasks"], maml["seeds"]) == (2, 120, 0)
    assert (fomaml["val_accuracy"], fomaml["search_tasks"]) == (0.4, 60)
    assert maml["training_tasks"] is None
    assert table["fomaml", "default"]["val_accuracy"] == 0.4
    assert "nearest_mean" not in {row["algorithm"] for row in board["rows"]}


def test_a_published_setting_that_was_stopped_early_looked_as_its_full_runs_did(tmp_path: Path) -> None:
    finish(make_search(tmp_path), MEANS)  # stopped after 30 tasks at 0.4, its runs at 0.55
    row = rows(leaderboard([tmp_path]))["fomaml", "default"]
    assert row["val_accuracy"] == pytest.approx(0.55)
    assert row["val_optimism"] == pytest.approx(0.55 - row["accuracy"])


def test_what_was_never_trained_is_no_trial(tmp_path: Path) -> None:
    make_search(tmp_path)
    line = {"trial": "maml-003", "algorithm": "maml", "status": "infeasible", "hyperparameters": {}}
    files.append_line(tmp_path / files.TRIALS, {**line, "is_default": False, **report(0, None)})
    assert rows(leaderboard([tmp_path]))["maml", "tuned"]["trials"] == 2


def test_a_search_that_has_only_started_has_rows_without_numbers(tmp_path: Path) -> None:
    make_search(tmp_path)
    (tmp_path / files.TRIALS).unlink()
    files.write_json(tmp_path / files.RUNNING, {"trials": {"maml-000": {"algorithm": "maml"}}})
    table = rows(leaderboard([tmp_path]))
    assert table.keys() == {("maml", "tuned"), ("fomaml", "tuned"), ("chance", "baseline")}
    assert table["maml", "tuned"]["val_accuracy"] is None


def test_a_trial_that_ended_since_the_snapshot_is_counted_once(tmp_path: Path) -> None:
    make_search(tmp_path)
    ended = {
        "trial": "maml-002",
        "algorithm": "maml",
        "status": "complete",
        "hyperparameters": {},
        "is_default": False,
    }
    files.append_line(tmp_path / files.TRIALS, {**ended, **report(90, 0.5)})
    row = rows(leaderboard([tmp_path]))["maml", "tuned"]
    assert (row["trials"], row["search_tasks"], row["val_accuracy"]) == (3, 150, 0.5)


def test_a_search_killed_during_its_final_runs_counts_the_seeds_it_has(tmp_path: Path) -> None:
    finish(make_search(tmp_path), MEANS)
    (tmp_path / files.META_TEST).unlink()
    (tmp_path / files.FINAL / "maml-tuned-seed1" / files.TEST).unlink()
    board = leaderboard([tmp_path])
    row = rows(board)["maml", "tuned"]
    assert (board["status"], row["status"], row["seeds"], row["seeds_planned"]) == (
        "running",
        "running",
        1,
        2,
    )
    assert row["ci_over"] == "tasks"


def test_an_algorithm_without_a_setting_that_works_has_an_empty_row(tmp_path: Path) -> None:
    finish(make_search(tmp_path), {"maml": (0.7, 0.6)})
    files.write_json(tmp_path / files.CHOSEN, {**files.read_json(tmp_path / files.CHOSEN), "fomaml": None})
    board = leaderboard([tmp_path])
    row = rows(board)["fomaml", "tuned"]
    assert (board["status"], row["accuracy"], row["seeds"]) == ("finished", None, 0)


def test_where_the_default_itself_was_chosen_there_is_nothing_to_compare(tmp_path: Path) -> None:
    finish(make_search(tmp_path), MEANS)
    for seed in (0, 1):
        copied = tmp_path / files.FINAL / f"maml-default-seed{seed}"
        make_run(copied, "maml", seed, 0.7, lr=0.4)
    table = rows(leaderboard([tmp_path]))
    assert table["maml", "tuned"]["vs_default"] is None
    assert table["maml", "tuned"]["accuracy"] == table["maml", "default"]["accuracy"]


def test_run_folders_make_rows_and_seeds_of_the_same_run_share_one(tmp_path: Path) -> None:
    tested = [make_run(tmp_path / f"a{seed}", "maml", seed, 0.6) for seed in (0, 1)]
    other = make_run(tmp_path / "b", "maml", 0, 0.5, lr=0.01)
    untested = make_run(tmp_path / "c", "fomaml", 0, None)
    board = leaderboard([*tested, other, untested])
    first, second, third, chance = sorted(board["rows"], key=lambda row: row["hyperparameters"] is None)
    by_seeds = {row["seeds"]: row for row in (first, second, third)}
    assert by_seeds[2]["accuracy"] == pytest.approx(0.6, abs=0.01)
    assert by_seeds[2]["folder"] == f"{tested[0]}, {tested[1]}"
    assert (by_seeds[1]["accuracy"], by_seeds[1]["status"]) == (pytest.approx(0.5, abs=0.01), "finished")
    assert (by_seeds[0]["status"], by_seeds[0]["accuracy"], by_seeds[0]["val_accuracy"]) == (
        "untested",
        None,
        0.55,
    )
    assert chance["algorithm"] == "chance"
    assert board["status"] == "untested"


def test_a_run_beside_a_search_of_the_same_tasks_joins_its_rows(tmp_path: Path) -> None:
    search = finish(make_search(tmp_path / "search"), MEANS)
    run = make_run(tmp_path / "run", "maml_pp", 0, 0.8)
    board = leaderboard([search, run, search])
    assert [row["algorithm"] for row in board["rows"]].count("chance") == 1
    assert board["rows"][0]["algorithm"] == "maml_pp"


def test_the_same_run_twice_is_refused_but_the_same_folder_twice_is_one(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / name, "maml", 0, 0.6) for name in "ab")
    assert len(leaderboard([a, a, tmp_path / "." / "a"])["rows"]) == 2
    with pytest.raises(MetabenchError, match="the same run twice"):
        leaderboard([a, b])


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("protocol", 2, "protocol: 1 in .*a; 2 in .*b"),
        ("data_fingerprint", "2", "data: ffffffffffff in .*a; 2 in .*b"),
    ],
)
def test_folders_of_another_protocol_or_data_are_refused_by_name(
    tmp_path: Path, key: str, value: int | str, what: str
) -> None:
    a, b = (make_run(tmp_path / name, "maml", seed, None) for seed, name in enumerate("ab"))
    files.write_json(b / files.CONFIG, {**files.read_json(b / files.CONFIG), key: value})
    assert key in BEFORE
    with pytest.raises(MetabenchError, match=what):
        leaderboard([a, b])


def test_folders_of_other_test_tasks_are_refused_by_name(tmp_path: Path) -> None:
    search = finish(make_search(tmp_path / "search"), MEANS)
    other = make_run(tmp_path / "other", "maml", 0, 0.5, tasks_hash="b" * 64)
    pattern = r"test tasks: 40 tasks \(hash a{12}\) in .* and 6 more; 40 tasks \(hash b{12}\) in .*other"
    with pytest.raises(MetabenchError, match=rf"same number of tasks:\n  {pattern}"):
        leaderboard([search, other])


def test_another_task_is_refused_before_any_test(tmp_path: Path) -> None:
    a, b = make_search(tmp_path / "a"), make_search(tmp_path / "b")
    record = files.read_json(b / files.SEARCH)
    record["space"]["task"]["shot"] = 5
    files.write_json(b / files.SEARCH, record)
    with pytest.raises(MetabenchError, match=r"leave some folders out:\n  shot: 1 in .*a; 5 in .*b"):
        leaderboard([a, b])


def test_a_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match="neither a search nor a run"):
        leaderboard([tmp_path])
    with pytest.raises(MetabenchError, match="no such folder"):
        leaderboard([tmp_path / "absent"])
    with pytest.raises(MetabenchError, match="at least one folder"):
        leaderboard([])


def test_an_accuracy_that_is_not_a_number_stays_unknown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "maml", 0, 0.6)
    test = files.read_json(run / files.TEST)
    files.write_json(run / files.TEST, {**test, "accuracy": [None, *test["accuracy"][1:]]})
    row = rows(leaderboard([run]))["maml", "run"]
    assert (row["accuracy"], row["ci_low"]) == (None, None)


def test_one_at_a_time_has_a_mean_and_an_interval_as_the_headline_has(tmp_path: Path) -> None:
    folders = [alone(make_run(tmp_path / f"a{seed}", "maml", seed, 0.9), 0.7) for seed in (0, 1)]
    row = rows(leaderboard(folders))["maml", "run"]
    single = rows(leaderboard([make_run(tmp_path / f"b{seed}", "maml", seed, 0.7) for seed in (0, 1)]))
    expected = [single["maml", "run"][key] for key in ("accuracy", "ci_low", "ci_high")]
    assert [row[key] for key in ("accuracy_one_at_a_time", "one_low", "one_high")] == expected
    assert row["accuracy_together"] == row["accuracy"] > expected[0] + 0.1


def test_older_results_lack_it_and_what_needs_no_batch_norm_has_it_from_the_headline(tmp_path: Path) -> None:
    table = rows(leaderboard([finish(make_search(tmp_path), MEANS)]))
    keys = ("accuracy_one_at_a_time", "one_low", "one_high")
    assert [table["maml", "tuned"][key] for key in keys] == [None, None, None]
    for key, same in zip(keys, ("accuracy", "ci_low", "ci_high"), strict=True):
        assert table["nearest_mean", "baseline"][key] == table["nearest_mean", "baseline"][same] is not None
    assert table["chance", "baseline"]["accuracy_one_at_a_time"] == 0.2
    # One seed that lacks it leaves it unknown: a mean of the others would be of other networks.
    alone(tmp_path / files.FINAL / "maml-tuned-seed0", 0.5)
    assert rows(leaderboard([tmp_path]))["maml", "tuned"]["accuracy_one_at_a_time"] is None


def test_how_sure_seeds_are_is_their_mean_and_unknown_where_one_does_not_say(tmp_path: Path) -> None:
    keys = ("calibration_error", "coverage", "set_size")
    folders = [make_run(tmp_path / f"a{seed}", "maml", seed, 0.7) for seed in (0, 1)]
    for folder, share in zip(folders, (0.8, 1.0), strict=True):
        n_tasks = len(files.read_json(folder / files.TEST)["accuracy"])
        judged = {"coverage": [share] * n_tasks, "set_size": [2 * share] * n_tasks}
        judged |= {"temperature": 2.0, "level": 0.9, "calibration_error": share / 10}
        change(folder / files.TEST, calibration=judged)
    board = leaderboard(folders)
    assert [rows(board)["maml", "run"][key] for key in keys] == pytest.approx([0.09, 0.9, 1.8])
    assert "Coverage of 90 % sets" not in as_markdown(board)
    shown = as_markdown(board, [*keys])
    assert "| Calibration error | Coverage of 90 % sets | Set size |" in shown
    assert "| 0.0900 | 90.0 | 1.80 |" in shown
    change(folders[0] / files.TEST, calibration=judged | {"calibration_error": None})
    assert rows(leaderboard(folders))["maml", "run"]["calibration_error"] is None
    folders.append(make_run(tmp_path / "older", "maml", 2, 0.7))
    assert [rows(leaderboard(folders))["maml", "run"][key] for key in keys] == [None] * 3


def test_the_cost_of_one_training_is_the_mean_of_the_seeds_that_came_to_the_budget(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"a{seed}", "maml", seed, None) for seed in range(3)]
    for folder, spent, seen in zip(folders, (20.0, 40.0, 600.0), (100, 100, 50), strict=True):
        last = {**report(seen, 0.5, finite=seen == 100), "seconds": spent}
        files.write_lines(folder / files.REPORTS, [report(50, 0.5), last])
    row = rows(leaderboard(folders))["maml", "run"]
    assert (row["training_tasks"], row["training_seconds"]) == (100, 30.0)
    assert row["training_accelerator_seconds"] == 30.0
    assert (row["trials"], row["search_tasks"], row["search_seconds"]) == (0, 0, 0)


def test_what_learns_nothing_costs_nothing_and_stands_once_wherever_it_comes_from(tmp_path: Path) -> None:
    searches = [make_search(tmp_path / name, ("maml", "nearest_mean")) for name in "ab"]
    (nearest,) = [row for row in leaderboard(searches[:1])["rows"] if row["algorithm"] == "nearest_mean"]
    assert (nearest["variant"], nearest["status"], nearest["val_accuracy"]) == ("baseline", "running", 0.4)
    for search in searches:
        finish(search, {"maml": (0.7, 0.6), "nearest_mean": (0.35, 0.35)})
    run = make_run(tmp_path / "run", "nearest_mean", 0, 0.35)
    for folders in ([*searches, run], [run, *searches], [run]):
        board = leaderboard(folders)
        (row,) = [row for row in board["rows"] if row["algorithm"] == "nearest_mean"]
        assert (row["name"], row["variant"], row["ci_over"]) == ("nearest_mean:baseline", "baseline", "tasks")
        assert (row["trials"], row["search_tasks"], row["training_tasks"]) == (0, 0, 0)
        assert row["accuracy_one_at_a_time"] == row["accuracy"]
        assert row["batch_norm"] is None
    assert "One seed" not in as_markdown(leaderboard([run]))


def test_a_run_of_what_learns_nothing_is_compared_as_such(tmp_path: Path) -> None:
    learner, floor = (
        make_run(tmp_path / "a", "maml", 0, 0.6),
        make_run(tmp_path / "b", "nearest_mean", 0, 0.35),
    )
    said = versus.compare(read([learner, floor]), [])["sentence"]
    assert "maml:run (60.0%) is better than nearest_mean:baseline (35.0%)" in said
    assert "1 seed against no training" in said


def test_what_training_and_testing_write_is_what_is_read(tmp_path: Path) -> None:
    config, splits = small.config(tasks=4, rungs=(4,)), small.splits()
    runs.train_run(config, splits, tmp_path)
    assert rows(leaderboard([tmp_path]))["maml", "run"]["status"] == "untested"
    tested = runs.test_run(tmp_path, splits, 5)
    row = rows(leaderboard([tmp_path]))["maml", "run"]
    assert row["accuracy"] == pytest.approx(np.mean(tested["accuracy"]))
    assert (row["test_tasks"], row["training_tasks"], row["times_opened"]) == (5, 4, 1)
    assert row["hyperparameters"] == config.hyperparameters
    assert row["accuracy_one_at_a_time"] == pytest.approx(np.mean(tested["accuracy_one_at_a_time"]))
    for key in ("calibration_error", "coverage", "set_size"):
        assert row[key] == pytest.approx(np.mean(tested["calibration"][key]))
        assert row[key] > 0
    queries = dict(zip(tested["class_names"], tested["by_class"]["queries"], strict=True))
    assert row["hardest"]
    assert all(queries[name] == count for name, _, count in row["hardest"])
    assert row["confused"]
    assert all(0 < share <= 1 for _, _, share, _ in row["confused"])


def test_the_leaderboard_needs_neither_torch_nor_ray() -> None:
    script = "import sys, metabench.leaderboard; assert not {'torch', 'ray', 'optuna'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
