"""A whole small search in environments: the highest return wins, and nothing is called accuracy."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from metabench import data
from metabench.core.config import SearchSpace
from metabench.data.tasks import frozen
from metabench.report import write
from metabench.search import search
from metabench.search.stages import final
from metabench.storage import files, models, records
from tests.support import small

# Ray leaves sockets and pipes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

SPACE: dict[str, Any] = {
    "task": {
        "dataset": "navigation",
        "options": {"environments": 50, "horizon": 5},
        "way": 1,
        "shot": 3,
        "query": 3,
        "test_query": 3,
    },
    "network": {"name": "mlp", "width": 8, "norm": "none"},
    "budget": {
        "tasks": 60,
        "trials": 2,
        "grace": 20,
        "scheduler": "asha",
        "validation_tasks": 4,
        "confirm_top": 2,
        "confirm_tasks": 4,
        "seeds": 1,
        "test_tasks": 6,
    },
    "shared": {
        "task_batch_size": 10,
        "inner_steps": 1,
        "inner_lr": 0.1,
        "outer_lr": {"low": 1.0e-3, "high": 0.03, "log": True, "default": 1.0e-3},
    },
    "algorithms": {"maml": {}, "joint": {}},
}


def test_the_floor_of_a_board_of_control_acts_by_chance(tmp_path: Path) -> None:
    task = small.acting(dataset="bandit").task
    splits = data.load(task)
    tasks = frozen.frozen(splits, "meta_test", task, 200, "test")
    final._write_baseline(tmp_path, [(splits, tasks)])
    record = records.read(tmp_path / files.ZERO, models.BASELINE)
    assert len(record["return"]) == 200
    arms = splits.meta_test.images[tasks.groups[0].indices.classes[:, 0]].mean(1)
    # 1,200 pulls of an arm that chance alone takes; each varies by less than a half.
    assert statistics.fmean(record["return"]) == pytest.approx(float(arms.mean()), abs=4 * 0.5 / 1200**0.5)


@pytest.mark.slow
def test_the_highest_return_wins_at_every_stage_of_a_search(
    tmp_path: Path, ray_folder: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = search(SearchSpace.model_validate(SPACE), tmp_path, "it", cpus=2)
    said = capsys.readouterr().err
    assert "return " in said
    assert "%" not in said
    trials, chosen = records.trials(folder), files.read_json(folder / files.CHOSEN)
    for algorithm, best in chosen.items():
        confirmed = {
            line["trial"]: statistics.fmean(line["return"])
            for path in (folder / files.CONFIRM).glob(f"{algorithm}-*.json")
            for line in [files.read_json(path)]
        }
        assert best["trial"] == max(confirmed, key=lambda name: confirmed[name])
        assert best["val_return"] == trials[best["trial"]]["val_return"] < 0
    board = files.read_json(folder / f"{files.LEADERBOARD}.json")
    assert (board["status"], board["metric"]) == ("finished", {"name": "return", "better": "higher"})
    returns = [row["return"] for row in board["rows"]]
    assert returns == sorted(returns, reverse=True)
    named = {(row["algorithm"], row["variant"]): row for row in board["rows"]}
    assert {(a, v) for a in SPACE["algorithms"] for v in ("tuned", "default")} <= named.keys()
    assert named["zero", "baseline"]["test_tasks"] == 6
    assert all(row["accuracy"] is row["val_accuracy"] is None for row in board["rows"])
    test = files.read_json(folder / files.FINAL / "maml-tuned-seed0" / files.TEST)
    assert named["maml", "tuned"]["return"] == pytest.approx(statistics.fmean(test["return"]))
    write([folder], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "higher is better" in page
    assert "mean squared error" not in page
