"""Signals with which a scheduler asks a command to stop, turned into an exception as Ctrl-C is."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

SIGNALS = ("SIGTERM", "SIGUSR1", "SIGHUP")
"""What Kubernetes and clouds send before they take a machine back, what Slurm is asked to send, and what a
terminal sends when it is closed; `nohup` has that one ignored, and it stays so."""

TRY_AGAIN = os.EX_TEMPFAIL
"""Exit code that asks for the same command again."""

_is_listening = False
_received: str | None = None


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop, and to be run again."""


def listen() -> None:
    """Raise `Interrupted` in the main thread when one of the signals comes."""
    global _is_listening
    if not _is_listening:
        before = sys.unraisablehook
        sys.unraisablehook = lambda what: None if isinstance(what.exc_value, Interrupted) else before(what)
    _is_listening = True
    keep_listening()


def keep_listening() -> None:
    """Listen again, after a library has put its own handlers in place of ours."""
    if _is_listening and threading.current_thread() is threading.main_thread():
        for name in SIGNALS:
            if name != "SIGHUP" or signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
                signal.signal(signal.Signals[name], _interrupt)


def check() -> None:
    """Raise `Interrupted` once more where a signal has come: what it raised may have been swallowed.

    Python forgets what is raised while it collects garbage, forks, or is called back from a library in C.
    """
    if _received is not None:
        raise Interrupted(_received)


def received() -> str | None:
    """Return the signal by which the process was asked to stop; None where it was not."""
    return _received


def _interrupt(number: int, frame: Any) -> None:
    global _received
    _received = signal.Signals(number).name
    raise Interrupted(_received)
