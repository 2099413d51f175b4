"""Reading files out of archives that others packed: nothing is unpacked to disk, nothing dubious is read."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np

from metabench.data.reading.cache import Array, cached

VERSION = 1
"""Raised when the same archive gives another listing."""

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
BLOCK = 512
"""Bytes that a member counts at least, so that there is an end to empty ones, too."""

LARGEST_HEADER = 1 << 16
"""Bytes of a long name at most."""

DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError),
    *(NotImplementedError, RuntimeError, ValueError, LookupError, OverflowError),
)
"""What reading a damaged archive may raise."""

LONG = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
"""Kinds of tar members that describe the next one, and are read into memory as they come."""


class Limits(NamedTuple):
    """Bytes that an honest archive does not exceed."""

    one: int  # file
    all: int


class Member(NamedTuple):
    """A file in an archive; it can be read until the next one is asked for."""

    name: str
    size: int
    read: Callable[[], bytes]


class Listing(NamedTuple):
    """The files of an archive."""

    sizes: dict[str, int]
    texts: dict[str, str]  # the content of those that end in .csv


class Refused(Exception):
    """An archive is damaged, or none that an honest person packed; the argument says which and why."""


class _Dubious(Exception):
    """What no honest person packs."""


def is_archive(path: Path) -> bool:
    """Say whether a file is an archive by its name."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def problem_of(name: str, size: int, largest: int, is_link: bool = False) -> str | None:
    """Say what is wrong with a member; nothing is unpacked, but such an archive is not to be trusted."""
    path = PurePosixPath(name.replace("\\", "/"))
    if ".." in path.parts or path.is_absolute() or re.match("[A-Za-z]:", name):
        return "leads out of the archive"
    if is_link:
        return "is a link"
    if size > largest:
        return f"unpacks to {size} bytes, must be at most {largest}"
    return None


def is_link(info: zipfile.ZipInfo) -> bool:
    """Say whether a member of a zip archive is a link."""
    return stat.S_ISLNK(info.external_attr >> 16)


def unzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Read a member of a zip archive, and no more of it into memory than the archive tells.

    `ZipFile.read` unpacks all that was packed before it looks at the size, which may be a lie.
    """
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError(f"{info.filename!r} is neither stored nor deflated; pack it anew")
    with archive.open(info) as file:
        content = file.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise EOFError(f"{info.filename!r} has {len(content)} bytes, must have {info.file_size}")
    return content


def state(path: Path) -> object:
    """Say what the content of an archive is known by."""
    status = path.stat()
    return (str(path.resolve()), status.st_size, status.st_mtime_ns)


def listing(path: Path, limits: Limits) -> Listing:
    """List the files of an archive, or read the cache: a compressed one must be read to its end for it."""

    def make() -> Array:
        found = Listing({}, {})
        for member in members(path, limits):
            found.sizes[member.name] = member.size
            if member.name.lower().endswith(".csv"):
                found.texts[member.name] = member.read().decode("utf-8-sig", "replace")
        return np.frombuffer(json.dumps(found).encode(), np.uint8)

    return Listing(*json.loads(cached("archive", (VERSION, state(path), limits), make).tobytes()))


def members(path: Path, limits: Limits) -> Iterator[Member]:
    """Yield the files of an archive in its order; what is in it, not its name, tells its kind."""
    with _told(path):
        for member in _opened(path, limits):
            yield member._replace(read=lambda member=member: _read(path, member))  # type: ignore[misc]


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say which archive is damaged or refused."""
    try:
        yield
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        size = f" ({path.stat().st_size} bytes)" if path.is_file() else ""
        raise Refused(f"{path}{size} is truncated or damaged: {reason}") from error
    except _Dubious as error:
        raise Refused(f"{path}: {error}") from error


def _read(path: Path, member: Member) -> bytes:
    with _told(path):
        return member.read()


def _opened(path: Path, limits: Limits) -> Iterator[Member]:
    with path.open("rb") as file:
        first = file.read(4)
        file.seek(0)
        if first.startswith(b"PK"):
            yield from _zipped(file, limits)
        elif first.startswith(b"\x1f\x8b"):
            with gzip.open(file) as unpacked:
                yield from _tarred(unpacked, limits)
                _finish(unpacked, limits)
        else:
            yield from _tarred(file, limits)


def _zipped(file: IO[bytes], limits: Limits) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        total = 0
        for info in infos:
            total = _checked(info.filename, info.file_size, limits, is_link(info), total)
        for info in infos:
            if not info.is_dir():
                name, size = _plain(info.filename), info.file_size
                yield Member(name, size, lambda info=info: unzipped(archive, info))  # type: ignore[misc]


class _Info(tarfile.TarInfo):
    """A member whose description cannot fill the memory, and behind whose last one there is a mark."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Info:
        if len(buf) != BLOCK:  # tarfile itself takes a cut between two members for the end
            raise tarfile.ReadError("it ends in the middle")
        try:
            found = super().frombuf(buf, encoding, errors)
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from error  # tarfile itself takes that for the end, too
        if found.type in LONG and found.size > LARGEST_HEADER:
            raise _Dubious(f"a name of {found.size} bytes, must be at most {LARGEST_HEADER}")
        return found


def _tarred(file: IO[bytes] | gzip.GzipFile, limits: Limits) -> Iterator[Member]:
    total = 0
    with tarfile.open(fileobj=file, mode="r|", tarinfo=_Info) as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # or they pile up
            if info.issparse() or not (info.isfile() or info.isdir() or info.islnk() or info.issym()):
                raise _Dubious(f"{info.name!r} is neither a plain file nor a folder")
            total = _checked(info.name, info.size, limits, info.islnk() or info.issym(), total)
            if info.isfile():
                read = lambda info=info: _content(archive, info)  # noqa: E731
                yield Member(_plain(info.name), info.size, read)


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    content = file.read() if file else b""
    if len(content) != info.size:
        raise EOFError(f"{info.name!r} has {len(content)} bytes, must have {info.size}")
    return content


def _finish(file: gzip.GzipFile, limits: Limits) -> None:
    """Read what fills an archive up, so that its checksum is compared."""
    rest = limits.one
    while rest > 0 and (n_bytes := len(file.read(1 << 16))):
        rest -= n_bytes


def _checked(name: str, size: int, limits: Limits, is_link: bool, total: int) -> int:
    problem = problem_of(name, size, limits.one, is_link)
    if problem:
        raise _Dubious(f"{name!r} {problem}")
    total += max(size, BLOCK)
    if total > limits.all:
        raise _Dubious(f"unpacks to more than {limits.all} bytes")
    name.encode()  # a name that is no Unicode is damage
    return total


def _plain(name: str) -> str:
    return str(PurePosixPath(name))
