"""Names of rows: by algorithm and variant, and where that is not enough by what differs, or the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metabench.leaderboard import as_markdown, leaderboard
from metabench.storage import files
from tests.leaderboard.folders import NETWORK, change, finish, make_run, make_search


def relabel(folder: Path, **changes: Any) -> Path:
    """Change what is recorded of how a run was trained."""
    described = files.read_json(folder / files.CONFIG)["run"]
    change(folder / files.CONFIG, run={**described, **changes})
    return folder


def test_runs_of_one_algorithm_are_named_by_what_differs(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"a{lr}", "maml", 0, 0.6, lr=lr) for lr in (0.1, 0.01)]
    folders += [make_run(tmp_path / "b", "fomaml", 0, 0.5)]
    board = leaderboard(folders)
    names = {row["name"] for row in board["rows"]}
    assert names == {"maml:run@inner_lr=0.1", "maml:run@inner_lr=0.01", "fomaml:run", "chance:baseline"}
    assert "| maml | run inner_lr=0.01 |" in as_markdown(board)
    relabel(folders[1], tasks=50, network={**NETWORK, "norm": "none"})
    names = {row["name"] for row in leaderboard(folders)["rows"]}
    assert "maml:run@inner_lr=0.01+norm=none+tasks=50" in names
    names = {row["name"] for row in leaderboard(folders[1:])["rows"]}
    assert names == {"maml:run", "fomaml:run", "chance:baseline"}


def test_runs_that_differ_in_too_much_to_read_are_named_by_folder(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"a{lr}", "maml", 0, 0.6, lr=lr) for lr in (0.1, 0.01)]
    relabel(folders[1], tasks=50, network={**NETWORK, "norm": "none", "width": 3})
    names = {row["name"] for row in leaderboard(folders)["rows"]}
    assert {f"maml:run@{folder}" for folder in folders} < names
    again = make_run(tmp_path / "again", "maml", 1, 0.6, lr=0.1)
    names = {row["name"] for row in leaderboard([*folders, again])["rows"]}
    assert f"maml:run@{folders[0]}+{again}" in names  # a comma would end a name in `rows`


def test_runs_that_no_label_tells_apart_are_named_by_folder(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, "maml", seed, 0.6) for seed, name in enumerate("ab")]
    folders += [make_run(tmp_path / "c", "maml", 0, 0.5, lr=0.01)]
    relabel(folders[1], rungs=[25, 100])
    board = leaderboard(folders)
    named = {row["name"]: row for row in board["rows"]}
    assert {f"maml:run@{folders[0]}", f"maml:run@{folders[1]}", "maml:run@inner_lr=0.01"} < named.keys()
    assert sum(row["vs_best"] is None for row in board["rows"]) == 2  # the best, and chance


def test_searches_with_the_same_algorithms_are_named_by_folder(tmp_path: Path) -> None:
    searches = [
        finish(make_search(tmp_path / name), {"maml": (0.7, 0.6), "fomaml": (0.65, 0.64)}) for name in "ab"
    ]
    board = leaderboard(searches)
    assert {f"maml:tuned@{search}" for search in searches} < {row["name"] for row in board["rows"]}
    assert f"maml tuned ({searches[0]})" in board["answer"]
