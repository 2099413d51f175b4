"""Ray that does not start, or is lost: one message, nothing taken for an error of a trial."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from metabench.core import OutOfOrder, signals
from metabench.search.ray import cluster
from tests.search import processes

# Ray leaves sockets and pipes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

JOBS = """
import time
from pathlib import Path

from metabench.search.ray import cluster, jobs, local


def sleep(seconds: float) -> None:
    Path("started").touch()
    time.sleep(seconds)


del local.ENVIRONMENT["RAY_preload_python_modules"]  # what trials import takes seconds, and none is here
with cluster.connect(None, Path(), cpus=1) as found:
    jobs.run_all(sleep, {"one": (600,), "two": (600,)}, found, lambda name, result: None)
"""


def test_ray_that_does_not_start_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        tempfile.NamedTemporaryFile(prefix="mb") as file,
        monkeypatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", file.name)
        with (
            pytest.raises(OutOfOrder, match=r"(?s)does not start on this machine: .*run the same command"),
            cluster.joined(None, 1),
        ):
            raise AssertionError("it has started")


@pytest.mark.parametrize("server", [pytest.param("raylet/raylet", marks=pytest.mark.slow), "gcs/gcs_server"])
def test_who_loses_its_ray_says_so_and_asks_for_the_same_command_again(tmp_path: Path, server: str) -> None:
    with processes.short_folder() as folder:
        program = subprocess.Popen(
            [sys.executable, "-c", JOBS],
            cwd=tmp_path,
            env={**os.environ, "RAY_TMPDIR": folder, "PYTHONPATH": str(processes.ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert processes.until(lambda: (tmp_path / "started").exists(), 120)
            started = processes.of(folder).values()
            processes.kill(*(one.pid for one in started if server in one.title[:300]))
            _, output = program.communicate(timeout=120)
        finally:
            processes.kill(program.pid, *processes.of(folder))
    assert program.returncode == signals.TRY_AGAIN
    assert "Ray is lost on this machine. Nothing is lost. Fix it and run the same" in output
