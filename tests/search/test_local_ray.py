"""Ray on this machine, where it cannot start as usual; test_kill.py watches it at work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from metabench.core import OutOfOrder
from metabench.search.ray import guardian, local


def test_a_folder_too_deep_for_sockets_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("deep" * 20)))
    with local.private_folder() as folder:
        socket = folder / "session_2026-11-29_15-40-19_709932_4194304/sockets/plasma_store.1"
        assert len(str(socket)) <= 107


@pytest.mark.parametrize(("why", "attempts"), [("The current node timed out during startup.", 3), ("no", 1)])
def test_a_start_that_took_too_long_is_tried_again(
    why: str, attempts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def start(**options: object) -> None:
        tried.append(options["_temp_dir"])
        raise RuntimeError(why)

    monkeypatch.setattr(local.ray, "init", start)
    with pytest.raises(OutOfOrder, match=why):
        local._init(tmp_path, None)
    assert tried == [str(tmp_path)] * attempts


def test_what_ray_has_left_is_ended_even_where_a_title_has_taken_the_place_of_its_variables(
    tmp_path: Path,
) -> None:
    (tmp_path / "session").mkdir()
    names = {"agent": "ray::DashboardAgent", "reader": "less", "other": "ray::DashboardAgent"}
    places = {
        "agent": tmp_path / "session/log",
        "reader": tmp_path / "session/log",
        "other": tmp_path / "log",
    }
    sleeping = {}
    for who, name in names.items():
        with places[who].open("w") as log:
            sleeping[who] = subprocess.Popen([name, "60"], executable="sleep", stdout=log)
    try:
        command = [sys.executable, guardian.__file__, str(tmp_path / "session")]
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
        assert sleeping["agent"].wait(10) < 0
        assert [sleeping[who].poll() for who in ("reader", "other")] == [None, None]
        assert not (tmp_path / "session").exists()
    finally:
        for program in sleeping.values():
            program.kill()
            program.wait()
