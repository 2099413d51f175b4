"""A search that is a dict in Python is run by Ray like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

import metabench as mb
from tests.search.conftest import SPACE
from tests.support import backbone


@pytest.mark.slow
@pytest.mark.usefixtures("ray_folder")
def test_a_search_of_a_dict_runs_and_the_same_call_returns_its_board(tmp_path: Path) -> None:
    budget = {**SPACE["budget"], "tasks": 8, "grace": 4, "trials": 2, "seeds": 1, "confirm_top": 1}
    task = {"dataset": "glyphs", "way": 3, "query": 2, "test_query": 3}
    space = {"task": task, "network": {"width": 4}, "budget": budget, "algorithms": {"protonet": {}}}
    board = mb.search(space, tmp_path, cpus=1, quiet=True)
    assert board.best == "protonet:tuned"
    assert mb.search(space, tmp_path, cpus=1, quiet=True).record == board.record


@pytest.mark.slow
@pytest.mark.usefixtures("ray_folder")
def test_small_networks_and_a_frozen_backbone_meet_the_same_tasks_on_one_board(tmp_path: Path) -> None:
    weights = backbone.weights(tmp_path / "weights.safetensors")
    options = {"path": str(backbone.photographs(tmp_path / "photographs")), "size": 16}
    shares = {"meta_train": 0.34, "meta_validation": 0.33}
    budget = {**SPACE["budget"], "tasks": 8, "grace": 4, "trials": 2, "seeds": 1, "confirm_top": 1}
    space = {
        "task": {
            "dataset": "folder",
            "options": {**options, **shares},
            "way": 3,
            "query": 2,
            "test_query": 3,
        },
        "network": {"width": 4},
        "networks": {"tiny": backbone.network(weights)},
        "budget": budget,
        "algorithms": {"protonet": {}, "protonet.tiny": {}, "simpleshot.tiny": {}},
    }
    board = mb.search(space, tmp_path, cpus=1, quiet=True)
    rows = {row["name"]: row for row in board.record["rows"]}
    assert {*rows} >= {
        "protonet:tuned",
        "protonet.tiny:tuned",
        "simpleshot.tiny:tuned",
        "nearest_mean:baseline",
    }
    assert len({row["tasks_hash"] for row in rows.values() if row["algorithm"] != "chance"}) == 1
    networks = {row["algorithm"]: row["network"] for row in rows.values()}
    assert networks["protonet"] == "conv4"
    assert networks["protonet.tiny"] == "tests.support.backbone:make, frozen"
    assert "other pictures have trained" in " ".join(str(board).split())
    assert rows["simpleshot.tiny:tuned"]["network_parameters"] > rows["simpleshot.tiny:tuned"]["parameters"]
    classifier = mb.load(board.folder, "simpleshot.tiny:tuned")
    folders = sorted(Path(options["path"]).iterdir())[:3]
    classifier.fit([next(one.glob("*.png")) for one in folders], [one.name for one in folders])
    shown = [path for one in folders for path in sorted(one.glob("*.png"))]
    assert classifier.score(shown, [path.parent.name for path in shown]) > 1 / 3
