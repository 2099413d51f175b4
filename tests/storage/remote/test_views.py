"""What people look at, from object storage: TensorBoard while it grows, leaderboard and report."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from metabench.cli import show
from metabench.storage import files, remote
from metabench.storage.tensorboard import Events
from tests.report import played
from tests.report.conftest import quickly
from tests.search.processes import COMMAND
from tests.support import small

PATIENCE = 90


def asked(address: str, wanted: str) -> None:
    """Ask a server until an answer holds a text."""
    deadline, page = time.monotonic() + PATIENCE, ""
    while wanted not in page:
        assert time.monotonic() < deadline, f"{address} tells no {wanted} but {page[:300]}"
        time.sleep(0.2)
        try:
            with urllib.request.urlopen(address) as answer:
                page = answer.read().decode()
        except OSError:
            continue


def test_tensorboard_follows_a_folder_in_object_storage(here: Path, url: str) -> None:
    events = Events(here / files.TENSORBOARD / "maml" / "maml-000")
    events.scalars(10, {"meta_validation/accuracy": 0.5})
    events.flush()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    server = subprocess.Popen(
        [*COMMAND, "tensorboard", url, "--port", port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        data = f"http://127.0.0.1:{port}/data"
        scalars = f"{data}/plugin/scalars/scalars?run=maml/maml-000&tag=accuracy/meta_validation"
        asked(f"{data}/runs", "maml/maml-000")
        asked(scalars, "10, 0.5]")
        events.scalars(20, {"meta_validation/accuracy": 0.75})
        events.flush()
        asked(scalars, "20, 0.75]")
    finally:
        events.close()
        server.kill()
        server.wait()


def test_a_stored_search_is_shown_as_one_on_disk(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "cache"))
    space, splits = played.space(3, ("protonet",)), small.splits()
    with quickly():
        folder = played.finish(played.play(tmp_path / "search", space, splits), space, splits)
        remote.attach(folder, url)
        remote.upload(folder)
        remote.detach(folder)
        boards = []
        for place in (str(folder), url):
            show.leaderboard([place], json=True)
            boards.append(json.loads(capsys.readouterr().out))
            show.report([place], tmp_path / f"{len(boards)}.html")
            capsys.readouterr()
    here, there = ([(row["name"], row["accuracy"]) for row in board["rows"]] for board in boards)
    assert here == there
    pages = [(tmp_path / f"{number}.html").read_text() for number in (1, 2)]
    assert [page.count("<svg") for page in pages] == [pages[0].count("<svg")] * 2
    assert pages[0].count("<svg") > 5
