"""What a board of control says: returns, higher is better, and never an accuracy or an error."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

import metabench as mb
from metabench import leaderboard
from metabench.core import MetabenchError
from metabench.core.control import ENVIRONMENT_STEPS
from metabench.leaderboard import across, returns
from metabench.report import write
from metabench.storage import files
from tests.support import small


@pytest.fixture
def runs(tmp_path: Path) -> list[mb.Run]:
    """Train and test three learners on tasks of a few steps."""
    config = small.acting()
    task = config.task.model_dump(include={"way", "shot", "query", "test_query"})
    network = {"network": "mlp", "width": 8, "norm": "none"}
    dataset = {"name": "navigation", "options": {**config.task.options, "horizon": 3}}
    trained = []
    for name, settings in {"maml": {"inner_steps": 1}, "joint": {}, "scratch": {"inner_steps": 1}}.items():
        place, few = tmp_path / name, {"tasks": 10, "validation_tasks": 4, "reports": 1, "quiet": True}
        trained.append(mb.train(name, dataset, out=place, device="cpu", **task, **network, **settings, **few))
        assert trained[-1].test(6, quiet=True).mean_return < 0
    return trained


def test_chance_is_no_share_of_the_oracle_and_the_best_is_all_of_it() -> None:
    ends = {"by_chance": [-9.0, -5.0], "at_best": [-1.0, -1.0]}
    for mine, share in (([-9.0, -5.0], 0), ([-1.0, -1.0], 1), ([-5.0, -3.0], 0.5), ([-11.0, -9.0], -0.5)):
        assert returns.of_oracle([{"return": mine, **ends}])["of_oracle"] == pytest.approx(share)
    assert returns.of_oracle([{"return": [-5.0], "by_chance": [-9.0]}]) == {}
    counted = [{"logs": {ENVIRONMENT_STEPS: float(n)}} for n in (100, 200)]
    assert returns.steps(counted) == {"environment_steps": 150}
    assert returns.steps([{}]) == {}


@pytest.mark.slow
def test_a_board_of_returns_puts_the_highest_first_and_says_so(runs: list[mb.Run], tmp_path: Path) -> None:
    board = mb.leaderboard(*runs)
    ranked = [row["return"] for row in board.rows]
    assert ranked == sorted(ranked, reverse=True)
    rows = {row["algorithm"]: row for row in board.rows}
    tests = [json.loads((run.folder / files.TEST).read_text()) for run in runs]
    for test in tests:
        mine, chance, best = (statistics.fmean(test[key]) for key in ("return", "by_chance", "at_best"))
        assert chance < best < 0
        share = rows[test["algorithm"]]["of_oracle"]
        assert share == pytest.approx((mine - chance) / (best - chance))
    # Ten tasks of 3 steps: five trajectories to adapt to, and four that are judged; joint needs but these.
    assert rows["maml"]["environment_steps"] == 10 * 3 * (5 + 4)
    assert rows["joint"]["environment_steps"] == 10 * 3 * 4
    text = " ".join(str(board).split())
    assert "Environment steps" in text
    assert "Of the oracle %" in text
    assert "With 5 trajectories a step in a new environment" in text
    assert "return (higher is better)" in text
    assert " to -" in text  # the bounds of an interval below zero
    for word in ("Accuracy", "squared error", "lower is better"):
        assert word not in text
    pictures = write([run.folder for run in runs], tmp_path / "report.html")
    names = [picture.name for picture in pictures]
    assert "inner_steps" in names
    assert sum(name.startswith("episodes_") for name in names) == 3
    assert "meta-test return" in (tmp_path / "report.html").read_text()
    with pytest.raises(MetabenchError, match="a return has no zero"):
        across.across(leaderboard.read([run.folder for run in runs]))
