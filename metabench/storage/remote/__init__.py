"""Search folders in object storage: each process works on a local copy, and every write is stored at once.

A copy is attached to an address; from then on `store` hands every file that it writes in the copy to `put`,
which returns when the object store has it. Nobody acts on what is not stored, so the storage is the truth
and a copy can be thrown away. Objects cannot be appended to: a growing file of JSON lines is stored in
parts, of which only the last is written again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from metabench.storage.remote.address import check_url, is_url
from metabench.storage.remote.mirror import ORIGIN, Copy

__all__ = [
    "ORIGIN",
    "Copy",
    "attach",
    "cache_folder",
    "check_url",
    "copy_of",
    "detach",
    "forget",
    "is_url",
    "place_of",
    "put",
    "read",
    "refresh",
    "remove",
    "work_in",
]

_copies: dict[Path, Copy] = {}


def attach(local: Path, url: str, is_scratch: bool = False) -> Copy:
    """Store from now on what is written in a local folder, which is attached to one address at a time.

    Args:
        is_scratch: the folder is nobody's: what the store does not hold may be removed from it.
    """
    local = local.absolute()
    if local not in _copies or _copies[local].url != url.rstrip("/"):
        _copies[local] = Copy(local, url, is_scratch)
    return _copies[local]


def detach(local: Path) -> None:
    """Store no longer what is written under a local folder."""
    _copies.pop(local.absolute(), None)


def copy_of(path: Path) -> Copy | None:
    """Return the copy that a path lies in, if there is one."""
    if not _copies:
        return None
    path = path.absolute()
    return next((copy for local, copy in _copies.items() if path.is_relative_to(local)), None)


def place_of(folder: Path) -> str:
    """Return where other machines find a folder: at its address if it is a copy, else at its path."""
    copy = copy_of(folder)
    return str(folder) if copy is None else copy.url


def put(path: Path) -> None:
    """Store a file that was written, or all files of a folder, where it lies in a copy."""
    copy = copy_of(path)
    if copy is None:
        return
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and not file.name.startswith("."):
            copy.put(file)


def remove(path: Path) -> None:
    """Remove a file or a folder, from the store first where it lies in a copy; it need not be there."""
    copy = copy_of(path)
    if copy is not None:
        copy.remove(path)
    if path.is_file():
        path.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def forget(path: Path) -> None:
    """Remove a folder of a copy that is nobody's, and leave it in the store."""
    copy = copy_of(path)
    if copy is not None and copy.is_scratch:
        shutil.rmtree(path, ignore_errors=True)


def refresh(path: Path, skip: Callable[[str], bool] = lambda name: False) -> None:
    """Make a folder what the store holds, where it lies in a copy.

    Args:
        skip: tells of a path in the copy whether it is left alone.
    """
    copy = copy_of(path)
    if copy is not None:
        within = path.absolute().relative_to(copy.local).as_posix()
        copy.fetch("" if within == "." else within, skip)


def read(path: Path) -> bytes | None:
    """Read a file as it is in the store where it lies in a copy, else on disk; None where there is none."""
    copy = copy_of(path)
    if copy is not None:
        return copy.read(path.absolute().relative_to(copy.local).as_posix())
    return path.read_bytes() if path.exists() else None


def cache_folder() -> Path:
    """Return the folder of what can be made again: METABENCH_CACHE, or one in the user's home."""
    return Path(os.environ.get("METABENCH_CACHE") or "~/.cache/metabench").expanduser()


def work_in(place: str, kind: str = "searches") -> Path:
    """Return the local folder for what is at a path or an address.

    Args:
        kind: folder of the cache for copies: those in which a worker writes are not those that are only read.
    """
    if not is_url(place):
        return Path(place)
    local = cache_folder() / kind / hashlib.sha256(place.encode()).hexdigest()[:16]
    return attach(local, place, is_scratch=True).local
