"""What only reads files of text imports nothing that computes, and costs little where a search is large."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from metabench.storage import files
from tests.leaderboard.folders import finish, make_run, make_search
from tests.report import played
from tests.report.conftest import quickly
from tests.support import small

SCRIPT = """
import json, pathlib, re, sys, time
from metabench.cli import app
begun = time.process_time()
app(sys.argv[1:], standalone_mode=False)
heavy = sorted({"torch", "optuna", "ray", "matplotlib", "tensorboard"} & set(sys.modules))
# The peak of getrusage is the parent's where that is higher.
status = pathlib.Path("/proc/self/status").read_text()
peak = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024
print(json.dumps([heavy, time.process_time() - begun, peak]), file=sys.stderr)
"""


class Cost(NamedTuple):
    """What a command took in a process of its own."""

    heavy: list[str]  # modules
    seconds: float  # of the processor
    megabytes: float


def run(*words: object) -> Cost:
    command = [sys.executable, "-c", SCRIPT, *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Cost(*json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("command", ["status", "leaderboard", "compare", "across", "export"])
def test_reading_commands_import_nothing_that_computes(tmp_path: Path, command: str) -> None:
    search = finish(make_search(tmp_path / "search"), {"maml": (0.7, 0.6), "fomaml": (0.7, 0.64)})
    other = finish(make_search(tmp_path / "other"), {"maml": (0.6, 0.5), "fomaml": (0.6, 0.54)})
    path = other / "search.json"
    path.write_text(path.read_text().replace('"way": 5', '"way": 4').rpartition(',\n "checksum"')[0] + "}")
    words: dict[str, list[object]] = {
        "compare": [search, "--rows", "maml:tuned,fomaml:tuned"],
        "across": [search, other],
        "export": [make_run(tmp_path / "run", "maml", 0, 0.5), "--out", tmp_path / "out"],
    }
    assert run(command, *words.get(command, [search])).heavy == []


def test_status_of_a_search_by_a_model_computes_nothing(tmp_path: Path) -> None:
    space = played.space(4, ("maml", "protonet"))
    with quickly():
        folder = played.play(tmp_path / "search", space, small.splits())
    record = files.read_json(folder / files.SEARCH)
    record["space"]["budget"]["scheduler"] = "freeze_thaw"
    files.write_json(folder / files.SEARCH, record)
    assert run("status", folder).heavy == []


@pytest.mark.parametrize("trials", [100, pytest.param(750, marks=pytest.mark.slow)])
def test_status_and_board_of_up_to_three_thousand_trials_are_quick_and_small(
    tmp_path: Path, trials: int
) -> None:
    with quickly():
        folder = played.play(tmp_path / "large", played.space(trials), small.splits())  # of 4 algorithms
    status, board = run("status", folder), run("leaderboard", folder)
    assert status.heavy == board.heavy == []
    assert (status.seconds < 1.5, status.megabytes < 120) == (True, True), status
    assert (board.seconds < 4, board.megabytes < 200) == (True, True), board


def test_a_report_computes_only_where_there_is_a_network_to_show(tmp_path: Path) -> None:
    with quickly():
        folder = played.play(tmp_path / "small", played.space(4, ("protonet",)), small.splits())
    shutil.rmtree(folder / "final", ignore_errors=True)
    assert run("report", folder, "--out", tmp_path / "report.html").heavy == ["matplotlib"]
