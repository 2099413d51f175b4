"""A search folder of an earlier version is read, tested and continued: `golden/sinusoid`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from metabench import PROTOCOL
from metabench.cli import app
from tests.search.test_regression import check_the_choice

GOLDEN = Path(__file__).with_name("golden")
RUN = "final/maml-tuned-seed0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "sinusoid", tmp_path / "sinusoid"))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def invoke(*words: object) -> Any:
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def without_place(board: Any) -> Any:
    return {**board, "rows": [{**row, "folder": None} for row in board["rows"]]}


def test_its_board_is_the_one_that_it_was_left_with(folder: Path) -> None:
    board = invoke("leaderboard", folder)
    assert without_place(board) == without_place(read(folder / "leaderboard.json"))


def test_its_status_tells_what_was_done(folder: Path) -> None:
    status = invoke("status", folder)
    assert status["metric"] == "error"
    incumbents = {name: one["incumbent"]["trial"] for name, one in status["algorithms"].items()}
    assert incumbents == {"maml": "maml-001", "alpha_maml": "alpha_maml-001"}


def test_it_is_reported(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "report.html")])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "alpha_maml" in (tmp_path / "report.html").read_text()


def test_a_run_of_it_is_tested_again_with_the_same_result(folder: Path) -> None:
    before = read(folder / RUN / "test.json")
    tested = invoke("test", folder / RUN, "--tasks", 20)
    # The same float32 weights on another processor: sums in another order.
    assert tested["error"] == pytest.approx(sum(before["error"]) / 20, rel=1e-4)
    assert read(folder / RUN / "test.json")["times_opened"] == before["times_opened"] + 1


def test_a_search_of_another_protocol_is_shown_and_not_mixed_with_new_numbers(folder: Path) -> None:
    for path in folder.rglob("*.json"):
        record = read(path)
        if isinstance(record, dict) and "protocol" in record:
            record.pop("checksum", None)
            path.write_text(json.dumps(record | {"protocol": record["protocol"] - 1}))
    assert invoke("leaderboard", folder)["protocol"] == PROTOCOL - 1
    refused = CliRunner().invoke(app, ["test", str(folder / RUN)])
    assert refused.exit_code == 2
    assert f"was made under protocol {PROTOCOL - 1}; this is {PROTOCOL}" in refused.output


# Ray leaves sockets and pipes to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_it_is_continued_with_another_seed(folder: Path, ray_folder: None) -> None:
    journal = (folder / "journal.jsonl").read_text()
    line = ["search", str(GOLDEN / "sinusoid.yaml"), "--name", "sinusoid", "--out", str(folder.parent)]
    line += ["--quiet", "--seeds", "3"]
    refused = CliRunner().invoke(app, line)
    assert refused.exit_code == 2
    assert "--accept-changes" in refused.stderr
    ended = CliRunner().invoke(app, [*line, "--accept-changes"])
    assert ended.exit_code == 0, (ended.output, ended.exception)
    assert (folder / "journal.jsonl").read_text().startswith(journal), "no trial is run again"
    rows = read(folder / "leaderboard.json")["rows"]
    assert [row["seeds"] for row in rows if row["variant"] == "tuned"] == [3, 3]
    errors = [row["error"] for row in rows]
    assert errors == sorted(errors), "the lowest is the best"
    check_the_choice(folder, ("maml", "alpha_maml"), 60)
