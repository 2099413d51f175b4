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
from metabench.storage.remote.mirror import Copy

NAME = ".lease.json"

RENEWED_EVERY = 15.0
"""Seconds between renewals."""

SILENT_AFTER = 60.0
"""Seconds without a renewal after which a holder counts as gone."""

SETTLING = 2.0
"""Seconds after which one who took a lease over looks whether another did so at the same moment."""


@contextlib.contextmanager
def hold(copy: Copy, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Hold the lease of a copy's address, and let nothing be written there after it was lost.

    A holder that was killed is waited for, since no clock but our own can be trusted; one on this machine
    whose process is gone is not.
    """
    token = secrets.token_hex(8)
    _take(copy, token, say)
    state = {"lost": False, "renewed": time.monotonic()}
    ended = threading.Event()
    keeper = threading.Thread(target=_renew, args=(copy, token, state, ended), daemon=True)
    keeper.start()

    def guard() -> None:
        if time.monotonic() - state["renewed"] > SILENT_AFTER:
            state["lost"] = _read(copy).get("token") != token
        if state["lost"]:
            raise MetabenchError(f"{copy.url}: another process has taken this search over; it goes on there")

    copy.guard = guard
    try:
        yield
    finally:
        copy.guard = lambda: None
        ended.set()
        keeper.join()
        if not state["lost"]:
            with contextlib.suppress(OutOfOrder):  # who comes next waits until it has been silent for a while
                copy.write(NAME, _content(token, 0, is_free=True))


def _take(copy: Copy, token: str, say: Callable[[str], None]) -> None:
    if copy.create(NAME, _content(token, 0)):
        return
    watched = _read(copy)
    since = time.monotonic()
    told = False
    while not (watched.get("free") or _is_dead_here(watched)) and time.monotonic() - since < SILENT_AFTER:
        if not told:
            say(f"{copy.url}: waiting whether process {_who(watched)} still drives this search")
            told = True
        time.sleep(min(RENEWED_EVERY / 3, 1.0))
        now = _read(copy)
        if not now.get("free") and now != watched:
            raise MetabenchError(
                f"{copy.url}: in use by process {_who(now)}; wait for it, stop it, or choose another --name"
            )
        watched = now
    copy.write(NAME, _content(token, 0))
    time.sleep(SETTLING)
    if _read(copy).get("token") != token:
        raise MetabenchError(f"{copy.url}: another process took this search over at the same moment")


def _renew(copy: Copy, token: str, state: dict[str, Any], ended: threading.Event) -> None:
    count = 0
    while not ended.wait(RENEWED_EVERY):
        count += 1
        try:
            if _read(copy).get("token") != token:
                state["lost"] = True
                return
            copy.write(NAME, _content(token, count))
            state["renewed"] = time.monotonic()
        except MetabenchError:
            continue  # the store is out of order: nobody can take the lease over either


def _content(token: str, count: int, is_free: bool = False) -> bytes:
    who = {"host": socket.gethostname(), "pid": os.getpid()}
    return json.dumps({"token": token, "count": count, "free": is_free, **who}).encode()


def _read(copy: Copy) -> dict[str, Any]:
    data = copy.read(NAME)
    with contextlib.suppress(ValueError):
        found = json.loads(data or b"{}")
        return found if isinstance(found, dict) else {}
    return {}


def _who(lease: dict[str, Any]) -> str:
    return f"{lease.get('pid', '?')} on {lease.get('host', '?')}"


def _is_dead_here(lease: dict[str, Any]) -> bool:
    if lease.get("host") != socket.gethostname() or not isinstance(lease.get("pid"), int):
        return False
    try:
        os.kill(lease["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
