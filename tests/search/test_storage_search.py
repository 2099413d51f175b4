"""A whole small search in object storage: preempted on one machine, continued on another that has nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from metabench.core.signals import TRY_AGAIN
from metabench.search.journal.ledger import JOURNAL
from metabench.storage import files
from tests.search.test_kill import PATIENCE, SPACE, check_results
from tests.storage.remote import server


@pytest.fixture
def s3() -> Iterator[server.Server]:
    """Give a running S3 server of this machine, known by the environment."""
    with server.running() as running:
        yield running


@pytest.fixture
def ray_at() -> Iterator[str]:
    """Return a folder for Ray's files; paths of its sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="mb", ignore_cleanup_errors=True) as folder:
        yield folder


def run(machine: Path, ray_at: str, url: str, moment: Callable[[], bool] = lambda: False) -> tuple[int, str]:
    """Run the search on a machine with its own disk, ask it to stop at a moment, and return what it told."""
    machine.mkdir(exist_ok=True)
    (machine / "space.yaml").write_text(yaml.safe_dump(SPACE))
    code = "from metabench.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "search", "space.yaml", "--storage", url, "--name", "it"],
        cwd=machine,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "RAY_TMPDIR": ray_at,
            "METABENCH_CACHE": str(machine / "cache"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not moment() and time.monotonic() < deadline:
        time.sleep(0.05)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output


@pytest.mark.slow
def test_a_preempted_search_goes_on_elsewhere_from_what_is_stored_alone(
    tmp_path: Path, s3: server.Server, ray_at: str
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    def in_the_middle() -> bool:
        return len(files.read_lines(first / "runs/it" / files.TRIALS)) > 0

    code, output = run(first, ray_at, s3.url, in_the_middle)
    assert code == TRY_AGAIN, output
    assert "stopped by SIGTERM. The same command continues" in output
    assert "Traceback" not in output
    journal = files.read_lines(first / "runs/it" / JOURNAL)
    finished = (first / "runs/it" / files.TRIALS).read_bytes()
    first_output = output
    shutil.rmtree(first)

    code, output = run(second, ray_at, s3.url)
    assert code == 0, output
    assert f"continuing {second / 'runs/it'}, kept at {s3.url}/it" in output
    folder = second / "runs/it"
    assert files.read_lines(folder / JOURNAL)[: len(journal)] == journal
    assert (folder / files.TRIALS).read_bytes().startswith(finished)
    again = files.read_lines(folder / JOURNAL)
    judged = [(e["trial"], e["report"]["tasks_seen"]) for e in again if e["event"] == "report"]
    assert len(judged) == len(set(judged))

    code, last_output = run(second, ray_at, s3.url)
    assert code == 0
    assert files.read_lines(folder / JOURNAL) == again
    show_elsewhere(tmp_path / "third", s3.url)
    fetch(s3, tmp_path / "bucket")
    check_results(tmp_path / "bucket/searches/it")
    no_secret(tmp_path, first_output + output + last_output)


def show_elsewhere(machine: Path, url: str) -> None:
    """A machine that had no part in the search shows its leaderboard from the storage."""
    machine.mkdir()
    code = "from metabench.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "leaderboard", f"{url}/it", "--json"],
        cwd=machine,
        env={**os.environ, "METABENCH_CACHE": str(machine / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '"status": "finished"' in done.stdout


def fetch(s3: server.Server, folder: Path) -> None:
    """Write the bucket's objects into a folder with Amazon's client: what a person would find."""
    for name, data in s3.objects().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def no_secret(folder: Path, text: str) -> None:
    """Neither what was printed nor any file, here or stored, holds the key that was used."""
    assert server.CANARY not in text
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert [path for path in files if server.CANARY.encode() in path.read_bytes()] == []
