"""What a board of control says: returns, higher is better, and never an accuracy or an error."""

from __future__ import annotations

from pathlib import Path

import pytest

import metabench as mb
from metabench import leaderboard
from metabench.core import MetabenchError
from metabench.leaderboard import across
from metabench.report import write
from tests.support import small


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[mb.Run]:
    """Train and test three learners on tasks of a few steps."""
    small.hurry(monkeypatch)
    config = small.acting()
    task = config.task.model_dump(include={"way", "shot", "query", "test_query"})
    network = {"network": "mlp", "width": 8, "norm": "none"}
    dataset = {"name": "navigation", "options": {**config.task.options, "horizon": 3}}
    trained = []
    for name, own in {"maml": {"inner_steps": 1}, "joint": {}, "scratch": {"inner_steps": 1}}.items():
        place, few = tmp_path / name, {"tasks": 10, "validation_tasks": 4, "reports": 1, "quiet": True}
        trained.append(mb.train(name, dataset, out=place, device="cpu", **task, **network, **own, **few))
        assert trained[-1].test(6, quiet=True).mean_return < 0
    return trained


@pytest.mark.slow
def test_a_board_of_returns_puts_the_highest_first_and_says_so(runs: list[mb.Run], tmp_path: Path) -> None:
    board = mb.leaderboard(*runs)
    returns = [row["return"] for row in board.rows]
    assert returns == sorted(returns, reverse=True)
    text = " ".join(str(board).split())
    assert "With 5 trajectories a step in a new environment" in text
    assert "return (higher is better)" in text
    assert " to -" in text  # the bounds of an interval below zero
    for word in ("Accuracy", "squared error", "lower is better"):
        assert word not in text
    pictures = write([run.folder for run in runs], tmp_path / "report.html")
    assert "inner_steps" in [picture.name for picture in pictures]
    assert "meta-test return" in (tmp_path / "report.html").read_text()
    with pytest.raises(MetabenchError, match="a return has no zero"):
        across.across(leaderboard.read([run.folder for run in runs]))
