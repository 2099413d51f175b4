"""The script that times how tasks are drawn: every way draws whole tasks, and missing data are told."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabench.core.config import NetworkConfig
from tests.support import small

FOLDER = Path(__file__).parents[2] / "benchmarks"
N_CLASSES, N_DRAWINGS = 6, 8


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("episodes")


def arguments(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *more: str) -> Any:
    argv = ["--query", "3", "--tasks", "2", "--repeats", "1", "--seconds", "0", "--draws", "1", *more]
    monkeypatch.setattr(sys, "argv", ["episodes.py", *argv])
    return script.parse()


def drawings(folder: Path) -> list[list[Path]]:
    """Write Omniglot-like files whose brightness says of which class they are."""
    files = []
    for label in range(N_CLASSES):
        files.append([folder / f"{label}_{number}.png" for number in range(N_DRAWINGS)])
        for path in files[-1]:
            Image.fromarray(np.full((105, 105), 40 * label, np.uint8)).save(path)
    return files


def test_every_way_draws_whole_tasks_of_one_image_of_each_label(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    part = small.splits(28, N_DRAWINGS).meta_train
    options = arguments(script, monkeypatch)
    for name, (call, n_tasks) in script.ways(part, drawings(tmp_path), tmp_path, options).items():
        drawn = call()
        (sx, sy), (qx, qy) = (part[:2] for part in (drawn[:2] if n_tasks > 1 else drawn))
        if n_tasks == 1:
            sx, sy, qx, qy = (leaf[None] for leaf in (sx, sy, qx, qy))
        assert sx.shape == (n_tasks, 5, 1, 28, 28), name
        assert qx.shape == (n_tasks, 15, 1, 28, 28), name
        assert 0 <= float(qx.min()) <= float(qx.max()) <= 1
        for task in range(n_tasks):
            assert sorted(sy[task].tolist()) == list(range(5))
            assert sorted(qy[task].tolist()) == sorted(3 * list(range(5)))
        if name == "metabench":
            continue
        for task in range(n_tasks):
            shade = {int(label): float(x.mean()) for label, x in zip(sy[task], sx[task], strict=True)}
            for label, x in zip(qy[task], qx[task], strict=True):  # grey all over, however it is turned
                assert float(x.mean()) == pytest.approx(shade[int(label)], abs=1e-6)


def test_rates_ratios_and_shares_are_measured_and_can_be_told_and_written(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = ({"inner_steps": 1, "task_batch_size": 2}, NetworkConfig(width=2))
    monkeypatch.setattr(script, "STEPS", {"tiny": step})
    options = arguments(script, monkeypatch)
    result = script.measure(small.splits(28, N_DRAWINGS), drawings(tmp_path), tmp_path, options)
    assert json.loads(json.dumps(result)) == result
    assert min(result["tasks_per_second"].values()) > 0
    assert result["ratio"].keys() == result["tasks_per_second"].keys() - {"metabench"}
    assert result["meta_step"]["tiny"]["share"] > 0
    text = script.report(result)
    assert "times as fast" in text
    assert "a meta-step takes" in text


def test_without_omniglot_the_script_says_what_it_needs(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("METABENCH_DATA", raising=False)
    arguments(script, monkeypatch)
    assert script.main() == 2
    assert "METABENCH_DATA is not set" in capsys.readouterr().err


def test_the_files_of_the_characters_asked_for_are_laid_out(
    script: ModuleType, data_root: Path, tmp_path: Path
) -> None:
    part = small.splits().meta_train
    names = ("Greek/character01", "Greek/character02", "Latin/character03", "Greek/character01/90")
    splits = small.splits()._replace(meta_train=part._replace(classes=names))
    paths = script.unpack(data_root, splits, tmp_path, 2)
    assert [len(row) for row in paths] == [20, 20]
    assert all(path.is_file() and path.match("*/character0?/*.png") for row in paths for path in row)
