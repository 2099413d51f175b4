"""Arrays that are slow to make, kept on disk under a key of everything that they depend on."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from metabench.core import MetabenchError

if sys.platform != "win32":
    import fcntl

Array = np.ndarray[Any, Any]


def folder() -> Path:
    """Return the cache folder: METABENCH_CACHE, or one in the user's home."""
    return Path(os.environ.get("METABENCH_CACHE") or "~/.cache/metabench").expanduser()


def cached(name: str, key: object, make: Callable[[], Array]) -> Array:
    """Return the array kept under a name and key, making and keeping it where it is missing or damaged."""

    def write(path: Path) -> None:
        array = make()
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)

    return kept(name, key, write)


def kept(name: str, key: object, write: Callable[[Path], None]) -> Array:
    """Return the array kept under a name and key; where it is missing or damaged, one process writes it.

    The array is mapped into memory: processes share its pages, and it may be larger than memory. What is
    written into it stays with the process that writes.

    Args:
        write: makes an .npy file at a path, piece by piece where it is large.
    """
    path = folder() / f"{name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.npy"
    found = _read(path)
    if found is not None:
        return found
    try:  # before the slow part, so that a folder that cannot be written is told at once
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            found = _read(path)  # another process may have been faster
            return _write(path, write) if found is None else found
    except OSError as error:
        raise _refusal(path, error) from error


@contextmanager
def table_file(path: Path, shape: tuple[int, ...]) -> Iterator[Callable[[int, int, Array], None]]:
    """Write an .npy file of uint8 [class, example, ...] image by image, in any order.

    Images that are never put are zeros and take no space. Writing, not mapping: a full disk is an error.
    """
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start, n_bytes = file.tell(), math.prod(shape[2:])

        def put(row: int, column: int, image: Array) -> None:
            file.seek(start + (row * shape[1] + column) * n_bytes)
            file.write(image.tobytes())

        yield put
        file.truncate(start + math.prod(shape))


def _read(path: Path) -> Array | None:
    try:
        return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError):
        return None  # a damaged file is one that we wrote: make it again
    except OSError as error:
        raise _refusal(path, error) from error


def _write(path: Path, write: Callable[[Path], None]) -> Array:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)  # where locks do not work, each process replaces the whole file
    finally:
        temporary.unlink(missing_ok=True)
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process of a machine at a time in; the system frees the lock of a process that dies."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            is_lockable = _lock(handle)
            if is_lockable and not _is_at(handle, path):
                continue  # the holder before us has removed the file: lock the new one
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(handle)


def _lock(handle: int) -> bool:
    """Wait for a lock; without locks two processes may do the same work, which is only slow."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return False
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _refusal(path: Path, error: OSError) -> MetabenchError:
    return MetabenchError(
        f"cache {path.parent}: {error.strerror or error}; set METABENCH_CACHE to a folder that can be written"
    )
