"""What a board says in sentences: the answer first, and what a number is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metabench.leaderboard import as_latex, as_markdown, leaderboard, notes
from metabench.leaderboard.notes import about, title
from metabench.leaderboard.scores import ALIKE
from metabench.storage import files
from tests.leaderboard.folders import alone, change, finish, make_run, make_search

APART = {"maml": (0.7, 0.6), "fomaml": (0.65, 0.64)}


def runs(folder: Path, means: dict[str, float], seeds: int = 3, **more: Any) -> list[Path]:
    """Make tested runs of algorithms, whose seeds differ by a hundredth."""
    return [
        make_run(folder / f"{name}-{k}", name, 10 * number + k, mean + 0.01 * (k - 1), **more)
        for number, (name, mean) in enumerate(means.items())
        for k in range(seeds)
    ]


def answer(folders: list[Path]) -> str:
    return str(leaderboard(folders)["answer"])


def test_the_answer_stands_first_in_every_form(tmp_path: Path) -> None:
    board = leaderboard([finish(make_search(tmp_path), APART)])
    said = board["answer"]
    assert next(iter(board)) == "answer"
    assert said.startswith("With 1 example of each of 5 new classes, maml tuned is best: accuracy 70.0 %")
    assert as_markdown(board).split("\n\n")[1] == said
    assert as_latex(board).splitlines()[1] == f"% {said}"


def test_it_counts_who_is_surely_worse_and_asks_for_nothing_more(tmp_path: Path) -> None:
    said = answer(runs(tmp_path, {"maml": 0.7, "fomaml": 0.5, "anil": 0.4}))
    assert "maml run is best" in said
    assert said.endswith("Surely worse: all 2 others.")


def test_who_is_surely_worse_is_for_the_comparison_with_the_best_to_say(tmp_path: Path) -> None:
    board = leaderboard(runs(tmp_path, {"maml": 0.7, "fomaml": 0.695, "anil": 0.69}))
    for row, may_be_best in zip(board["rows"], (True, False, True), strict=False):
        row |= {
            "may_be_best": may_be_best,
            "vs_best": row["vs_best"] and {**row["vs_best"], "verdict": ALIKE},
        }
    said = notes.answer(board)
    assert "Surely not the best: fomaml run; not to be told apart from it: anil run." in said


def test_it_names_who_may_be_as_good_and_asks_for_seeds_where_tasks_tell_the_networks_apart(
    tmp_path: Path,
) -> None:
    spread = [make_run(tmp_path / f"a{s}", "maml", s, 0.62 + 0.1 * s) for s in range(2)]
    said = answer(spread + [make_run(tmp_path / f"b{s}", "fomaml", s + 5, 0.6 + 0.1 * s) for s in range(2)])
    assert "maml run is ahead" in said
    assert "Not to be told apart from it: fomaml run." in said
    assert said.endswith("More seeds would tell more (2 now); more test tasks would not.")


def test_it_asks_for_tasks_where_these_cannot_tell_the_networks_apart(tmp_path: Path) -> None:
    said = answer(runs(tmp_path, {"maml": 0.7, "fomaml": 0.7}))
    assert said.endswith("More test tasks would tell more, and so would more seeds (3 now).")


def test_runs_of_folds_are_counted_a_fold(tmp_path: Path) -> None:
    board = leaderboard(runs(tmp_path, {"maml": 0.7, "fomaml": 0.7}))
    for task, said in (
        ({}, "more seeds (3 now)."),
        ({"folds": 3}, "A row of one seed a fold speaks of these"),
    ):
        folded = {**board, "task": {**board["task"], "options": task}}
        assert said in notes.answer(folded)
        assert ("One seed a fold, whose interval" in notes.about(folded, [])) == bool(task)
    assert "more seeds (1 a fold now)" not in notes.answer(folded)


def test_of_one_seed_it_speaks_of_the_trained_network(tmp_path: Path) -> None:
    said = answer(runs(tmp_path, {"maml": 0.7, "fomaml": 0.5}, seeds=1))
    assert "this one trained network of maml run is best" in said
    assert said.endswith("more seeds would tell.")
    text = as_markdown(leaderboard(runs(tmp_path / "again", {"maml": 0.7, "fomaml": 0.5}, seeds=1)))
    assert "One seed, whose interval" in text
    assert "of training again: maml run, fomaml run." in text


def test_verdicts_on_networks_are_not_put_down_to_settings() -> None:
    row = {
        "algorithm": "maml",
        "variant": "run",
        "ci_over": "tasks",
        "seeds": 1,
        "times_opened": 1,
        "rank": 1,
    }
    other = {**row, "algorithm": "fomaml", "rank": 2, "vs_best": {"verdict": "worse network"}}
    board = {"rows": [row, other], "metric": {"name": "accuracy"}, "protocol": 2, "status": "finished"}
    assert "The network of maml run is better than every other row (p < 0.05, Holm)." in about(board, [])


@pytest.mark.parametrize("freeze", ["none", "body", "all"])
@pytest.mark.parametrize("weights", ["DEFAULT", None])
def test_weights_of_others_get_a_warning_whatever_is_frozen(
    tmp_path: Path, freeze: str, weights: str | None
) -> None:
    run = make_run(tmp_path / "run", "maml", 0, 0.7)
    described = files.read_json(run / files.CONFIG)["run"]
    network = {**described["network"], "name": "torchvision/resnet18", "freeze": freeze, "weights": weights}
    change(run / files.CONFIG, run={**described, "network": network})
    board = leaderboard([run])
    warning = "which may show the very classes of meta-test: maml run."
    assert (warning in about(board, [])) == (weights is not None)


def test_a_row_alone_is_not_called_best(tmp_path: Path) -> None:
    said = answer(runs(tmp_path, {"maml": 0.7}))
    assert "maml run reaches accuracy 70.0 %" in said
    assert "worse" not in said
    assert "WARNING" not in said


@pytest.mark.parametrize("mean", [0.205, 0.15])
def test_who_is_not_above_chance_gets_a_warning(tmp_path: Path, mean: float) -> None:
    said = answer(runs(tmp_path, {"maml": mean}))
    assert "WARNING: that is not surely better than guessing (20.0 %)." in said


def test_who_is_above_chance_only_where_queries_are_asked_together_gets_a_warning(tmp_path: Path) -> None:
    said = answer([alone(run, 0.2) for run in runs(tmp_path, {"maml": 0.6})])
    assert "WARNING: one at a time that is not surely better than guessing (20.0 %)." in said
    assert said.count("WARNING") == 1


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        (
            0.3,
            "NO LEARNER IS SHOWN TO BE BETTER THAN nearest_mean, which learns nothing: accuracy 34.",
        ),
        (0.3502, "WARNING: that is not surely better than nearest_mean, which learns nothing (34."),
    ],
)
def test_who_does_not_beat_what_learns_nothing_is_said_loudly(tmp_path: Path, mean: float, text: str) -> None:
    said = answer([finish(make_search(tmp_path, ("maml",)), {"maml": (mean, 0.25)})])
    assert text in said


def test_what_learns_nothing_is_beaten_by_the_best_learner_itself_or_there_is_a_warning(
    tmp_path: Path,
) -> None:
    # Two seeds far apart lead; it is the steady learner behind them that surely beats the floor.
    wide = [make_run(tmp_path / f"wide{seed}", "maml", seed, 0.5 + 0.2 * seed) for seed in range(2)]
    board = leaderboard(
        [*wide, finish(make_search(tmp_path / "search", ("fomaml",)), {"fomaml": (0.55, 0.54)})]
    )
    floor = next(row for row in board["rows"] if row["algorithm"] == "nearest_mean")
    assert not floor["may_be_best"]
    assert "WARNING: that is not surely better than nearest_mean" in board["answer"]
    assert "Surely not the best: fomaml default, nearest_mean; not to be told" in board["answer"]


def test_of_regression_it_says_error_and_that_lower_is_better(tmp_path: Path) -> None:
    means = {"maml": (0.2, 0.3), "fomaml": (0.25, 0.24)}
    said = answer([finish(make_search(tmp_path, metric="error"), means, "error")])
    assert said.startswith(
        "With 10 examples of a new function, maml tuned is best: mean squared error (lower"
    )
    assert "%" not in said
    assert "guessing" not in said


def test_rows_with_the_same_results_are_not_told_apart(tmp_path: Path) -> None:
    same = [make_run(tmp_path / name, name, 0, 0.6) for name in ("maml", "fomaml")]
    assert answer(same).endswith("All rows have the same results: nothing tells them apart.")


def test_a_running_search_has_no_answer_and_its_validation_is_no_result(tmp_path: Path) -> None:
    board = leaderboard([make_search(tmp_path)])
    assert board["answer"] == (
        "Nothing has been tested yet, so there is no answer. On meta-validation maml tuned is ahead with "
        "accuracy 45.0 %, which is what settings are chosen by and no result."
    )
    assert title(board).endswith(", still running")


def test_what_is_trained_and_not_tested_is_not_running_and_says_what_to_do(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "it", "maml", 0, None)
    board = leaderboard([folder])
    assert board["status"] == "untested"
    assert title(board).endswith(", not all tested yet")
    assert "running" not in as_markdown(board)
    for text in (board["answer"], about(board, [])):
        assert f"Trained, but not tested: maml run; do `metabench test {folder}`." in text


def test_where_nothing_learns_nothing_is_said_to_have_failed(tmp_path: Path) -> None:
    said = answer([make_run(tmp_path / "floor", "nearest_mean", 0, 0.35)])
    assert said == "There are only rows that learn nothing, so there is no answer."


def test_where_a_row_is_missing_the_answer_is_preliminary(tmp_path: Path) -> None:
    folders = [*runs(tmp_path, {"maml": 0.7, "fomaml": 0.5}), make_run(tmp_path / "c", "anil", 0, None)]
    assert answer(folders).startswith("Preliminary, since not every row is tested. With 1 example")


def test_who_loses_when_pictures_are_asked_one_at_a_time_is_named_with_both_figures(tmp_path: Path) -> None:
    folders = [alone(run, 0.731) for run in runs(tmp_path, {"maml_pp": 0.97})]
    folders += [alone(run, 0.9) for run in runs(tmp_path, {"protonet": 0.9})]
    board = leaderboard(folders)
    text = as_markdown(board)
    assert "maml_pp run: 97.0 % holds for 75 pictures asked together; one at a time it is 73.1 %." in text
    assert "protonet run:" not in text
    assert "Together: the 75 pictures of a task" in text
    assert "| One at a time % |" in text
    assert "accuracy 97.0 % for 75 pictures asked together (one at a time: 73.1 %)." in board["answer"]
    assert "ONE AT A TIME ANOTHER ROW IS AHEAD: protonet run with 90.0 % against 73.1 %." in board["answer"]


def test_where_both_ways_of_asking_are_the_same_there_is_one_column_and_no_word(tmp_path: Path) -> None:
    folders = runs(tmp_path, {"maml": 0.7, "fomaml": 0.5})
    for run in folders:
        change(run / files.TEST, accuracy_one_at_a_time=files.read_json(run / files.TEST)["accuracy"])
    board = leaderboard(folders)
    text = as_markdown(board)
    assert "ne at a time" not in text
    assert "together" not in text.lower()
    assert "| CI one at a time |" in as_markdown(board, ["one_ci"])


def test_a_transductive_accuracy_of_an_older_result_says_what_is_missing(tmp_path: Path) -> None:
    folders = runs(tmp_path, {"maml": 0.7, "fomaml": 0.5})
    assert "70.0 % for 75 pictures asked together (one at a time: not measured)" in answer(folders)
    for run in folders:
        change(run / files.TEST, batch_norm="support_stats")
    assert "accuracy 70.0 %. Surely worse" in answer(folders)


def test_an_error_that_grows_one_at_a_time_is_named_too(tmp_path: Path) -> None:
    folders = [alone(run, 0.4, "error") for run in runs(tmp_path, {"maml": 0.2}, metric="error")]
    board = leaderboard(folders)
    assert "0.200 holds for 15 points asked together; one at a time it is 0.400." in as_markdown(board)
    assert board["rows"][0]["error_one_at_a_time"] == pytest.approx(0.4, abs=0.001)


def test_the_best_rows_hard_classes_are_named_and_rare_ones_do_not_crowd_them_out(tmp_path: Path) -> None:
    folders = runs(tmp_path, {"maml": 0.7, "fomaml": 0.5}, seeds=2)
    queries, hits = [100] * 11 + [1], [90, 20, *[100] * 9, 0]
    for run in folders:
        pairs = [[1, 0, 41, 100], [11, 2, 1, 1], [0, 1, 5, 100]]
        change(run / files.TEST, by_class={"queries": queries, "hits": hits}, confused=pairs)
    change(folders[1] / files.TEST, confused=[[1, 0, 21, 100]])
    board = leaderboard(folders)
    best = board["rows"][0]
    assert best["hardest"] == [["class 1", 0.2, 200], ["class 0", 0.9, 200], ["class 11", 0.0, 2]]
    assert best["confused"][0] == ["class 1", "class 0", 0.31, 200]
    assert (
        "Hardest classes of maml run: class 1 (20 % of 200 right), class 0 (90 % of 200 right), class 11 "
        "(0 % of 2 right); most often confused: class 1 taken for class 0 in 31 % of 200 cases."
        in as_markdown(board)
    )


def test_older_results_say_nothing_of_classes(tmp_path: Path) -> None:
    board = leaderboard(runs(tmp_path, {"maml": 0.7}))
    assert board["rows"][0]["hardest"] is None
    assert "Hardest" not in as_markdown(board)
