"""Arrays that are slow to make, kept on disk under a key of everything that they depend on."""

from __future__ import annotations

import glob
import hashlib
import math
import mmap
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from metabench.core import MetabenchError
from metabench.storage import remote

Array = np.ndarray[Any, Any]

_used: ContextVar[list[Path] | None] = ContextVar("used", default=None)

MAP_NORESERVE = 0x4000
"""Linux's own number, which Python's mmap names from 3.13 on."""


class Key(NamedTuple):
    """What an array that is made from files depends on."""

    source: str  # checksum of the files, which stands in the name of what is kept
    rest: object


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
    path = remote.cache_folder() / f"{name}{source}-{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.npy"
    try:
        array = _mapped(path)
        if array is None:
            # Locked before the slow part, so that a folder that cannot be written is told at once.
            with locked(path.with_suffix(".lock")):
                array = _mapped(path)  # another process may have been faster
                array = _write(path, write) if array is None else array
    except OSError as error:
        advice = "set METABENCH_CACHE to a folder that can be written"
        raise MetabenchError(f"cache {path.parent}: {error.strerror or error}; {advice}") from error
    with suppress(OSError):  # a cache that is shared may be another's
        os.utime(path)
    used = _used.get()
    if used is not None:
        used.append(path)
    return array


def checksum(files: Sequence[Path]) -> str:
    """Return a checksum of the bytes of files, in their order; a machine reads unchanged files once for it.

    Files that cannot be read are left to whoever needs what is in them.
    """
    states = [(str(file.resolve()), (status := file.stat()).st_size, status.st_mtime_ns) for file in files]

    def make() -> Array:
        digest = hashlib.sha256()
        for file, state in zip(files, states, strict=True):
            try:
                with file.open("rb") as opened:
                    digest.update(hashlib.file_digest(opened, "sha256").digest())
            except OSError:
                digest.update(repr(state).encode())
        return np.frombuffer(digest.digest(), np.uint8)

    with noted():  # a list of its own: it is no data
        return cached("checksum", states, make).tobytes().hex()


@contextmanager
def noted() -> Iterator[list[Path]]:
    """Give a list that fills with the kept files that are used within."""
    used: list[Path] = []
    token = _used.set(used)
    try:
        yield used
    finally:
        _used.reset(token)


@contextmanager
def locked(path: Path, say: Callable[[str], None] = lambda line: None, waiting: str = "") -> Iterator[None]:
    """Let one process of a machine at a time in; the system frees the lock of a process that dies.

    Args:
        say: is told the line `waiting` where another process is in.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(waiting)
        lock.acquire()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # who waits for the removed file sees that, and locks a new one
        lock.release()


@contextmanager
def table_file(
    path: Path, shape: tuple[int, ...], kind: type[np.generic] = np.uint8
) -> Iterator[Callable[[int, int, Array], None]]:
    """Write an .npy file of [class, example, ...] image by image, in any order.

    Images that are never put are zeros and take no space. Writing, not mapping: a full disk is an error.
    """
    with path.open("wb") as file:
        header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start, n_bytes = file.tell(), math.prod(shape[2:]) * np.dtype(kind).itemsize

        def put(row: int, column: int, image: Array) -> None:
            file.seek(start + (row * shape[1] + column) * n_bytes)
            file.write(image.tobytes())

        yield put
        file.truncate(start + math.prod(shape) * np.dtype(kind).itemsize)


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read shape, whether the order is Fortran's, and type from the start of an .npy file."""
    if np.lib.format.read_magic(file) == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


NAME = re.compile(r".+-[0-9a-f]{20}(\..+)?\.(npy|tmp)")
"""Of what is kept: the folder may hold files of others."""


class Kept(NamedTuple):
    """An array that is kept."""

    path: Path
    n_bytes: int
    used: float  # seconds since 1970


def every() -> list[Kept]:
    """List the arrays that are kept, and what killed processes left of such, the longest unused first."""
    places = [path for path in remote.cache_folder().glob("*") if NAME.fullmatch(path.name)]
    status = [(path, path.stat()) for path in places if path.is_file()]
    kept_ones = [Kept(path, one.st_blocks * 512, one.st_mtime) for path, one in status]
    return sorted(kept_ones, key=lambda one: one.used)


def prune(days: float) -> list[Kept]:
    """Remove what was not used for so many days, and return it; whoever needs it makes it again."""
    least = {".npy": days, ".tmp": max(days, 1.0)}  # what is a day old, nobody is still writing
    removed = [one for one in every() if time.time() - one.used >= least[one.path.suffix] * 86_400]
    for one in removed:
        one.path.unlink(missing_ok=True)  # a process that has it mapped keeps its pages
    return removed


def _write(path: Path, write: Callable[[Path], None]) -> Array:
    begun = f"{path.stem}.{platform.node()}."
    for left in path.parent.glob(f"{glob.escape(begun)}*.tmp"):  # by killed processes of this machine
        left.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=begun, suffix=".tmp")
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
    array = _mapped(path)
    assert array is not None, "or it was damaged while it was written"
    return array


def _mapped(path: Path) -> Array | None:
    """Map an .npy file, as numpy's mode "c" does, but without reserving memory for all of it.

    Linux reserves memory for what a process may write into a private mapping, and refuses one that is larger
    than memory. None where there is no such file, or a damaged one, which is ours to make again.
    """
    try:
        if not sys.platform.startswith("linux"):
            return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
        with path.open("rb") as file:
            shape, is_fortran, kind = read_header(file)
            start = file.tell()
            end = start + math.prod(shape) * np.dtype(kind).itemsize
            if kind.hasobject or os.fstat(file.fileno()).st_size < end:
                return None
            how = mmap.MAP_PRIVATE | MAP_NORESERVE
            mapped = mmap.mmap(file.fileno(), end, flags=how, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        return np.ndarray(shape, kind, mapped, start, order="F" if is_fortran else "C")
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError):
        return None
