"""What rows say beside their mean: ranks, comparisons, optimism, cost, and the opening of meta-test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from metabench import stats
from metabench.core import MetabenchError
from metabench.core.metrics import ACCURACY
from metabench.leaderboard import as_markdown, leaderboard, scores
from metabench.leaderboard.notes import about
from metabench.storage import files
from tests.leaderboard.folders import CLASSES, accuracies, finish, make_run, make_search, report

MEANS = {"maml": (0.7, 0.6), "fomaml": (0.7, 0.64)}


def rows(board: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in board["rows"]}


def change(path: Path, **values: Any) -> None:
    files.write_json(path, {**files.read_json(path), **values})


def test_rows_that_cannot_be_told_apart_share_their_ranks_and_it_is_said(tmp_path: Path) -> None:
    seeds = {"maml": (0, 1, 2), "fomaml": (3, 4, 5), "reptile": (6, 7, 8)}
    means = {"maml": 0.7, "fomaml": 0.7, "reptile": 0.5}
    runs = [
        make_run(tmp_path / f"{name}{seed}", name, seed, means[name])
        for name in seeds
        for seed in seeds[name]
    ]
    board = leaderboard(runs)
    table = rows(board)
    ranks = {name: (row["rank"], row["rank_worst"]) for name, row in table.items()}
    assert ranks == {
        "maml:run": (1, 2),
        "fomaml:run": (1, 2),
        "reptile:run": (3, 3),
        "chance:baseline": (None, None),
    }
    best, alike = sorted((table["maml:run"], table["fomaml:run"]), key=lambda row: -row["accuracy"])
    assert best["vs_best"] is None
    assert alike["vs_best"]["verdict"] == "not distinguishable"
    text = as_markdown(board)
    assert (
        f"Not distinguishable from {best['algorithm']} run (p < 0.05, Holm): {alike['algorithm']} run."
        in text
    )


@pytest.mark.parametrize(
    ("verdicts", "sentence"),
    [
        (
            ["identical", "worse"],
            "maml tuned is better than every other row but maml default, which has the same",
        ),
        (["worse", "worse"], "maml tuned is better than every other row (p < 0.05, Holm)."),
        (["identical"], ""),
    ],
)
def test_the_best_row_is_not_called_better_than_its_own_runs(verdicts: list[str], sentence: str) -> None:
    shared = {"ci_over": "seeds and tasks", "seeds": 5, "times_opened": 1}
    best = {**shared, "algorithm": "maml", "variant": "tuned", "rank": 1, "vs_best": None}
    others = [
        {**shared, "algorithm": name, "variant": "default", "rank": 2, "vs_best": {"verdict": verdict}}
        for name, verdict in zip(("maml", "fomaml"), verdicts, strict=False)
    ]
    board = {"rows": [best, *others], "metric": {"name": "accuracy"}, "protocol": 2, "status": "finished"}
    said = about(board, [])
    assert sentence in said
    assert ("better than every other row" in said) == bool(sentence)


def test_a_default_that_was_chosen_is_tested_once_and_not_against_itself(tmp_path: Path) -> None:
    search = finish(make_search(tmp_path), {"maml": (0.7, 0.6), "fomaml": (0.65, 0.64)})
    for seed in (0, 1):
        make_run(search / files.FINAL / f"maml-default-seed{seed}", "maml", seed, 0.7, lr=0.4)
    board = leaderboard([search])
    verdicts = {(pair["a"], pair["b"]): pair for pair in board["comparisons"]}
    same = verdicts["maml:tuned", "maml:default"]
    assert (same["verdict"], same["difference"], same["p"]) == ("identical", 0, None)
    tuned, default = (verdicts[name, "fomaml:default"] for name in ("maml:tuned", "maml:default"))
    assert {**tuned, "a": ""} == {**default, "a": ""}
    # Six tests of four results, and not ten of five rows.
    distinct = {pair["p"]: pair["p_holm"] for pair in board["comparisons"] if pair["p"] is not None}
    assert len(distinct) == 6
    assert list(distinct.values()) == pytest.approx(stats.holm(list(distinct)))
    table = rows(board)
    assert [(table[name]["rank"], table[name]["rank_worst"]) for name in ("maml:tuned", "maml:default")] == [
        (1, 2),
        (1, 2),
    ]
    assert "| maml | default | 1–2 | 70.0 | 67.4–72.5 | 67.4–72.5 | identical |" in as_markdown(board)


def entry(name: str, figures: np.ndarray, is_trained: bool = True) -> scores.Entry:
    return scores.Entry({"name": name, "accuracy": float(figures.mean())}, scores.Scored(figures, is_trained))


def ranked(*entries: scores.Entry) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Compare and rank rows, by name."""
    compared = scores.compare(entries, ACCURACY)
    scores.rank(entries, compared, ACCURACY)
    return {one.row["name"]: one.row for one in entries}, compared


def drawn(mean: float, n_seeds: int, seed: int) -> np.ndarray:
    return np.array([accuracies(mean, seed + number) for number in range(n_seeds)])


def test_what_learns_nothing_is_tested_once_however_often_it_stands_there() -> None:
    floor = drawn(0.35, 1, 9)
    trained = [entry("a", drawn(0.7, 3, 0)), entry("b", drawn(0.69, 3, 10))]
    once, pairs = ranked(*trained, entry("nearest", floor, False))
    thrice, more = ranked(
        *trained,
        *(entry(name, floor, False) for name in ("nearest", "again")),
        entry("over three seeds", np.repeat(floor, 3, axis=0), False),
    )
    assert len(more) == 10
    for pair in pairs:
        assert pair in more
    assert all(pair["verdict"] == "identical" for pair in more if pair["a"] not in ("a", "b"))
    assert [thrice[name]["p_best"] for name in once] == [once[name]["p_best"] for name in once]


def test_with_one_seed_a_verdict_is_one_on_networks() -> None:
    table, pairs = ranked(
        entry("one", drawn(0.7, 1, 0)),
        entry("three", drawn(0.6, 3, 10)),
        entry("four", drawn(0.5, 4, 20)),
        entry("floor", drawn(0.3, 1, 30), False),
        entry("zero", drawn(0.2, 1, 40), False),
    )
    verdicts = {(pair["a"], pair["b"]): pair["verdict"] for pair in pairs}
    assert {verdicts["one", other] for other in ("three", "four", "floor")} == {"better network"}
    assert verdicts["three", "four"] == verdicts["three", "floor"] == verdicts["floor", "zero"] == "better"
    assert {table[name]["vs_best"]["verdict"] for name in ("three", "floor")} == {"worse network"}
    assert [row["rank"] for row in table.values()] == [1, 2, 3, 4, 5]


def test_rows_that_may_be_the_best_are_those_that_no_other_surely_beats() -> None:
    table, pairs = ranked(
        *(entry(f"equal {number}", drawn(0.7, 3, 10 * number)) for number in range(3)),
        entry("behind", drawn(0.6, 3, 50)),
        entry("broken", np.full((3, 40), np.nan)),
    )
    assert [row.get("may_be_best") for row in table.values()] == [True, True, True, False, None]
    least = min(pair["p"] for pair in pairs if pair["b"] == "behind")
    assert table["behind"]["p_best"] == pytest.approx(3 * least / 2)  # three others, one side
    alone, _ = ranked(entry("alone", drawn(0.7, 3, 0)))
    assert (alone["alone"]["may_be_best"], alone["alone"]["p_best"]) == (True, 1)


def test_no_bound_on_a_board_passes_0_or_100_percent(tmp_path: Path) -> None:
    runs = []
    for name, mean, spread in (("maml", 0.99, 0.01), ("fomaml", 0.02, 0.02), ("protonet", 1.0, 0.0)):
        for seed in (0, 1):
            run = make_run(tmp_path / f"{name}{seed}", name, seed, 0.5)
            drawn = np.random.default_rng(seed).normal(mean - spread * seed, spread, 40).clip(0, 1)
            change(run / files.TEST, accuracy=drawn.tolist())
            runs.append(run)
    board = leaderboard(runs)
    for row in (row for row in board["rows"] if row["seeds"]):
        bounds = [
            row[key] for key in ("ci_low", "seed_low", "class_low", "ci_high", "seed_high", "class_high")
        ]
        assert None not in bounds
        assert 0 <= min(bounds) <= row["accuracy"] <= max(bounds) <= 1
        assert all(low < high for low, high in zip(bounds[:3], bounds[3:], strict=True))
    assert all(-1 <= pair["ci_low"] <= pair["ci_high"] <= 1 for pair in board["comparisons"])


def test_every_pair_is_compared_once_the_better_first_and_adjusted_together(tmp_path: Path) -> None:
    board = leaderboard([finish(make_search(tmp_path), {"maml": (0.7, 0.6), "fomaml": (0.65, 0.64)})])
    pairs = board["comparisons"]
    assert len({frozenset((pair["a"], pair["b"])) for pair in pairs}) == len(pairs) == 10
    assert all(pair["difference"] > 0 for pair in pairs)
    assert [pair["p_holm"] for pair in pairs] == pytest.approx(stats.holm([pair["p"] for pair in pairs]))
    one = next(pair for pair in pairs if pair["b"] == "maml:default" and pair["a"] == "maml:tuned")
    tuned, default = (
        [accuracies(mean, seed) for seed in seeds] for mean, seeds in ((0.7, (0, 1)), (0.6, (2, 3)))
    )
    expected = stats.paired(tuned, default, scale="share")
    assert [one[key] for key in ("difference", "ci_low", "ci_high", "p", "higher")] == [
        expected.difference,
        expected.low,
        expected.high,
        expected.p,
        expected.higher,
    ]
    against = rows(board)["maml:default"]["vs_best"]
    assert against["difference"] == -one["difference"]
    assert (against["ci_low"], against["ci_high"]) == (-one["ci_high"], -one["ci_low"])
    assert (against["verdict"], one["verdict"]) == ("worse", "better")


def test_of_errors_the_lower_is_better(tmp_path: Path) -> None:
    means = {"maml": (0.2, 0.3), "fomaml": (0.25, 0.24)}
    board = leaderboard([finish(make_search(tmp_path, metric="error"), means, "error")])
    table = rows(board)
    assert [table[name]["rank"] for name in ("maml:tuned", "fomaml:default", "maml:default")] == [1, 2, 4]
    assert all(pair["difference"] < 0 for pair in board["comparisons"])
    assert {pair["verdict"] for pair in board["comparisons"]} == {"better"}
    # The fixture validated at 0.6 and tested at 0.2: worse then, so no optimism but the contrary.
    assert table["maml:tuned"]["val_optimism"] == pytest.approx(-0.4, abs=0.01)


def test_the_interval_over_classes_is_that_of_the_recorded_classes(tmp_path: Path) -> None:
    row = rows(leaderboard([finish(make_search(tmp_path), MEANS)]))["maml:tuned"]
    design = stats.design([[int(name) for name in line.split()] for line in CLASSES])
    expected = stats.class_interval([accuracies(0.7, seed) for seed in (0, 1)], design, "share")
    assert (row["class_low"], row["class_high"], row["class_over"]) == pytest.approx(
        (expected.low, expected.high, "seeds, classes and tasks")
    )
    again = stats.seed_interval([accuracies(0.7, seed) for seed in (0, 1)], "share")
    assert (row["seed_low"], row["seed_high"], row["classes"]) == pytest.approx((again.low, again.high, 12))


def test_the_optimism_is_what_was_seen_before_less_the_test(tmp_path: Path) -> None:
    row = rows(leaderboard([finish(make_search(tmp_path), MEANS)]))["maml:tuned"]
    assert row["val_optimism"] == pytest.approx(0.6 - row["accuracy"])
    assert row["confirm_optimism"] == pytest.approx(0.58 - row["accuracy"])
    running = rows(leaderboard([make_search(tmp_path / "running")]))["maml:tuned"]
    assert running["val_optimism"] is None


def test_what_is_not_a_number_has_no_rank_and_no_verdict(tmp_path: Path) -> None:
    good, broken = (make_run(tmp_path / name, name, 0, 0.6) for name in ("maml", "reptile"))
    other = make_run(tmp_path / "fomaml", "fomaml", 1, 0.5)
    change(broken / files.TEST, accuracy=[None, *accuracies(0.9, 0)[1:]])
    board = leaderboard([good, broken, other])
    row = rows(board)["reptile:run"]
    assert [row[key] for key in ("accuracy", "ci_low", "class_low", "rank", "vs_best", "val_optimism")] == [
        None
    ] * 6
    assert rows(board)["fomaml:run"]["rank"] == 2
    verdicts = {(pair["a"], pair["b"]): (pair["verdict"], pair["p_holm"]) for pair in board["comparisons"]}
    assert [verdict for pair, verdict in verdicts.items() if "reptile:run" in pair] == [(None, None)] * 2


def test_accelerator_seconds_weigh_each_stretch_by_its_share_of_a_gpu(tmp_path: Path) -> None:
    search = finish(make_search(tmp_path), MEANS)
    last = report(30, None, finite=False)
    reports = [{**last, "seconds": 4.0, "gpus": 0.5}, {**last, "seconds": 10.0, "gpus": 0.25}]
    lines = [{**line, "reports": reports} for line in files.read_lines(search / files.TRIALS)]
    files.write_lines(search / files.TRIALS, lines)
    change(search / files.META_TEST, gpus=0.5)
    table = rows(leaderboard([search]))
    assert table["maml:tuned"]["search_accelerator_seconds"] == 2 * (4 * 0.5 + 6 * 0.25)
    assert table["maml:default"]["training_accelerator_seconds"] == 10 * 0.5
    # Without a GPU it is the process that counts; without a record nothing is known.
    reports = [{**last, "seconds": 10.0, "gpus": 0.0}]
    files.write_lines(
        search / files.TRIALS, [{**line, "reports": reports} for line in lines[:-1]] + lines[-1:]
    )
    assert rows(leaderboard([search]))["maml:tuned"]["search_accelerator_seconds"] == 20
    files.write_lines(
        search / files.TRIALS, [{**line, "reports": [{**last, "seconds": 1.0}]} for line in lines]
    )
    assert rows(leaderboard([search]))["maml:tuned"]["search_accelerator_seconds"] is None


def test_parameters_are_what_is_learnt_and_not_running_statistics(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "maml", 0, None)
    save_file(
        {"meta.head.weight": np.zeros((5, 8)), "meta.lr": np.zeros(()), "buffers.mean": np.zeros(100)},
        run / files.WEIGHTS,
    )
    assert rows(leaderboard([run]))["maml:run"]["parameters"] == 41
    (run / files.WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(MetabenchError, match="no weights"):
        leaderboard([run])


def test_each_opening_of_meta_test_counts_and_is_flagged(tmp_path: Path) -> None:
    search = finish(make_search(tmp_path), MEANS)
    change(search / files.META_TEST, times_opened=1, config_hash="e" * 64)
    row = rows(leaderboard([search]))["maml:tuned"]
    assert (row["times_opened"], row["config_hash"]) == (1, "e" * 64)
    for number in (1, 2):
        files.write_json(
            search / "earlier" / str(number) / files.META_TEST, {"finished": "2026", "times_opened": number}
        )
    board = leaderboard([search])
    assert rows(board)["maml:tuned"]["times_opened"] == 3
    assert "Meta-test was opened more than once for: maml tuned," in as_markdown(board)
    (search / files.META_TEST).unlink()  # as where the search goes on after that
    assert leaderboard([search])["status"] == "running"


def test_few_seeds_are_told_below_the_table(tmp_path: Path) -> None:
    text = as_markdown(leaderboard([make_run(tmp_path / "a", "maml", 0, 0.6)]))
    assert "One seed, whose interval and rank say nothing of training again: maml run." in text
    two = [make_run(tmp_path / f"b{seed}", "fomaml", seed, 0.6) for seed in (0, 1)]
    text = as_markdown(leaderboard(two))
    assert "Two seeds, whose interval is rough and covers 94 to 99, not 95 %: fomaml run." in text
    three = [*two, make_run(tmp_path / "b2", "fomaml", 2, 0.6)]
    assert "seed, whose" not in as_markdown(leaderboard(three))


def test_rows_of_several_searches_are_told_apart_by_folder_and_a_copy_is_refused(tmp_path: Path) -> None:
    a, b = (finish(make_search(tmp_path / name), MEANS) for name in "ab")
    for folder, created in ((a, "2026-01-01T00:00:00+00:00"), (b, "2026-02-02T00:00:00+00:00")):
        change(folder / files.SEARCH, created=created, seed=0)
    names = set(rows(leaderboard([a, b])))
    assert {f"maml:tuned@{a}", f"maml:tuned@{b}", "nearest_mean:baseline"} <= names
    change(b / files.SEARCH, created="2026-01-01T00:00:00+00:00")
    with pytest.raises(MetabenchError, match=r"a and .*b hold the same search; give it once"):
        leaderboard([a, b])
