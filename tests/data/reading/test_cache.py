"""What is kept on disk can be listed and removed, and is made again by whoever needs it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from metabench.cli import app
from metabench.data.reading import cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "own" / "mine").mkdir(parents=True)
    (tmp_path / "cache" / "own" / "mine" / "images.npy").write_bytes(b"nobody can make this again")
    return tmp_path / "cache"


def keep(name: str, days: float) -> Path:
    before = {one.path for one in cache.every()}
    cache.cached(name, name, lambda: np.arange(1000.0))
    (path,) = {one.path for one in cache.every()} - before
    os.utime(path, (time.time() - days * 86_400,) * 2)
    return path


def test_what_was_not_used_for_long_is_removed_and_made_again(folder: Path) -> None:
    old, new = keep("old", 40), keep("new", 3)
    begun = folder / f"large-{'0' * 20}.there.x.tmp"
    begun.write_bytes(b"half")
    (folder / "features.npy").write_bytes(b"of somebody else")
    assert [one.path for one in cache.every()] == [old, new, begun]
    assert [one.path for one in cache.prune(30)] == [old]
    mapped = cache.cached("new", "new", lambda: np.zeros(0))
    assert cache.every()[-1].used > time.time() - 60  # used just now
    assert cache.prune(1) == []
    assert [one.path for one in cache.prune(0)] == [new]  # and none that somebody may be writing
    assert mapped[999] == 999
    assert cache.cached("old", "old", lambda: np.ones(3)).tolist() == [1, 1, 1]
    assert (folder / "own" / "mine" / "images.npy").exists()
    assert (folder / "features.npy").exists()


def test_the_command_lists_sizes_and_removes_on_demand() -> None:
    old = keep("features", 40)
    shown = CliRunner().invoke(app, ["cache"]).stdout
    assert old.name in shown
    assert "1 files, 0.0 MB in" in shown
    answer = json.loads(CliRunner().invoke(app, ["cache", "--prune", "30", "--json"]).stdout)
    assert (answer["kept"], answer["removed"]) == ([], 1)


def test_an_empty_cache_is_no_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "nowhere"))
    assert cache.prune(0) == cache.every() == []
    assert CliRunner().invoke(app, ["cache", "--prune", "-1"]).exit_code == 2
