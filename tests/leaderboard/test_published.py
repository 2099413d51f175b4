"""Published figures beside measured ones: which, and that they are no results of ours."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from metabench import leaderboard
from metabench.leaderboard import published
from metabench.storage import files
from tests.leaderboard.folders import TASK, finish, make_search

OMNIGLOT = {**TASK, "dataset": "omniglot"}


def shown(folder: Path, **task: Any) -> dict[str, Any]:
    search = finish(make_search(folder), {"maml": (0.7, 0.6)})
    record = files.read_json(search / files.SEARCH)
    record["space"]["algorithms"] = {"maml": {}}
    record["space"]["task"] |= task
    files.write_json(search / files.SEARCH, record)
    return leaderboard.leaderboard([search], published=True)


def test_they_stand_in_the_order_but_have_no_rank_and_are_compared_with_nothing(tmp_path: Path) -> None:
    board = shown(tmp_path, dataset="omniglot")
    first = board["rows"][0]
    assert [first[key] for key in ("algorithm", "variant", "status", "model")] == [
        "maml_pp",
        "published",
        "published",
        "ensemble of 5",
    ]
    reference = [row for row in board["rows"] if row["variant"] == "published"]
    assert len(reference) == 6
    assert all(row["rank"] is None and row["seeds"] is None and row["source"] for row in reference)
    assert not any("published" in pair["a"] + pair["b"] for pair in board["comparisons"])
    assert board["status"] == "finished"
    maml = next(row for row in reference if row["algorithm"] == "maml")
    assert (maml["accuracy"], maml["ci_low"], maml["ci_over"]) == pytest.approx(
        (0.987, 0.983, "as published")
    )
    text = leaderboard.as_markdown(board)
    assert "Published rows are references: not measured here" in text
    assert "second hand" in text


def test_clouderas_cells_belong_to_their_pool_way_and_shot(tmp_path: Path) -> None:
    task = {**TASK, "dataset": "quickdraw", "split": "cloudera", "options": {"examples_per_class": 20}}
    assert [one.percent for one in published.figures(task)] == [59.36]
    assert published.figures({**task, "options": {}})[0].percent == 68.32
    assert published.figures({**task, "shot": 3}) == ()
    assert published.figures({**task, "split": "meta_dataset"}) == ()


def test_figures_of_tasks_with_other_queries_say_so_and_why_it_counts(tmp_path: Path) -> None:
    task = {"dataset": "quickdraw", "split": "cloudera", "options": {"examples_per_class": 20}}
    board = shown(tmp_path / "other", **task)
    (row,) = [row for row in board["rows"] if row["variant"] == "published"]
    assert row["source"].endswith("results.json; tested with 1 query a class, here 15")
    assert "with transductive batch norm that counts" in leaderboard.as_markdown(board)
    alike = shown(tmp_path / "alike", **task, test_query=1)
    assert "tested with" not in leaderboard.as_markdown(alike)
    counts = {
        (cell["shot"], one["test_query"])
        for cell in published.cells()["quickdraw"]["cells"]
        for one in cell["figures"]
    }
    assert counts == {(1, 1), (5, 5), (10, 10)}


@pytest.mark.parametrize(
    "special",
    [
        {"unlabelled": 2},
        {"domains": "within"},
        {"way": {"low": 3, "high": 5}},
        {"split": "lake"},
        {"shot": 7},
    ],
)
def test_tasks_that_were_not_published_have_none(special: dict[str, Any]) -> None:
    assert published.figures(OMNIGLOT)
    assert published.figures({**OMNIGLOT, **special}) == ()


def test_the_cells_that_are_trained_again_have_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    cells = importlib.import_module("published").CELLS
    checked = 0
    for cell in cells:
        if cell.task["dataset"] in ("omniglot", "quickdraw"):
            by_algorithm = {one.algorithm: one for one in published.figures({**TASK, **cell.task})}
            assert by_algorithm[cell.algorithm].percent == cell.published
            assert by_algorithm[cell.algorithm].half_width == cell.published_ci
            checked += 1
    assert checked == 21
