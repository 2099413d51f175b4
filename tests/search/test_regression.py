"""A whole small search of sinusoids: what is lowest wins at every stage, and nothing is called accuracy."""

from __future__ import annotations

import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metabench.core.config import SearchSpace
from metabench.search import search
from metabench.storage import files, records

# Ray leaves sockets and pipes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

SPACE: dict[str, Any] = {
    "task": {"dataset": "sinusoid", "options": {"functions": 300}, "way": 1, "shot": 5, "query": 5},
    "network": {"name": "mlp", "width": 8, "norm": "none"},
    "budget": {
        "tasks": 300,
        "trials": 2,
        "grace": 100,
        "scheduler": "asha",
        "validation_tasks": 20,
        "confirm_top": 2,
        "confirm_tasks": 20,
        "seeds": 1,
        "test_tasks": 30,
    },
    "shared": {
        "task_batch_size": 10,
        "inner_steps": 1,
        "inner_lr": 0.01,
        "outer_lr": {"low": 1.0e-3, "high": 0.03, "log": True, "default": 1.0e-3},
    },
    "algorithms": {"maml": {}, "fomaml": {}},
}


@pytest.mark.slow
def test_the_lowest_error_wins_at_every_stage_of_a_search(
    tmp_path: Path, ray_folder: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = search(SearchSpace.model_validate(SPACE), tmp_path, "it", cpus=2)
    output = capsys.readouterr().err
    assert "error " in output
    assert "each node needs" not in output  # there is none but this machine
    assert "%" not in output
    check_the_choice(folder, SPACE["algorithms"], SPACE["budget"]["tasks"])
    check_the_leaderboard(folder)
    check_tensorboard(folder)
    for path in (*folder.glob("*.json*"), *folder.glob("confirm/*"), *folder.glob("final/**/test.json")):
        if path.stem != files.LEADERBOARD:  # its rows have every key
            assert all(f'"{key}"' not in path.read_text() for key in ("accuracy", "confirm_accuracy"))


def check_the_choice(folder: Path, algorithms: Collection[str], tasks: int) -> None:
    """The lowest errors of those that got furthest are confirmed, and the lowest of these is chosen."""
    trials = records.trials(folder)
    chosen = files.read_json(folder / files.CHOSEN)
    for algorithm in algorithms:
        of_algorithm = [line for line in trials.values() if line["algorithm"] == algorithm]
        furthest = [line for line in of_algorithm if line["tasks_seen"] == tasks]
        assert furthest
        confirmed = {
            line["trial"]: statistics.fmean(line["error"])
            for path in (folder / files.CONFIRM).glob(f"{algorithm}-*.json")
            for line in [files.read_json(path)]
        }
        lowest = min(furthest, key=lambda line: float(line["val_error"]))
        assert lowest["trial"] in confirmed
        best = chosen[algorithm]
        assert best["trial"] == min(confirmed, key=lambda name: confirmed[name])
        assert best["confirm_error"] == pytest.approx(confirmed[best["trial"]])
        assert best["val_error"] == trials[best["trial"]]["val_error"] > 0


def check_the_leaderboard(folder: Path) -> None:
    board = files.read_json(folder / f"{files.LEADERBOARD}.json")
    assert (board["status"], board["metric"]) == ("finished", {"name": "error", "better": "lower"})
    errors = [row["error"] for row in board["rows"]]
    assert errors == sorted(errors)
    named = {(row["algorithm"], row["variant"]): row for row in board["rows"]}
    assert {(a, v) for a in SPACE["algorithms"] for v in ("tuned", "default")} <= named.keys()
    assert named["zero", "baseline"]["test_tasks"] == 30
    # y^2 averages to E[A^2] / 2 = 4.3 or so; a few meta-steps of a tiny network already beat that
    assert board["rows"][0]["error"] < named["zero", "baseline"]["error"] < 10
    assert all(row["accuracy"] is row["val_accuracy"] is None for row in board["rows"])
    test = files.read_json(folder / files.FINAL / "maml-tuned-seed0" / files.TEST)
    assert named["maml", "tuned"]["error"] == pytest.approx(statistics.fmean(test["error"]))


def check_tensorboard(folder: Path) -> None:
    (line, *_) = records.trials(folder).values()
    events = EventAccumulator(str(folder / files.TENSORBOARD / line["algorithm"] / line["trial"]))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"error/meta_validation", "error/meta_train"} <= set(tags)
    assert not [tag for tag in tags if "accuracy" in tag]
    assert events.Scalars("error/meta_validation")[-1].value == pytest.approx(line["val_error"])
