"""The script that searches for real: its budgets, and what it reads of searches that were run."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from metabench.core.config import SearchSpace
from metabench.search import space as spaces
from metabench.search.replay import curves
from tests.benchmarks.test_efficiency import FOLDER
from tests.cli.test_simulations import SPACE
from tests.search.recorded import many, only_maml, write


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("live")


def options(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> argparse.Namespace:
    monkeypatch.setattr(sys, "argv", ["live.py", *words])
    return script.options_of(argparse.ArgumentParser())  # type: ignore[no-any-return]


def test_every_way_has_the_same_seconds_trials_and_final_run(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = curves.read([script.CURVES])
    parsed = options(script, monkeypatch)
    budgets = {
        way: script.space_of(recording, changes, parsed).budget for way, changes in script.WAYS.items()
    }
    assert len({(one.seconds, one.trials, one.tasks, one.seeds) for one in budgets.values()}) == 1
    default, pausing, stopping, before = budgets.values()
    assert (stopping.pause, before.pause) == (False, False)
    assert default.model_copy(update={"scheduler": "asha"}) == pausing
    assert pausing.model_copy(update={"pause": False}) == stopping
    assert spaces.rungs(default) == [150, 450, 1350, 3600]
    assert (before.grace, before.validation_tasks) == (400, 200)


def test_regret_is_over_the_seeds_and_of_each_over_the_tasks(script: ModuleType) -> None:
    rng = np.random.default_rng(0)
    outcomes = [script.Outcome(24, 240.0, 0.01 * k + 0.1 * rng.standard_normal(1000)) for k in range(3)]
    *_, row = script.table({"default": outcomes}).splitlines()
    assert row.startswith("| default | 24, 24, 24 | 240, 240, 240 | ")
    assert float(row.split(" | ")[3].split()[0]) == pytest.approx(1.0, abs=0.5)
    assert row.count("[") == 4


@pytest.mark.slow
def test_searches_are_run_once_and_read_again(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_network = {**SPACE, "network": {"name": "conv4", "width": 4}}
    space = only_maml(SearchSpace.model_validate(small_network), trials=2, reduction_factor=3)
    write(tmp_path / "some.jsonl", space, many(3, seed=0))
    words = ["--curves", str(tmp_path / "some.jsonl"), "--out", str(tmp_path / "out"), "--ways", "default"]
    small = [*words, "--seeds", "2", "--trials", "2", "--tasks", "30", "--test-tasks", "10", "--seconds", "2"]
    monkeypatch.setattr(sys, "argv", ["live.py", *small])
    assert script.main() == 0
    first = capsys.readouterr().out
    journal = tmp_path / "out" / "default-0" / "journal.jsonl"
    before = journal.read_bytes()
    assert script.main() == 0
    assert capsys.readouterr().out == first
    assert journal.read_bytes() == before
