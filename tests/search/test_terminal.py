"""What is seen of a search while it runs: bars on a terminal, lines in a pipe, and the words of `status`."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from metabench.core.config import SearchSpace
from metabench.core.metrics import METRICS
from metabench.search.journal.ledger import WORK, Ledger
from metabench.search.progress import summary, terminal, view
from metabench.search.progress.terminal import Terminal
from metabench.search.progress.watch import Watch
from metabench.storage import files
from tests.search.played import make_report

ROOT = Path(__file__).parents[2]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")

WAITING = """
import time
from metabench.search.progress import terminal
terminal.SILENT_SECONDS = 1.0
with terminal.Terminal() as shown:
    shown.enter("starting Ray")
    time.sleep(2.5)
    shown.enter("search")
    time.sleep(1.5)
    shown.say("a line")
"""
"""A search that is silent for a while."""


@pytest.fixture
def driven(tmp_path: Path, space: SearchSpace) -> tuple[Watch, Ledger]:
    """Return a search of which one trial waits, one runs and one is being started."""
    record = {"protocol": 1, "seed": 0, "data_fingerprint": "f" * 64, "space": space.model_dump(mode="json")}
    files.write_json(tmp_path / files.SEARCH, record)
    ledger, watch = Ledger(tmp_path, 2), Watch(tmp_path, space, quiet=True)
    names = [ledger.propose("maml", {}, {"inner_lr": 0.1}, False, 0).name for _ in range(3)]
    (tmp_path / WORK / names[1]).mkdir(parents=True)
    ledger.record(names[0], make_report(100, 0.5), "wait", {})
    ledger.record(names[1], make_report(100, 0.6), "continue", {})
    watch.slots = 2
    return watch, ledger


def test_what_is_shown_has_the_words_and_counts_of_status(driven: tuple[Watch, Ledger]) -> None:
    watch, ledger = driven
    with watch.showing(ledger):
        here, there = watch.terminal.standing(), summary.read(watch.folder)
        for what in (view.counted, lambda name, phase: phase.get("total")):
            for name in view.PHASES:
                each = (standing["phases"].get(name, {}) for standing in (here, there))
                assert len({what(name, phase) for phase in each}) == 1
        assert view.counted("search", there["phases"]["search"]) == "1 of 18 trials"
        assert [line.partition(",")[0] for line in view.workers(there)] == [
            "maml-001: 100 of 300 tasks",
            "maml-002: starting",
        ]
        assert list(view.workers(there)) == list(view.workers(here))
        assert view.header(there).startswith("search, a process drives it, 0:00:0")
        ledger.record("maml-002", make_report(100, 0.4), "wait", {})
        watch._snapshot(ledger)
        for standing in (watch.terminal.standing(), summary.read(watch.folder)):
            assert view.counted("search", standing["phases"]["search"]) == "2 of 18 trials"
        watch.terminal.enter("confirmation", 4, 1)
        watch.beside(["maml-001"], 2)
        watch._snapshot(ledger)
        there = summary.read(watch.folder)
        assert there["stage"] == "confirmation"
        assert "left, perhaps until" in view.line(there)
        assert ": 3 of 4 settings; maml-001, 0:00:0" in view.line(there)
        assert there["expected"]["seconds_left"] is not None


def test_what_an_earlier_driver_did_takes_none_of_the_expected_time(driven: tuple[Watch, Ledger]) -> None:
    watch, ledger = driven
    with watch.showing(ledger):
        ledger.record("maml-001", make_report(100, 0.5), "wait", {})
        ledger.record("maml-002", make_report(100, 0.4), "wait", {})
        expected = {}
        for before in (0, 100):
            snapshot = {
                "stage": "meta-test",
                "phases": {
                    "meta-test": {"done": before + 1, "before": before, "total": before + 10, "seconds": 10.0}
                },
            }
            stands = summary.stand(
                watch.folder, watch.space, ledger, METRICS["accuracy"], {"maml": 4}, snapshot
            )
            expected[before] = stands["expected"]["seconds_left"]
    assert expected == {0: 90.0, 100: 90.0}


@pytest.mark.parametrize("columns", [80, 140])
def test_all_of_it_fits_into_a_terminal(driven: tuple[Watch, Ledger], columns: int) -> None:
    watch, ledger = driven
    with watch.showing(ledger):
        standing = watch.terminal.standing()
    table = summary.table(standing["algorithms"], METRICS["accuracy"])
    shown = Console(file=io.StringIO(), width=columns)
    shown.print(view.live(standing, table))
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    for name in [*view.PHASES][2:]:  # those before are of a process, which this is not
        assert name in text


def test_who_is_not_a_terminal_hears_something_in_every_silence_and_no_control_characters() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run(
        [sys.executable, "-c", WAITING], check=True, capture_output=True, text=True, env=environment
    )
    *lines, last = [line.partition(",")[0] for line in done.stderr.splitlines()]
    assert (len(lines) >= 3, {*lines}, last) == (True, {"starting Ray", "search"}, "a line")
    assert not CONTROL.search(done.stderr)
    assert done.stdout == ""


def test_a_terminal_is_drawn_again_and_again_and_keeps_its_cursor() -> None:
    leader, follower = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "80"}
    subprocess.run([sys.executable, "-c", WAITING], check=True, stderr=follower, env=environment)
    os.close(follower)
    drawn = b""
    while chunk := _read(leader):
        drawn += chunk
    assert len(re.findall(rb"starting Ray, 0:00:0\d so far", drawn)) >= 3
    assert drawn.rfind(b"\x1b[?25h") > drawn.rfind(b"\x1b[?25l")
    assert b"a line" in drawn


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 65536)
    except OSError:  # the other end is closed
        return b""


def test_silence_may_grow_with_the_time_that_has_passed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal, "SILENT_SECONDS", 0.6)
        shown = Terminal()
        shown.begun -= 3600
        with shown:
            time.sleep(1.5)
    assert capfd.readouterr().err == ""  # after an hour five minutes of silence are allowed


def test_who_is_quiet_is_quiet(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "SILENT_SECONDS", 0.1)
    with Terminal(quiet=True) as shown:
        time.sleep(0.8)
        shown.say("a line")
    assert capfd.readouterr() == ("", "")


def test_drawing_costs_the_driver_little(driven: tuple[Watch, Ledger]) -> None:
    watch, ledger = driven
    with watch.showing(ledger):
        pass
    console: Any = Console(file=io.StringIO(), width=140)
    begun = time.process_time()
    for _ in range(10):
        console.print(watch.terminal._draw())
    each = (time.process_time() - begun) / 10
    assert each * terminal.REFRESHES < 0.05  # seconds of the processor in a second
