"""A search that is a dict in Python is run by Ray like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

import metabench as mb
from tests.search.conftest import SPACE


@pytest.mark.slow
@pytest.mark.usefixtures("ray_folder")
def test_a_search_of_a_dict_runs_and_the_same_call_returns_its_board(tmp_path: Path) -> None:
    budget = {**SPACE["budget"], "tasks": 8, "grace": 4, "trials": 2, "seeds": 1, "confirm_top": 1}
    task = {"dataset": "glyphs", "way": 3, "query": 2, "test_query": 3}
    space = {"task": task, "network": {"width": 4}, "budget": budget, "algorithms": {"protonet": {}}}
    board = mb.search(space, tmp_path, cpus=1, quiet=True)
    assert board.best == "protonet:tuned"
    assert mb.search(space, tmp_path, cpus=1, quiet=True).record == board.record
