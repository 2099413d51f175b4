"""Search folders in object storage: each process works on a local mirror, and every write is stored at once.

A mirror is attached to an address; from then on `store` hands every file that it writes there to `upload`,
which returns when the object store has it. Nobody acts on what is not stored, so the storage is the truth
and a mirror can be thrown away. Objects cannot be appended to: a growing file of JSON lines is stored in
parts, of which only the last is written again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from metabench.storage.remote.mirror import ORIGIN as ORIGIN
from metabench.storage.remote.mirror import Mirror as Mirror
from metabench.storage.remote.mirror import check_url as check_url
from metabench.storage.remote.mirror import is_url as is_url

_mirrors: dict[Path, Mirror] = {}


def attach(local: Path, url: str, is_scratch: bool = False) -> Mirror:
    """Store from now on what is written in a local folder, which is attached to one address at a time.

    Args:
        is_scratch: the folder is nobody's: what the store does not hold may be removed from it.
    """
    local = local.absolute()
    if local not in _mirrors or _mirrors[local].url != url.rstrip("/"):
        _mirrors[local] = Mirror(local, url, is_scratch)
    return _mirrors[local]


def detach(local: Path) -> None:
    """Store no longer what is written under a local folder."""
    _mirrors.pop(local.absolute(), None)


def mirror_of(path: Path) -> Mirror | None:
    """Return the mirror that a path lies in, if there is one."""
    if not _mirrors:
        return None
    path = path.absolute()
    return next((mirror for local, mirror in _mirrors.items() if path.is_relative_to(local)), None)


def canonical_url(folder: Path) -> str:
    """Return where other machines find a folder: at its address if it is a mirror, else at its path."""
    mirror = mirror_of(folder)
    return str(folder) if mirror is None else mirror.url


def upload(path: Path) -> None:
    """Store a file that was written, or all files of a folder, where it lies in a mirror."""
    mirror = mirror_of(path)
    if mirror is not None:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not file.name.startswith("."):
                mirror.upload(file)


def remove(path: Path) -> None:
    """Remove a file or a folder, from the store first where it lies in a mirror; it need not be there."""
    mirror = mirror_of(path)
    if mirror is not None:
        mirror.remove(path)
    if path.is_file():
        path.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def evict(path: Path) -> None:
    """Remove a folder of a mirror that is nobody's, and leave it in the store."""
    mirror = mirror_of(path)
    if mirror is not None and mirror.is_scratch:
        shutil.rmtree(path, ignore_errors=True)


def refresh(path: Path, skip: Callable[[str], bool] = lambda name: False) -> None:
    """Make a folder what the store holds, where it lies in a mirror.

    Args:
        skip: tells of a path in the mirror whether it is left alone.
    """
    mirror = mirror_of(path)
    if mirror is not None:
        mirror.fetch(mirror.name_of(path), skip)


def read(path: Path) -> bytes | None:
    """Read a file as it is in the store where it lies in a mirror, else on disk; None where there is none."""
    mirror = mirror_of(path)
    if mirror is not None:
        return mirror.read(mirror.name_of(path))
    return path.read_bytes() if path.exists() else None


def cache_folder() -> Path:
    """Return the folder of what can be made again: METABENCH_CACHE, or one in the user's home."""
    return Path(os.environ.get("METABENCH_CACHE") or "~/.cache/metabench").expanduser()


def work_in(place: str, kind: str = "searches") -> Path:
    """Return the local folder for what is at a path or an address.

    Args:
        kind: folder of the cache: mirrors in which a worker writes are not those that are only read.
    """
    if not is_url(place):
        return Path(place)
    local = cache_folder() / kind / hashlib.sha256(place.encode()).hexdigest()[:16]
    return attach(local, place, is_scratch=True).local
