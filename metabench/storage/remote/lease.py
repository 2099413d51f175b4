"""The right to drive a search in object storage: held by one process, and lost when it falls silent."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from metabench.core import MetabenchError, OutOfOrder
from metabench.storage.remote.mirror import Mirror

NAME = ".lease.json"

RENEWED_EVERY = 15.0
"""Seconds between renewals."""

SILENT_AFTER = 60.0
"""Seconds without a renewal after which a holder counts as gone."""

SETTLING = 2.0
"""Seconds after which one who took a lease over looks whether another did so at the same moment."""


@contextlib.contextmanager
def hold(mirror: Mirror, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Hold the lease of a mirror's address, and let nothing be written there after it was lost.

    A holder that was killed is waited for: no clock but our own can be trusted, and no number of a process,
    which in another container with the name of this machine is somebody else's.
    """
    token = secrets.token_hex(8)
    _take(mirror, token, say)
    state = {"lost": False, "renewed": time.monotonic()}
    ended = threading.Event()
    keeper = threading.Thread(target=_renew, args=(mirror, token, state, ended), daemon=True)
    keeper.start()

    def guard() -> None:
        if time.monotonic() - state["renewed"] > SILENT_AFTER:
            state["lost"] = _read(mirror).get("token") != token
        if state["lost"]:
            raise MetabenchError(
                f"{mirror.url}: another process has taken this search over; it goes on there"
            )

    mirror.guard = guard
    try:
        yield
    finally:
        mirror.guard = lambda: None
        ended.set()
        keeper.join()
        if not state["lost"]:
            with contextlib.suppress(OutOfOrder):  # who comes next waits until it has been silent for a while
                mirror.write(NAME, _content(token, 0, is_free=True))


def _take(mirror: Mirror, token: str, say: Callable[[str], None]) -> None:
    if mirror.create(NAME, _content(token, 0)):
        return
    lease, since = _read(mirror), time.monotonic()
    if not lease.get("free"):
        say(f"{mirror.url}: waiting whether process {_holder(lease)} still drives this search")
    while not lease.get("free") and time.monotonic() - since < SILENT_AFTER:
        time.sleep(min(RENEWED_EVERY / 3, 1.0))
        before, lease = lease, _read(mirror)
        if not lease.get("free") and lease != before:
            raise MetabenchError(
                f"{mirror.url}: in use by process {_holder(lease)}; "
                "wait for it, stop it, or choose another name"
            )
    mirror.write(NAME, _content(token, 0))
    time.sleep(SETTLING)
    if _read(mirror).get("token") != token:
        raise MetabenchError(f"{mirror.url}: another process took this search over at the same moment")


def _renew(mirror: Mirror, token: str, state: dict[str, Any], ended: threading.Event) -> None:
    count = 0
    while not ended.wait(RENEWED_EVERY):
        count += 1
        with contextlib.suppress(MetabenchError):  # out of order: nobody can take the lease over either
            if _read(mirror).get("token") != token:
                state["lost"] = True
                return
            mirror.write(NAME, _content(token, count))
            state["renewed"] = time.monotonic()


def _content(token: str, count: int, is_free: bool = False) -> bytes:
    holder = {"host": socket.gethostname(), "pid": os.getpid()}
    return json.dumps({"token": token, "count": count, "free": is_free, **holder}).encode()


def _read(mirror: Mirror) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        lease = json.loads(mirror.read(NAME) or b"{}")
        return lease if isinstance(lease, dict) else {}
    return {}


def _holder(lease: dict[str, Any]) -> str:
    return f"{lease.get('pid', '?')} on {lease.get('host', '?')}"
