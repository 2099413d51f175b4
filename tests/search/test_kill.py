"""A whole small search through the command line, killed and interrupted on its way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metabench.search.journal.ledger import JOURNAL, WORK
from metabench.storage import files

SPACE = {
    "task": {"dataset": "glyphs", "options": {"n_classes": 60}, "test_query": 5},
    "network": {"width": 4},
    "budget": {
        "tasks": 60,
        "trials": 3,
        "grace": 10,
        "validation_tasks": 8,
        "confirm_top": 2,
        "confirm_tasks": 8,
        "seeds": 1,
        "test_tasks": 8,
    },
    "shared": {"task_batch_size": 5, "inner_lr": {"low": 0.05, "high": 2.0, "log": True, "default": 0.4}},
    "algorithms": {"maml": {"inner_steps": 1}, "fomaml": {"inner_steps": 1}},
}

PATIENCE = 300
"""Seconds after which a search that does not get on is given up; a busy machine needs a tenth of it."""


@pytest.fixture
def command(tmp_path: Path) -> Iterator[list[str]]:
    """Return the command of a search whose Ray stands apart; paths of its sockets must be short."""
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    code = "from metabench.cli import main; main()"
    arguments = ["search", "space.yaml", "--out", ".", "--name", "it"]
    with tempfile.TemporaryDirectory(prefix="mb", ignore_cleanup_errors=True) as folder:
        yield ["env", f"RAY_TMPDIR={folder}", sys.executable, "-c", code, *arguments]


def hear_ctrl_c() -> None:
    """Undo what a shell does to jobs in the background: it makes them, and all below them, deaf to SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop_when(
    command: list[str], folder: Path, moment: Callable[[], bool], with_signal: int
) -> tuple[int, str]:
    """Start a search, stop it at a moment, and return its exit code and what it told."""
    here = Path(__file__).parents[2]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(here)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not moment() and time.monotonic() < deadline:
        time.sleep(0.02)
    if process.poll() is None:
        process.send_signal(with_signal)
    _, told = process.communicate(timeout=PATIENCE)
    return process.returncode, told


def test_after_kill_and_interrupt_the_same_command_keeps_every_trial_and_runs_none_twice(
    tmp_path: Path, command: list[str]
) -> None:
    folder = tmp_path / "it"

    def in_the_middle() -> bool:
        journal = files.read_lines(folder / JOURNAL)
        proposed = sum(event["event"] == "proposed" for event in journal)
        return proposed > len(files.read_lines(folder / files.TRIALS)) > 0

    code, told = stop_when(command, tmp_path, in_the_middle, signal.SIGKILL)
    assert code == -signal.SIGKILL, told
    finished = (folder / files.TRIALS).read_bytes()
    names = [line["trial"] for line in files.read_lines(folder / files.TRIALS)]
    written = {name: (folder / WORK / name / files.REPORTS).stat().st_mtime_ns for name in names}
    assert 0 < len(names) < 6

    def in_the_final_stage() -> bool:
        return any((folder / files.FINAL).glob(f"*/{files.CONFIG}"))

    code, told = stop_when(command, tmp_path, in_the_final_stage, signal.SIGINT)
    assert code == 130, told
    assert "The same command continues" in told
    assert "Traceback" not in told
    chosen = (folder / files.CHOSEN).read_bytes()

    code, told = stop_when(command, tmp_path, lambda: False, signal.SIGKILL)
    assert code == 0, told
    assert (folder / files.TRIALS).read_bytes().startswith(finished)
    assert {name: (folder / WORK / name / files.REPORTS).stat().st_mtime_ns for name in names} == written
    assert (folder / files.CHOSEN).read_bytes() == chosen
    trials = [line["trial"] for line in files.read_lines(folder / files.TRIALS)]
    assert sorted(trials) == [
        f"{algorithm}-00{number}" for algorithm in ("fomaml", "maml") for number in range(3)
    ]
    journal = files.read_lines(folder / JOURNAL)
    judged = [(e["trial"], e["report"]["tasks_seen"]) for e in journal if e["event"] == "report"]
    assert len(judged) == len(set(judged))
    check_results(folder)


def check_results(folder: Path) -> None:
    """Every stage left what it should, and TensorBoard shows each rung once."""
    opened = files.read_json(folder / files.META_TEST)
    assert opened["finished"] is not None
    assert len(opened["runs"]) == 4
    tests = [files.read_json(folder / files.FINAL / run / files.TEST) for run in opened["runs"]]
    assert {test["tasks_hash"] for test in tests} == {opened["tasks_hash"]}
    assert {test["times_opened"] for test in tests} == {1}
    board = files.read_json(folder / f"{files.LEADERBOARD}.json")
    assert board["status"] == "finished"
    rows = {(row["algorithm"], row["variant"]) for row in board["rows"] if 0 < row["accuracy"] < 1}
    assert {(a, v) for a in ("maml", "fomaml") for v in ("tuned", "default")} <= rows
    confirmed = files.read_json(next((folder / files.CONFIRM).iterdir()))
    assert confirmed["tasks_hash"] != opened["tasks_hash"]
    assert len(confirmed["accuracy"]) == 8
    for line in files.read_lines(folder / files.TRIALS):
        events = EventAccumulator(str(folder / files.TENSORBOARD / line["algorithm"] / line["trial"]))
        events.Reload()
        steps = [event.step for event in events.Scalars("meta_validation/accuracy")]
        assert steps == sorted(set(steps))
        assert steps[-1] == line["tasks_seen"]
