"""Figures that are kept and published: tables are of these files, of the same tasks, as boards have them."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from metabench.leaderboard import folders
from metabench.storage import files
from tests.benchmarks.test_efficiency import FOLDER

PAGE = FOLDER.parent / "docs" / "findings.md"


@pytest.fixture(params=["findings", "cloudera"])
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module(request.param)


def tables(script: ModuleType) -> list[str]:
    if script.__name__ == "cloudera":
        return [*map(script.table, script.TESTS), script.beside_maml()]
    kept = [name for name in script.QUESTIONS if script.path_of(name).exists()]
    return [script.table(name) for name in kept] + [
        script.steps_table(name) for name in kept if script.QUESTIONS[name].steps
    ]


def test_the_page_has_the_tables_of_the_files(script: ModuleType) -> None:
    for table in tables(script):
        assert table in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("script", ["findings"], indirect=True)
def test_rows_of_a_question_were_tested_on_the_same_tasks(script: ModuleType) -> None:
    for name in script.QUESTIONS:
        trained = [one["tests"] for row in script.read(name)["rows"].values() for one in row.values()]
        for test in trained[0] if trained else ():
            assert len({one[test]["hash"] for one in trained}) == 1


@pytest.mark.parametrize("script", ["cloudera"], indirect=True)
def test_a_kept_search_has_the_figures_of_its_board(script: ModuleType, tmp_path: Path) -> None:
    cells = [cell for cell in script.cells() if script.unpack(cell, "maml", tmp_path)]
    assert cells
    for cell in cells:
        (folder,) = script.unpack(cell, "maml", tmp_path)
        search = folders.read_search(folder)
        (runs,) = search.runs.values()
        expected = script.accuracies(script.read(cell, "maml"), script.TOGETHER)
        assert np.array_equal([run.test["accuracy"] for run in runs if run.test], expected)
        assert search.times_opened == 1
        assert files.read_json(folder / files.FINAL / "nearest_mean.json")


@pytest.mark.parametrize("script", ["findings"], indirect=True)
def test_no_answer_is_lost_to_a_kill_or_to_another_process(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "KEPT", tmp_path)
    first, *others = (row.name for row in script.QUESTIONS["domains"].rows)

    def answer(row: Any, question: Any, seed: int, folder: Path) -> str:
        if row.name == others[0]:  # meanwhile another process has answered, or this one is killed
            monkeypatch.setattr(script, "answer", lambda row, *_: f"{row.name} of another")
            script.fill("domains", 1, tmp_path)
        return row.name

    monkeypatch.setattr(script, "answer", answer)
    script.fill("domains", 1, tmp_path)
    kept = script.read("domains")
    assert kept["rows"] == {
        first: {"0": first},
        others[0]: {"0": others[0]},
        **{name: {"0": f"{name} of another"} for name in others[1:]},
    }

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        script.fill("domains", 2, tmp_path)
    assert script.read("domains") == kept
