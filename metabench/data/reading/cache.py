"""Arrays that are slow to make, kept on disk under a key of everything that they depend on."""

from __future__ import annotations

import glob
import hashlib
import math
import mmap
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metabench.core import MetabenchError
from metabench.storage import remote

if sys.platform != "win32":
    import fcntl

Array = np.ndarray[Any, Any]

_used: ContextVar[list[Path] | None] = ContextVar("used", default=None)

MAP_NORESERVE = 0x4000
"""Linux's own number, which Python's mmap names from 3.13 on."""


class Key(NamedTuple):
    """What an array that is made from files depends on."""

    source: str  # checksum of the files, which stands in the name of what is kept
    rest: object


class _Unread(Exception):
    """A file whose checksum is asked for cannot be read."""


def folder() -> Path:
    """Return the cache folder: METABENCH_CACHE, or one in the user's home."""
    return remote.cache_folder()


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
    source = f"-{key.source[:16]}" if isinstance(key, Key) else ""
    path = folder() / f"{name}{source}-{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.npy"
    found = _read_or_write(path, write)
    used = _used.get()
    if used is not None:
        used.append(path)
    return found


def checksum(files: Sequence[Path]) -> str:
    """Return a checksum of the bytes of files, in their order; a machine reads unchanged files once for it.

    Files that cannot be read are left to whoever needs what is in them.
    """
    states = [(str(file.resolve()), (status := file.stat()).st_size, status.st_mtime_ns) for file in files]

    def make() -> Array:
        found = hashlib.sha256()
        for file in files:
            try:
                with file.open("rb") as opened:
                    found.update(hashlib.file_digest(opened, "sha256").digest())
            except OSError as error:
                raise _Unread from error
        return np.frombuffer(found.digest(), np.uint8)

    try:
        with noted():  # a list of its own: it is no data
            return cached("checksum", states, make).tobytes().hex()
    except _Unread:
        return hashlib.sha256(repr(states).encode()).hexdigest()


@contextmanager
def noted() -> Iterator[list[Path]]:
    """Give a list that fills with the kept files that are used within."""
    used: list[Path] = []
    token = _used.set(used)
    try:
        yield used
    finally:
        _used.reset(token)


def _read_or_write(path: Path, write: Callable[[Path], None]) -> Array:
    found = _read(path)
    if found is not None:
        return found
    try:  # before the slow part, so that a folder that cannot be written is told at once
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")) as is_alone:
            found = _read(path)  # another process may have been faster
            if is_alone:
                _clear(path)
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
        return _mapped(path)
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError):
        return None  # a damaged file is one that we wrote: make it again
    except OSError as error:
        raise _refusal(path, error) from error


def _begun(path: Path) -> str:
    """Return how the names of the files start that this machine writes to become a kept one."""
    return f"{path.stem}.{platform.node()}."


def _clear(path: Path) -> None:
    """Remove what killed processes of this machine left half written; only for who holds the lock."""
    for left in path.parent.glob(f"{glob.escape(_begun(path))}*.tmp"):
        left.unlink(missing_ok=True)


def _write(path: Path, write: Callable[[Path], None]) -> Array:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_begun(path), suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.chmod(0o644)  # mkstemp's 0600 would hide a shared cache from a colleague
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)  # where locks do not work, each process replaces the whole file
    finally:
        temporary.unlink(missing_ok=True)
    return _mapped(path)


def _mapped(path: Path) -> Array:
    """Map an .npy file, as numpy's mode "c" does, but without reserving memory for all of it.

    Linux reserves memory for what a process may write into a private mapping, and refuses one that is larger
    than memory.
    """
    if not sys.platform.startswith("linux"):
        return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    with path.open("rb") as file:
        is_first = np.lib.format.read_magic(file) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        shape, is_fortran, kind = read(file)
        start = file.tell()
        if kind.hasobject:
            raise ValueError("holds Python objects")
        end = start + math.prod(shape) * kind.itemsize
        if os.fstat(file.fileno()).st_size < end:
            raise ValueError("is cut off")
        how = mmap.MAP_PRIVATE | MAP_NORESERVE
        mapped = mmap.mmap(file.fileno(), end, flags=how, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return np.ndarray(shape, kind, mapped, start, order="F" if is_fortran else "C")


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Let one process of a machine at a time do what has a name."""
    path = folder() / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        yield


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Let one process of a machine at a time in; the system frees the lock of a process that dies.

    Gives whether there are locks at all.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            is_lockable = _lock(handle)
            if is_lockable and not _is_at(handle, path):
                continue  # the holder before us has removed the file: lock the new one
            try:
                yield is_lockable
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
