"""A whole small search of few classes: each picture that is not of meta-validation is tested in its fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metabench
from metabench.core import MetabenchError
from metabench.core.config import SearchSpace
from metabench.leaderboard import leaderboard
from metabench.search import search
from metabench.search import space as spaces
from metabench.storage import files
from tests.predict.trained import quickly
from tests.support import backbone

# Ray leaves sockets and pipes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

BUDGET = {"tasks": 20, "trials": 1, "grace": 20, "validation_tasks": 4, "confirm_top": 1, "confirm_tasks": 4}
BUDGET |= {"seeds": 2, "test_tasks": 12}
OPTIONS = {"path": "photographs", "size": 16, "split_by": "pictures", "folds": 2, "meta_validation": 0.3}


def described(**budget: int) -> dict[str, Any]:
    return {
        "task": {"dataset": "folder", "options": OPTIONS, "way": 2, "shot": 1, "query": 2, "test_query": 2},
        "network": {"name": "conv4", "width": 4},
        "budget": {**BUDGET, **budget, "default_runs": False},
        "algorithms": {"protonet": {}},
    }


def test_full_runs_that_leave_a_fold_out_are_refused() -> None:
    with pytest.raises(MetabenchError, match="seeds=3: full runs take the 2 folds in turn; give a multiple"):
        spaces.check(described(seeds=3), "space")


@pytest.mark.slow
def test_a_search_tests_each_picture_in_one_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_folder: None
) -> None:
    monkeypatch.chdir(tmp_path)
    backbone.photographs(Path("photographs"), n_classes=2, n_pictures=13)
    with quickly():
        folder = search(SearchSpace.model_validate(described()), tmp_path, "it", cpus=2)
    tests = [files.read_json(folder / f"final/protonet-tuned-seed{k}/test.json") for k in range(2)]
    assert tests[0]["tasks_hash"] != tests[1]["tasks_hash"]
    assert [sum(len(test["pictures"][0]["strata"]) for test in tests)] == [2 * (13 - 4)]
    rows = {row["name"]: row for row in leaderboard([folder])["rows"]}
    row = rows["protonet:tuned"]
    assert (row["test_tasks"], row["seeds"], row["ci_over"]) == (24, 2, "seeds and pictures")
    assert row["accuracy"] == pytest.approx(np.mean([test["accuracy"] for test in tests]))
    assert rows["nearest_mean:baseline"]["ci_over"] == "pictures"
    assert rows["nearest_mean:baseline"]["test_tasks"] == 24
    opened = files.read_json(folder / files.META_TEST)
    assert opened["tasks"] == 24
    search(SearchSpace.model_validate(described()), tmp_path, "it", cpus=2)  # nothing is left to do
    assert files.read_json(folder / files.META_TEST) == opened
    predicted = metabench.load(folder).fit(["photographs/class0/0.png", "photographs/class1/0.png"], [0, 1])
    assert set(predicted.predict(["photographs/class0/1.png"])) <= {0, 1}
