"""One question on two rows: the answer is that of the files, in words and numbers, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metabench import leaderboard, stats
from metabench.core import MetabenchError
from metabench.leaderboard import versus
from metabench.storage import files
from tests.leaderboard.folders import accuracies, change, finish, make_run, make_search

MEANS = {"maml": (0.7, 0.6), "fomaml": (0.65, 0.64)}


def compare(*folders: Path, rows: str = "") -> dict[str, Any]:
    return versus.compare(leaderboard.read(folders), rows.split(",") if rows else [])


def test_two_rows_of_a_search_are_compared_in_a_sentence(tmp_path: Path) -> None:
    result = compare(finish(make_search(tmp_path), MEANS), rows="maml:default,fomaml:tuned")
    a, b = ([accuracies(mean, seed) for seed in seeds] for mean, seeds in ((0.6, (2, 3)), (0.65, (0, 1))))
    expected = stats.paired(a, b, scale="share")
    assert [result[key] for key in ("difference", "ci_low", "ci_high", "p")] == [
        expected.difference,
        expected.low,
        expected.high,
        expected.p,
    ]
    assert (result["a"]["name"], result["b"]["name"], result["verdict"]) == (
        "maml:default",
        "fomaml:tuned",
        "worse",
    )
    low, high = -100 * expected.high, -100 * expected.low
    assert result["sentence"].startswith(
        "fomaml:tuned (65.0%) is better than maml:default (59.9%) by "
        f"{-100 * expected.difference:.1f} points (95 % interval over seeds and tasks "
        f"[{low:+.1f}, {high:+.1f}] points, p = {expected.p:.2g} alone and "
        f"p = {result['p_holm']:.2g} as one of the board's 10 pairs; "
    )
    assert "the same 40 tasks; 2 seeds against 2 seeds" in result["sentence"]
    assert "On other test classes that" in result["sentence"]


def test_who_is_better_together_is_said_with_what_both_have_one_at_a_time(tmp_path: Path) -> None:
    search = finish(make_search(tmp_path), MEANS)
    for name, alone in (("maml-default", 0.5), ("fomaml-tuned", 0.25)):
        for run in (search / files.FINAL).glob(f"{name}-seed*"):
            change(run / files.TEST, accuracy_one_at_a_time=[alone] * 40)
    result = compare(search, rows="maml:default,fomaml:tuned")
    assert result["a"]["accuracy_one_at_a_time"] == 0.5
    assert result["sentence"].endswith("one at a time maml:default has 50.0% and fomaml:tuned has 25.0%.")


def test_the_best_row_of_each_folder_is_chosen_without_the_test(tmp_path: Path) -> None:
    search = finish(make_search(tmp_path / "search"), MEANS)
    chosen = files.read_json(search / files.CHOSEN)
    chosen["fomaml"]["confirm_accuracy"] = 0.59  # above maml's, which is better on the test
    files.write_json(search / files.CHOSEN, chosen)
    result = compare(search, make_run(tmp_path / "run", "protonet", 0, 0.7))
    assert (result["a"]["name"], result["b"]["name"]) == ("fomaml:tuned", "protonet:run")
    assert result["chosen_by"] == "confirmation or validation"
    assert result["over"] == "tasks"
    assert "With one seed, nothing is said of training again." in result["sentence"]


def test_what_cannot_be_told_apart_is_said_so(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / name, name, seed, 0.6) for seed, name in enumerate(("maml", "fomaml")))
    result = compare(a, b)
    assert result["verdict"] == "not distinguishable"
    assert result["p"] > 0.05
    assert "are not distinguishable: " in result["sentence"]


def test_with_one_seed_networks_are_compared_and_not_settings(tmp_path: Path) -> None:
    a, b = (
        make_run(tmp_path / name, name, seed, mean)
        for seed, (name, mean) in enumerate((("maml", 0.7), ("fomaml", 0.6)))
    )
    result = compare(a, b)
    assert (result["verdict"], result["about"], result["over"]) == ("better network", "networks", "tasks")
    assert result["sentence"].startswith(
        "These networks, not their settings: maml:run (70.0%) is better than"
    )
    assert compare(b, a)["verdict"] == "worse network"


def test_the_verdict_is_that_of_the_board_and_what_a_pair_says_alone_stands_beside(tmp_path: Path) -> None:
    search = finish(make_search(tmp_path), MEANS)
    for number, test in enumerate(sorted(search.glob(f"{files.FINAL}/*/{files.TEST}"))):
        drawn = accuracies(0.7 + 0.006 * (number // 2), 100 + number)
        files.write_json(test, {**files.read_json(test), "accuracy": drawn})
    rows = {(pair["a"], pair["b"]): pair for pair in leaderboard.leaderboard([search])["comparisons"]}
    contested = [pair for pair, said in rows.items() if said["p"] < 0.05 <= said["p_holm"]]
    assert contested
    for a, b in [*contested[:2], *list(rows)[:2]]:
        result, said = compare(search, rows=f"{a},{b}"), rows[a, b]
        for key in ("verdict", "p", "p_holm", "difference", "ci_low"):
            assert result[key] == said[key]
        disagrees = (a, b) in contested
        assert (result["verdict_alone"] != result["verdict"]) == disagrees
        assert ("Alone they would be told apart" in result["sentence"]) == disagrees
        assert f"as one of the board's {result['pairs']} pairs" in result["sentence"]


def test_the_same_results_are_called_so(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / name, name, 0, 0.6) for name in ("maml", "fomaml"))
    result = compare(a, b)
    assert (result["verdict"], result["difference"], result["p"]) == ("identical", 0, None)
    assert result["sentence"] == "maml:run (60.0%) and fomaml:run (60.0%) have the very same results."


def test_rows_of_two_folders_with_the_same_name_are_told_apart(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / name, "maml", 0, mean, lr=mean) for name, mean in (("a", 0.6), ("b", 0.5)))
    result = compare(a, b)
    assert (result["a"]["name"], result["b"]["name"]) == (f"maml:run@{a}", f"maml:run@{b}")
    assert f"maml:run@{a} (60.0%) is better than maml:run@{b} (50.0%)" in result["sentence"]


def test_of_errors_the_lower_is_called_better(tmp_path: Path) -> None:
    means = {"maml": (0.2, 0.3), "fomaml": (0.25, 0.24)}
    search = finish(make_search(tmp_path, metric="error"), means, "error")
    sentence = compare(search, rows="maml:tuned,maml:default")["sentence"]
    assert sentence.startswith(
        "maml:tuned (0.200) is better than maml:default (0.299) by 0.0992 (95 % interval over "
    )


def test_a_baseline_stands_for_no_training(tmp_path: Path) -> None:
    result = compare(finish(make_search(tmp_path), MEANS), rows="nearest_mean,maml:tuned")
    assert "no training against 2 seeds" in result["sentence"]
    assert result["over"] == "seeds and tasks"


def test_a_figure_that_is_not_a_number_is_not_compared(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / name, name, 0, 0.6) for name in ("maml", "fomaml"))
    test = files.read_json(b / files.TEST)
    files.write_json(b / files.TEST, {**test, "accuracy": [None, *test["accuracy"][1:]]})
    result = compare(a, b)
    assert (result["verdict"], result["difference"]) == (None, None)
    assert "cannot be compared" in result["sentence"]


REFUSED = {
    "one folder": (("search",), "", "give a second folder, or two rows"),
    "three folders": (("search", "run", "untested"), "", "give two"),
    "one row": (("search",), "maml:tuned", "must name two rows"),
    "a typo": (("search",), "maml:tuned,fomaml:tunde", "Did you mean 'fomaml:tuned'"),
    "an algorithm of several rows": (
        ("search",),
        "maml,fomaml:tuned",
        "several of them: maml:tuned, maml:default",
    ),
    "the same row": (("search",), "maml:tuned,maml:tuned", "the same row twice"),
    "untested": (("search", "untested"), "", "has no meta-test result"),
    "an untested row": (("search", "untested"), "maml:tuned,reptile:run", "no meta-test result of it yet"),
    "other tasks": (("search", "other"), "", "cannot stand on one leaderboard"),
}


@pytest.mark.parametrize(("names", "asked", "part"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_answer_is_refused(tmp_path: Path, names: tuple[str, ...], asked: str, part: str) -> None:
    finish(make_search(tmp_path / "search"), MEANS)
    make_run(tmp_path / "run", "protonet", 0, 0.7)
    make_run(tmp_path / "untested", "reptile", 0, None)
    make_run(tmp_path / "other", "protonet", 0, 0.7, tasks_hash="b" * 64)
    with pytest.raises(MetabenchError, match=part):
        compare(*(tmp_path / name for name in names), rows=asked)
