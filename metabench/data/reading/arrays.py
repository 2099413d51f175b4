"""Opening arrays of images and labels, as an .npz file or as a folder of .npy files, and never a pickle."""

from __future__ import annotations

import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from metabench.data.reading import cache
from metabench.data.reading.cache import Array

NAMES = ("images", "labels", "split")

PIECE = 2**20
"""Bytes of an archive that are unpacked at once."""

LONGEST_WORD = 1000
"""Letters of a label at most."""

DAMAGE = (
    *(OSError, ValueError, EOFError, LookupError, TypeError, SyntaxError, RuntimeError, AttributeError),
    *(MemoryError, ArithmeticError, struct.error, zipfile.BadZipFile, zlib.error),
)
"""What reading damaged files may raise."""


class Opened(NamedTuple):
    """Arrays by name, how the images are read, and what cannot be read."""

    arrays: dict[str, Array]  # of an archive's images only their shape and type
    read_images: Callable[[], Array]
    problems: list[str]


class Unreadable(Exception):
    """Images cannot be used; the arguments say why."""


def sources(path: Path) -> list[Path]:
    """List the files that hold the arrays."""
    files = [path / f"{name}.npy" for name in NAMES] if path.is_dir() else [path]
    return [file for file in files if file.is_file()]


def open_all(path: Path) -> Opened:
    """Open what is there, without reading the images."""
    found = _folder(path) if path.is_dir() else _archive(path)
    for name, array in list(found.arrays.items()):
        if array.dtype.hasobject:
            del found.arrays[name]
            found.problems.append(
                f"{name} of {path}: holds Python objects, which may run code when they are read; "
                "save plain numbers or words"
            )
    return found


def _folder(path: Path) -> Opened:
    arrays: dict[str, Array] = {}
    problems: list[str] = []
    for name in NAMES:
        file = path / f"{name}.npy"
        if not file.exists():
            if name != "split":
                problems.append(f"{file}: is not there; the folder must hold images.npy and labels.npy")
            continue
        try:
            arrays[name] = _mapped(file)
        except DAMAGE as error:
            problems.append(f"{file}: cannot be read: {_told(error)}")
    return Opened(arrays, lambda: arrays["images"], problems)


def _mapped(file: Path) -> Array:
    if not file.is_file():
        raise ValueError("is not a file")
    with file.open("rb") as opened:
        shown = _shown(opened)
    return shown if shown.dtype.hasobject else np.lib.format.open_memmap(file, mode="r")


def _shown(file: IO[bytes]) -> Array:
    """Return an array of the shape and type that a file tells, without reading it."""
    shape, _, kind = _header(file)
    return np.broadcast_to(np.zeros((), kind), shape)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _archive(path: Path) -> Opened:
    arrays: dict[str, Array] = {}
    problems: list[str] = []

    def read_images() -> Array:
        try:
            with zipfile.ZipFile(path) as archive, archive.open("images.npy") as member:
                return _unpacked(member, archive.getinfo(member.name).file_size)
        except DAMAGE as error:
            raise Unreadable(f"images of {path}: cannot be read: {_told(error)}") from error

    if not path.is_file() or path.suffix.lower() != ".npz":
        wanted = f"{path}: must be an .npz file, or a folder that holds images.npy and labels.npy"
        return Opened({}, read_images, [wanted])
    try:
        with zipfile.ZipFile(path) as archive:
            _take_members(archive, arrays, problems, path)
    except DAMAGE as error:
        problems.append(f"{path}: cannot be read as an .npz file: {_told(error)}")
    return Opened(arrays, read_images, problems)


def _unpacked(member: IO[bytes], n_bytes: int) -> Array:
    """Map an array out of an archive, which may be larger than memory, by way of a file without a name."""
    folder = cache.folder()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise OSError(f"it unpacks to {n_bytes} bytes, and {folder} has room for {free}")
    with tempfile.TemporaryFile(dir=folder) as file:
        shutil.copyfileobj(member, file, PIECE)
        file.seek(0)
        shape, is_fortran, kind = _header(file)
        return np.memmap(file, kind, "r", file.tell(), shape, "F" if is_fortran else "C")  # type: ignore[arg-type]


def _take_members(
    archive: zipfile.ZipFile, arrays: dict[str, Array], problems: list[str], path: Path
) -> None:
    members = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    missing = [name for name in NAMES[:2] if name not in members]
    if missing:
        found = ", ".join(sorted(members)) or "nothing"
        problems.append(f"{path}: {' and '.join(missing)} not in it; it holds {found}")
    for name in (name for name in NAMES if name in members):
        try:
            with archive.open(f"{name}.npy") as member:
                arrays[name] = _shown(member)
                told = member.tell() + arrays[name].size * arrays[name].itemsize
            _check_size(archive.getinfo(f"{name}.npy").file_size, told, arrays[name])
            if name != "images" and _is_worth_reading(arrays[name], arrays.get("images")):
                with archive.open(f"{name}.npy") as member:
                    arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
        except DAMAGE as error:
            arrays.pop(name, None)
            problems.append(f"{name} of {path}: cannot be read: {_told(error)}")


def _check_size(n_bytes: int, told: int, array: Array) -> None:
    if n_bytes != told and not array.dtype.hasobject:
        raise ValueError(
            f"it has {n_bytes} bytes, but as {array.dtype} {list(array.shape)} it must have {told}"
        )


def _is_worth_reading(labels: Array, images: Array | None) -> bool:
    """Say whether labels may be right; the others are refused by their shape and type, however large."""
    if images is None or labels.dtype.hasobject or labels.ndim != 1 or labels.shape != images.shape[:1]:
        return False
    if labels.itemsize > LONGEST_WORD * (4 if labels.dtype.kind == "U" else 1):
        raise ValueError(f"{labels.dtype}: words must have at most {LONGEST_WORD} letters")
    return True


def _told(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
