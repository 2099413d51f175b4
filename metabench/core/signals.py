"""Signals with which a scheduler asks a command to stop, turned into an exception as Ctrl-C is."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
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


_RAISED = (Interrupted, SystemExit)
"""By handlers, ours and Ray's, also where Python cannot raise and would print it."""


def listen() -> None:
    """Raise `Interrupted` in the main thread when one of the signals comes."""
    global _is_listening
    if not _is_listening:
        before = sys.unraisablehook
        sys.unraisablehook = lambda what: None if isinstance(what.exc_value, _RAISED) else before(what)
    _is_listening = True
    keep_listening()


def keep_listening() -> None:
    """Listen again, after a library has put its own handlers in place of ours."""
    if _is_listening and threading.current_thread() is threading.main_thread():
        for name in SIGNALS:
            if name != "SIGHUP" or signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
                signal.signal(signal.Signals[name], _interrupt)


@contextlib.contextmanager
def lent() -> Iterator[None]:
    """Hear of SIGTERM though a library takes it meanwhile; raise `Interrupted` in the end where it came.

    What the library's handler raises would be lost where Python cannot raise it; see `check`.
    """
    if not (_is_listening and threading.current_thread() is threading.main_thread()):
        yield
        return
    read, write = socket.socketpair()
    with read, write:
        read.setblocking(False)
        write.setblocking(False)
        before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            keep_listening()
            with contextlib.suppress(BlockingIOError):
                if signal.SIGTERM in read.recv(1 << 16):
                    _interrupt(signal.SIGTERM, None)


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
