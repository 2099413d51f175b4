"""Reading files out of folders, or out of archives that others packed: nothing is unpacked to disk."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

from metabench.core import MetabenchError
from metabench.data.reading.cache import Array, cached

VERSION = 2
"""Raised when the same archive gives another listing."""

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
BLOCK = 512
"""Bytes that a member counts at least, so that there is an end to empty ones, too."""

LARGEST_HEADER = 1 << 16
"""Bytes of a long name at most."""

DAMAGE = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, SyntaxError),
    *(MemoryError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError),
    Image.DecompressionBombError,
)
"""What reading a damaged archive, array or picture may raise."""

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


class Refused(Exception):
    """Files are damaged, or not what an honest person packed; the arguments say which and why."""


class _Dubious(Exception):
    """What no honest person packs."""


def reason(error: BaseException) -> str:
    """Say in one line what an error is."""
    return " ".join(str(error).split()) or type(error).__name__


def find(folder: Path, unpacked: Mapping[str, str]) -> dict[str, Path]:
    """Find archives in a folder, or else the folders in it that were unpacked from them.

    Args:
        unpacked: names of archives to those of the folders.
    """
    places = {}
    for archive, inside in unpacked.items():
        if (folder / archive).is_file():
            places[archive] = folder / archive
        elif (folder / inside).is_dir():
            places[archive] = folder / inside
    return places


def require(
    name: str, root: Path | None, folder: str, unpacked: Mapping[str, str], beside: str = ""
) -> list[Path]:
    """Find all archives of a data set, or the folders unpacked from them; say how they are got."""
    download = f"To download: metabench datasets fetch {name}"
    if root is None:
        raise MetabenchError(
            f"{name}: METABENCH_DATA is not set; set it to the folder that holds {folder}/. {download}"
        )
    places = find(root / folder, unpacked)
    missing = [pair for pair in unpacked.items() if pair[0] not in places]
    if missing:
        lacks = " and ".join(f"neither {archive} nor a folder {inside}" for archive, inside in missing)
        raise MetabenchError(f"{name}: {root / folder} holds {lacks}{beside}. {download}")
    return list(places.values())


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


def listing(path: Path, limits: Limits) -> dict[str, str | None]:
    """List the files of an archive, with the content of those that end in .csv, or read the cache.

    A compressed archive must be read to its end for it.
    """

    def make() -> Array:
        files: dict[str, str | None] = {}
        for member in members(path, limits):
            is_list = member.name.lower().endswith(".csv")
            files[member.name] = member.read().decode("utf-8-sig", "replace") if is_list else None
        return np.frombuffer(json.dumps(files).encode(), np.uint8)

    status = path.stat()
    state = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    return dict(json.loads(cached("archive", (VERSION, state, limits), make).tobytes()))


def members(path: Path, limits: Limits) -> Iterator[Member]:
    """Yield the files of a folder or an archive; what is in it, not its name, tells an archive's kind."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                yield Member(file.relative_to(path).as_posix(), file.stat().st_size, file.read_bytes)
        return
    with _named(path):
        total = 0
        for name, size, read, is_link in _opened(path, limits):
            problem = problem_of(name, size, limits.one, is_link)
            if problem:
                raise _Dubious(f"{name!r} {problem}")
            total += max(size, BLOCK)
            if total > limits.all:
                raise _Dubious(f"unpacks to more than {limits.all} bytes")
            name.encode()  # a name that is no Unicode is damage
            if read is not None:
                yield Member(str(PurePosixPath(name)), size, _checked(path, name, size, read))


def _checked(path: Path, name: str, size: int, read: Callable[[int], bytes]) -> Callable[[], bytes]:
    """Read a member, and no more of it into memory than the archive says: that may be a lie."""

    def read_all() -> bytes:
        with _named(path):
            content = read(size + 1)
            if len(content) != size:
                raise EOFError(f"{name!r} has {len(content)} bytes, must have {size}")
            return content

    return read_all


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which archive is damaged or refused."""
    try:
        yield
    except DAMAGE as error:
        size = f" ({path.stat().st_size} bytes)" if path.is_file() else ""
        raise Refused(f"{path}{size} is truncated or damaged: {reason(error)}") from error
    except _Dubious as error:
        raise Refused(f"{path}: {error}") from error


_Entry = tuple[str, int, Callable[[int], bytes] | None, bool]
"""Name, size, what reads so many bytes of it (None: a folder), and whether it is a link."""


def _opened(path: Path, limits: Limits) -> Iterator[_Entry]:
    with path.open("rb") as file:
        first = file.read(4)
        file.seek(0)
        if first.startswith(b"PK"):
            with zipfile.ZipFile(file) as archive:
                yield from _zipped(archive)
        elif first.startswith(b"\x1f\x8b"):
            with gzip.open(file) as unpacked:
                yield from _tarred(unpacked)
                rest = limits.one  # what fills an archive up, so that its checksum is compared
                while rest > 0 and (n_bytes := len(unpacked.read(1 << 16))):
                    rest -= n_bytes
        else:
            yield from _tarred(file)


def _zipped(archive: zipfile.ZipFile) -> Iterator[_Entry]:
    for info in archive.infolist():

        def read(n_bytes: int, info: zipfile.ZipInfo = info) -> bytes:
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise NotImplementedError(f"{info.filename!r} is neither stored nor deflated; pack it anew")
            with archive.open(info) as file:
                return file.read(n_bytes)

        is_folder = info.filename.endswith("/") or not info.filename
        yield (
            info.filename,
            info.file_size,
            None if is_folder else read,
            stat.S_ISLNK(info.external_attr >> 16),
        )


class _Info(tarfile.TarInfo):
    """A member whose description cannot fill the memory, and behind whose last one there is a mark."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Info:
        if len(buf) != BLOCK:  # tarfile itself takes a cut between two members for the end
            raise tarfile.ReadError("it ends in the middle")
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from error  # tarfile itself takes that for the end, too
        if info.type in LONG and info.size > LARGEST_HEADER:
            raise _Dubious(f"a name of {info.size} bytes, must be at most {LARGEST_HEADER}")
        return info


def _tarred(file: IO[bytes] | gzip.GzipFile) -> Iterator[_Entry]:
    with tarfile.open(fileobj=file, mode="r|", tarinfo=_Info) as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # or they pile up
            if info.issparse() or not (info.isfile() or info.isdir() or info.islnk() or info.issym()):
                raise _Dubious(f"{info.name!r} is neither a plain file nor a folder")
            content = archive.extractfile(info) if info.isfile() else None
            read = content.read if content else None
            yield info.name, info.size, read, info.islnk() or info.issym()
