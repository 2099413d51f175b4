"""Rows of searches and runs whose classes are cut by pictures, or whose tasks are cut, into folds."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from metabench import stats
from metabench.leaderboard import as_markdown, leaderboard
from metabench.report.html import page, reading
from metabench.storage import files
from tests.leaderboard.folders import accuracies, change, finish, make_run, make_search
from tests.leaderboard.test_rows import rows


def test_folds_of_pictures_make_one_row_with_an_interval_over_pictures(tmp_path: Path) -> None:
    place = finish(make_search(tmp_path, ("maml",)), {"maml": (0.7, 0.6)})
    options = {"split_by": "pictures", "folds": 2}
    space = files.read_json(place / files.SEARCH)["space"]
    change(place / files.SEARCH, space={**space, "task": {**space["task"], "options": options}})
    rng, strata = np.random.default_rng(0), [row for row in range(12) for _ in range(8)]
    shown = [
        {"moved": (rng.normal(0, 0.02, 96) / 4).tolist(), "one_at_a_time": [0.0] * 96, "strata": strata}
        | {
            "repeats": 5.0,
            "classes": files.read_json(place / files.FINAL / "maml-tuned-seed0/test.json")["classes"],
        }
        for _ in range(2)
    ]
    for variant in ("tuned", "default"):
        for k in range(2):
            run = place / files.FINAL / f"maml-{variant}-seed{k}"
            described = files.read_json(run / files.CONFIG)["run"]
            task = {**described["task"], "options": {**options, "fold": k}}
            change(run / files.CONFIG, run={**described, "task": task})
            change(run / files.TEST, pictures=[shown[k]], tasks_hash=f"{k}" * 64)
    floor = place / files.FINAL / files.NEAREST_MEAN
    change(floor, accuracy=[0.3, *accuracies(0.35, 9)[1:], *accuracies(0.4, 8)], pictures=shown)
    board = leaderboard([place])
    row = rows(board)["maml", "tuned"]
    assert (row["ci_over"], row["test_tasks"], row["seeds"], row["class_low"]) == (
        "seeds and pictures",
        80,
        2,
        None,
    )
    results = [
        files.read_json(place / files.FINAL / f"maml-tuned-seed{k}/test.json")["accuracy"] for k in range(2)
    ]
    assert row["accuracy"] == pytest.approx(np.mean(results))
    spread = sum(
        8 * np.var([one["moved"][8 * c : 8 * c + 8] for one in shown], axis=1, ddof=1).sum()
        for c in range(12)
    )
    assert row["ci_high"] - row["ci_low"] > 2 * 1.96 * 0.5 * np.sqrt(spread) / 2
    assert rows(board)["nearest_mean", "baseline"]["ci_over"] == "pictures"
    assert board["answer"].startswith("With 1 example of each of 5 classes that meta-train also shows, ")
    assert "Cross-validated: the runs take 2 folds in turn" in as_markdown(board)
    (place / files.FINAL / "maml-tuned-seed1" / files.TEST).unlink()
    assert rows(leaderboard([place]))["maml", "tuned"]["accuracy"] is None


def test_a_run_of_one_fold_stands_on_a_board_of_its_own(tmp_path: Path) -> None:
    place = finish(make_search(tmp_path, ("maml",)), {"maml": (0.7, 0.6)})
    run = place / files.FINAL / "maml-tuned-seed0"
    described = files.read_json(run / files.CONFIG)["run"]
    options = {"split_by": "pictures", "folds": 3, "fold": 1}
    change(run / files.CONFIG, run={**described, "task": {**described["task"], "options": options}})
    row = rows(leaderboard([run]))["maml", "run"]
    assert row["accuracy"] == pytest.approx(np.mean(files.read_json(run / files.TEST)["accuracy"]))


def test_an_option_of_that_name_of_other_data_is_no_fold(tmp_path: Path) -> None:
    place = finish(make_search(tmp_path, ("maml",)), {"maml": (0.7, 0.6)})
    for run in (place / files.FINAL).glob("maml-*"):
        described = files.read_json(run / files.CONFIG)["run"]
        options = {"folds": "three", "fold": "last"}
        change(run / files.CONFIG, run={**described, "task": {**described["task"], "options": options}})
    space = files.read_json(place / files.SEARCH)["space"]
    change(place / files.SEARCH, space={**space, "task": {**space["task"], "options": {"folds": "three"}}})
    assert rows(leaderboard([place]))["maml", "tuned"]["seeds"] == 2


def grouped(folder: Path) -> tuple[Path, list[np.ndarray]]:
    """Make a search of two folds of tasks with groups, and return the counts of each fold too."""
    place = finish(make_search(folder, ("maml",)), {"maml": (0.7, 0.6)})
    options, rng = {"folds": 2}, np.random.default_rng(0)
    space = files.read_json(place / files.SEARCH)["space"]
    change(place / files.SEARCH, space={**space, "task": {**space["task"], "options": options}})
    counts = [rng.multinomial(10, rng.dirichlet(np.ones(8)), 40) for _ in range(2)]
    for variant in ("tuned", "default"):
        for k in range(2):
            run = place / files.FINAL / f"maml-{variant}-seed{k}"
            described = files.read_json(run / files.CONFIG)["run"]
            task = {**described["task"], "options": {**options, "fold": k}}
            change(run / files.CONFIG, run={**described, "task": task})
            lines = [str(number % 4) for number in range(40)]
            names = [f"fold {k}, place {number}" for number in range(12)]
            change(run / files.TEST, groups=counts[k].tolist(), classes=lines, class_names=names)
            change(run / files.TEST, tasks_hash=f"{k}" * 64)
    change(place / files.FINAL / files.NEAREST_MEAN, accuracy=[*accuracies(0.35, 9), *accuracies(0.4, 8)])
    return place, counts


def test_folds_of_tasks_make_one_row_whose_places_are_those_of_all_folds(tmp_path: Path) -> None:
    place, counts = grouped(tmp_path)
    board = leaderboard([place])
    row = rows(board)["maml", "tuned"]
    assert (row["test_tasks"], row["classes"]) == (80, 8), "four places of each fold"
    figures = stats.measures(np.concatenate(counts))
    for name in ("dp_gap", "eo_gap", "dp_ratio", "balanced_accuracy"):
        assert row[name] == pytest.approx(figures[name].mean()), name
    over_tasks = stats.mean_interval(figures["dp_gap"])
    assert (row["dp_low"], row["dp_high"]) == pytest.approx((max(0, over_tasks.low), over_tasks.high))
    places = stats.design([[k * 4 + number % 4] for k in range(2) for number in range(40)])
    over_places = stats.class_interval(figures["dp_gap"][None], places)
    assert (row["dp_class_low"], row["dp_class_high"]) == pytest.approx(
        (max(0, over_places.low), over_places.high)
    )
    assert [one[0] for one in row["by_place"]][:2] == ["fold 0, place 0", "fold 0, place 1"]
    assert sum(one[1] for one in row["by_place"]) == 800
    first = stats.measures(counts[0][::4])
    assert row["by_place"][0][3:] == pytest.approx([first["accuracy"].mean(), first["dp_gap"].mean()])


def test_rows_have_no_figures_until_each_of_their_folds_is_tested(tmp_path: Path) -> None:
    place, _ = grouped(tmp_path)
    final = place / files.FINAL
    (final / "maml-default-seed1" / files.TEST).unlink()
    board = leaderboard([place])
    lacking, whole = (rows(board)["maml", variant] for variant in ("default", "tuned"))
    assert (lacking["accuracy"], lacking.get("dp_gap"), lacking["seeds"]) == (None, None, 1)
    assert (whole["test_tasks"], whole["classes"], whole["rank"]) == (80, 8, 1)
    change(place / files.META_TEST, finished=None)
    (final / "maml-tuned-seed1" / files.TEST).unlink()
    board = leaderboard([place])
    floor = rows(board)["nearest_mean", "baseline"]
    assert (floor["test_tasks"], floor["class_low"]) == (80, None)
    assert board["answer"].startswith("So far no row has been tested on every fold, so there is no answer.")


def test_a_fold_that_was_never_trained_leaves_its_row_without_figures(tmp_path: Path) -> None:
    place, _ = grouped(tmp_path)
    final = place / files.FINAL
    shutil.rmtree(final / "maml-default-seed1")
    table = rows(leaderboard([place]))
    assert table["maml", "default"]["accuracy"] is None
    assert table["maml", "tuned"]["vs_default"] is None
    assert table["maml", "tuned"]["test_tasks"] == 80
    parts = [part for section in page.sections(reading.read([place])) for part in section.parts]
    assert "By place" in [part.title for part in parts]
    shutil.rmtree(final / "maml-tuned-seed1")
    assert leaderboard([place])["answer"].startswith("No learner has a result: no row has been tested")
    assert rows(leaderboard([final / "maml-tuned-seed0"]))["maml", "run"]["test_tasks"] == 40


def test_who_guesses_by_thresholds_is_no_floor_that_a_learner_must_surely_beat(tmp_path: Path) -> None:
    place, _ = grouped(tmp_path)
    for run in (place / files.FINAL).glob("maml-*"):
        right = np.zeros((40, 8), int)
        right[:, [0, 3, 4, 7]] = 5  # more accurate than any row
        change(run / files.TEST, groups_at_thresholds=right.tolist())
    board = leaderboard([place])
    assert rows(board)["maml tuned at thresholds", "baseline"]["accuracy"] == 1
    assert "guessing" not in board["answer"]
    assert "WARNING" not in board["answer"]


def test_one_of_two_seeds_that_waits_for_its_test_is_named_once(tmp_path: Path) -> None:
    waiting = make_run(tmp_path / "later", "maml", 1, None)
    tested = make_run(tmp_path / "first", "maml", 0, 0.7)
    counts = dict.fromkeys(("groups", "groups_at_thresholds"), [[1] * 8] * 40)
    change(tested / files.TEST, **counts, classes=["0"] * 40)
    assert as_markdown(leaderboard([tested, waiting])).count(f"`metabench test {waiting}`") == 1
