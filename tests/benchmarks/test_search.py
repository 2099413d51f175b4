"""The script that times what a search costs: its figures are what the processes noted."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("search")


def arguments(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["search.py", *words])
    parsed = script.parse()
    parsed.parameters = script.parameters(parsed.space, parsed.algorithm)
    return parsed


def test_waits_are_read_from_what_the_workers_noted(script: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / script.search_trials.WAITS
    folder.mkdir()
    # Start, a report and its answer, the last report; two trials in one process, one in another.
    one, two, three = [10.0, 11.0, 11.5, 12.5], [12.75, 13.0, 13.25, 14.0], [9.0, 10.0, 11.0, 12.0]
    (folder / "1.jsonl").write_text(f"{json.dumps(one)}\n{json.dumps(two)}\n")
    (folder / "2.jsonl").write_text(f"{json.dumps(three)}\n")
    waits = script.search_trials.waits(tmp_path)
    assert waits == {"decisions": [0.5, 0.25, 1.0], "between": [0.25], "processes": 2, "span": 5.0}


def test_a_run_is_summed_up(script: ModuleType) -> None:
    noted = {
        "first_report": 3.0,
        "ends": [4.0, 5.0, 6.0],
        "whole": 7.0,
        "cpu": [1.0, 1.25, 2.0],
        "memory": [100, 150, 200],
        "decisions": [0.5, 0.1, 0.3],
        "between": [0.25],
        "processes": 2,
        "span": 5.0,
    }
    summary = script.summary(noted, {"trials": 3, "reports": 2, "work": 0.5, "workers": 2})
    assert (summary["seconds_a_trial"], summary["driver_cpu_seconds_a_trial"]) == (1.0, 0.5)
    assert summary["idle_share"] == pytest.approx(0.7)  # 3 of 10 seconds were worked
    assert (summary["seconds_to_decision"], summary["memory_bytes_a_trial"]) == (0.3, pytest.approx(100 / 3))
    with pytest.raises(AssertionError, match="3 of 4 trials have ended"):
        script.summary(noted, {"trials": 4, "reports": 2, "work": 0.5, "workers": 2})


def test_both_sides_search_the_same_parameters(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = arguments(script, monkeypatch, "--algorithm", "maml").parameters
    assert parameters.keys() == {"inner_steps", "inner_lr", "outer_lr"}
    assert parameters["inner_steps"]["choices"] == [1, 2]
    assert (parameters["inner_lr"]["low"], parameters["inner_lr"]["high"], parameters["inner_lr"]["log"]) == (
        0.05,
        0.5,
        True,
    )


def test_the_driver_alone_goes_through_its_trials_and_reads_them_back(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = importlib.import_module("search_ours")
    parsed = arguments(script, monkeypatch, "--trials", "12")
    setting = {**vars(parsed), "space": str(parsed.space), "folder": str(tmp_path)}
    notes = script.search_trials.Notes()
    ours.drive(setting, notes)
    record = notes.dump(begun=0.0)
    assert [len(record[key]) for key in ("ends", "cpu", "memory")] == [12, 12, 12]
    assert min(record["memory"]) > 2**20
    assert ours.read_back(setting) > 0


@pytest.mark.slow
def test_all_sides_run_and_are_compared(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ("--trials", "4", "--work", "0.01", "--work-trials", "3", "--repeats", "1", "--reports", "2")
    shape += ("--driver", "12")
    result = script.measure(arguments(script, monkeypatch, *shape))
    assert json.loads(json.dumps(result)) == result
    assert result["driver"]["trials"]["12"]["cpu_seconds_a_trial"] > 0
    for kind in ("idle", "work"):
        assert result[kind]["medians"].keys() == set(script.SIDES)
        assert all(one["seconds_a_trial"] > 0 for one in result[kind]["medians"].values())
    text = script.report(result)
    assert text.count("ray, no logs / metabench: seconds a trial") == 2
    assert text.count("idle") == 3
    assert "read back from the journal" in text
