"""The script that trains published settings again: what it offers can be trained, and mistakes are told."""

from __future__ import annotations

import importlib
import json
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from metabench.storage import files

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("reproduce")


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments])
    return int(script.main())


def test_every_cell_is_a_run_that_can_be_described(script: ModuleType) -> None:
    names = [cell.name for cell in script.CELLS]
    assert len(set(names)) == len(names)
    for cell in script.CELLS:
        config = script.configure(cell, cell.tasks, 0)
        assert config.rungs[-1] == config.tasks == cell.tasks
        assert cell.settings.items() <= config.hyperparameters.items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    {
        "unknown cell": (["sinusoid-10s-maml", "nosuch"], "no cell of the table is named nosuch"),
        "cell outside the subset": (["--subset", "omniglot-20w1s-maml"], "no cell of the subset is named"),
        "no jobs": (["--jobs", "0"], "--jobs 0: must be >= 1"),
        "no such device": (["--device", "abacus"], "`device` abacus: not on this machine"),
    }.values(),
    ids=["unknown cell", "cell outside the subset", "no jobs", "no such device"],
)
def test_a_mistake_gets_a_message_and_exit_code_2(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(script, monkeypatch, *arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


class ThreadContext:
    @staticmethod
    def Pool(jobs: int, maxtasksperchild: int) -> object:
        return ThreadPool(jobs)


def test_a_cell_is_trained_tested_and_printed_beside_what_was_published(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    cells = [
        cell._replace(tasks=50, test_tasks=4, published=1.5, task=cell.task | {"options": {"functions": 50}})
        for cell in script.CELLS
        if cell.name == "sinusoid-10s-maml"
    ]
    monkeypatch.setattr(script, "CELLS", cells)
    monkeypatch.setattr(script, "REPORTS", 1)
    # Threads of this process in place of new ones, which would not know of the smaller cell.
    monkeypatch.setattr(script, "multiprocessing", SimpleNamespace(get_context=lambda method: ThreadContext))
    results = tmp_path / "results-seed0.json"
    files.write_json(results, {"cells": [{"cell": "another"}, {"cell": "sinusoid-10s-maml"}]})
    assert run(script, monkeypatch, "--out", str(tmp_path), "--device", "cpu") == 0
    line = json.loads(capsys.readouterr().err)
    assert line["published"] == 1.5
    assert line["measured"] > 0
    assert line["test_tasks"] == 4
    assert files.read_json(results) == {"cells": [{"cell": "another"}, line]}  # what was not asked for stays
