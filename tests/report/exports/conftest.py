"""A played search with a trial of every ending, finished and tested, for all exports to read."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from metabench.cli import app
from metabench.search.journal.ledger import Ledger, Trial, look
from metabench.search.journal.rule import decide
from metabench.storage import files
from tests.report import played
from tests.report.conftest import quickly
from tests.search.played import make_report
from tests.support import small

ENDINGS = {"complete", "pruned", "diverged", "failed", "running", "waiting"}
ERROR = "Traceback\nRuntimeError: no memory"


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a search of two algorithms, of which one has trials of every ending."""
    space, splits = played.space(5, ("maml_pp", "protonet")), small.splits()
    with quickly():
        folder = played.play(tmp_path_factory.mktemp("base") / "tried", space, splits)
        played.finish(folder, space, splits)
    ledger = Ledger(folder, 2)
    _propose(ledger)
    ledger.fail(_propose(ledger).name, ERROR)
    for name, figure in ((_propose(ledger).name, 0.5), (_propose(ledger).name, None)):
        decide(ledger, space.budget, name, make_report(400, figure))
    ledger.record(_propose(ledger).name, make_report(400, 0.4), "wait", {})
    broken = folder / files.FINAL / "maml_pp-default-seed0"
    files.write_lines(broken / files.REPORTS, files.read_lines(broken / files.REPORTS)[:1])
    files.write_text(broken / files.ERROR, ERROR)
    (broken / files.TEST).unlink()
    assert {trial.state for trial in look(folder).trials.values()} == ENDINGS
    return folder


def _propose(ledger: Ledger) -> Trial:
    """Try a value that the space no longer allows, as where a search was extended with other ranges."""
    sampled = {"inner_lr": 0.3, "outer_lr": 0.5, "inner_steps": 2}
    return ledger.propose("maml_pp", sampled, {**sampled, "cosine": True}, False, 7)


@pytest.fixture(scope="session")
def export() -> Callable[..., Result]:
    """Return the command, as typed."""
    return lambda *arguments: CliRunner().invoke(app, ["export", *(str(one) for one in arguments)])


@pytest.fixture(scope="module")
def calls() -> Iterator[list[Any]]:
    """List who connects to the proxy that the environment names: whatever goes to the network would."""
    heard: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.MonkeyPatch.context() as patch:
        threading.Thread(target=_listen, args=(server, heard), daemon=True).start()
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            patch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
        patch.delenv("NO_PROXY", raising=False)
        patch.delenv("no_proxy", raising=False)
        yield heard
        server.shutdown(socket.SHUT_RDWR)


def _listen(server: socket.socket, heard: list[Any]) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            heard.append(connection.recv(200))
