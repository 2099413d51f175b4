"""The script that records learning curves: it goes on where it stopped, and its file is played."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from metabench import data
from metabench.data.tasks import frozen as episodes
from metabench.search import space as spaces
from metabench.search.replay import curves
from metabench.search.replay.scenario import describe
from metabench.storage import files
from metabench.training import loop
from tests.search.recorded import play
from tests.support import small

FOLDER = Path(__file__).parents[2] / "benchmarks"

SPACE: dict[str, Any] = {
    "task": {"dataset": "glyphs", "way": 3, "query": 2, "test_query": 3},
    "network": {"width": 4},
    "budget": {"tasks": 60, "trials": 3, "grace": 20, "validation_tasks": 4},
    "shared": {
        "task_batch_size": 10,
        "inner_steps": 1,
        "inner_lr": {"low": 0.01, "high": 1.0, "log": True, "default": 0.1},
    },
    "algorithms": {"maml": {}, "fomaml": {}},
    "also": [{"inner_lr": 0.4}],
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(data, "load", lambda task, root=None: small.splits())
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(yaml.safe_dump(SPACE))
    return importlib.import_module("curves")


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    arguments = ["space.yaml", "--algorithm", "fomaml", "--validation-tasks", "6", "--device", "cpu", *more]
    monkeypatch.setattr(sys, "argv", ["curves.py", *arguments])
    return int(script.main())


def without_times(path: str) -> list[Any]:
    lines = files.read_lines(Path(path))
    for line in lines[1:]:
        for report in line["reports"]:
            del report["seconds"], report["val_seconds"]
    return lines


def test_recording_goes_on_where_it_stopped_and_the_file_is_played(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(script, monkeypatch, "--settings", "4", "--out", "whole.jsonl") == 0
    assert run(script, monkeypatch, "--settings", "2", "--out", "parts.jsonl") == 0
    with Path("parts.jsonl").open("a") as file:
        file.write('{"number": 2, "torn')  # as a kill leaves it
    assert run(script, monkeypatch, "--settings", "4", "--out", "parts.jsonl") == 0
    assert without_times("parts.jsonl") == without_times("whole.jsonl")
    assert capsys.readouterr().out.count("after 60 tasks") == 8
    read = curves.read([Path("whole.jsonl")])
    assert list(read.curves) == ["fomaml"]
    rates = [one.sampled["inner_lr"] for one in read.curves["fomaml"]]
    assert rates[:2] == [0.1, 0.4]  # the published ones first
    assert len(set(rates)) == 4
    assert read.points == (50, 60)
    played = play(read, describe(read, {}, 2), 0).played["fomaml"]
    assert len(played.curves) == 3
    with pytest.raises(SystemExit):
        run(script, monkeypatch, "--settings", "4", "--out", "whole.jsonl", "--tasks", "80")
    assert "holds other curves (points differ)" in capsys.readouterr().err


def test_a_setting_is_trained_again_from_other_seeds(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(script, monkeypatch, "--settings", "2", "--out", "twice.jsonl") == 0
    for _ in range(2):  # the second finds nothing left to do
        assert (
            run(script, monkeypatch, "--settings", "2", "--training-seeds", "2", "--out", "twice.jsonl") == 0
        )
    lines = files.read_lines(Path("twice.jsonl"))[1:]
    assert [line["number"] for line in lines] == [0, 1, 0, 1]
    assert len({line["seed"] for line in lines}) == 4
    curves_of = curves.read([Path("twice.jsonl")]).curves["fomaml"]
    assert [len(one.again) for one in curves_of] == [1, 1]
    assert curves_of[0].again[0][-1].per_task != curves_of[0].points[-1].per_task


def test_a_recorded_score_is_that_of_a_search(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    run(script, monkeypatch, "--settings", "1", "--out", "one.jsonl")
    header, line = files.read_lines(Path("one.jsonl"))
    read = curves.read([Path("one.jsonl")])
    run_of_search = spaces.run_config(
        read.space, "fomaml", line["hyperparameters"], line["seed"], header["points"]
    )
    reports = [report for report, _ in loop.train(run_of_search, small.splits())]
    (curve,) = read.curves["fomaml"]
    for report, point in zip(reports, curve.points, strict=True):
        assert sum(point.per_task[:4]) / 4 == pytest.approx(report.val_score, abs=1e-6)
    frozen = episodes.frozen(small.splits(), "meta_validation", run_of_search.task, 6, "search")
    assert header["tasks_hash"] == frozen.hash
    assert json.dumps(header["space"]) == json.dumps(read.space.model_dump(mode="json"))
