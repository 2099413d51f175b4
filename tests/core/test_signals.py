"""A scheduler's signal ends a command even where what it raises is swallowed."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import signal, time, os
from metabench.core import signals

class Swallows:
    def __del__(self):
        os.kill(os.getpid(), getattr(signal, NAME))
        time.sleep(0.01)  # where the handler runs: Python prints what is raised here, and goes on

signals.check()
assert signals.received() is None
signals.listen()
signals.listen()
Swallows()
print("swallowed", signals.received() == NAME)
try:
    signals.check()
except signals.Interrupted as error:
    print(error)
class Other:
    def __del__(self):
        raise ValueError("of another kind")
Other()
"""


def test_a_signal_that_was_swallowed_is_raised_at_the_next_look_and_not_printed() -> None:
    for name in ("SIGTERM", "SIGUSR1", "SIGHUP"):
        done = subprocess.run(
            [sys.executable, "-c", f"NAME = {name!r}\n{CODE}"], capture_output=True, text=True
        )
        assert done.stdout.splitlines() == ["swallowed True", name], done.stderr
        assert name not in done.stderr
        assert "of another kind" in done.stderr, "what others raise is still told"


def test_a_closed_terminal_stops_nothing_under_nohup() -> None:
    code = (
        "import os, signal; from metabench.core import signals; signals.listen();"
        "os.kill(os.getpid(), signal.SIGHUP); print(signals.received())"
    )
    done = subprocess.run(["nohup", sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "None\n", done.stderr
