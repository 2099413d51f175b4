"""Opening arrays of images and labels, as an .npz file or as a folder of .npy files, and never a pickle."""

from __future__ import annotations

import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metabench.data.reading import cache
from metabench.data.reading.cache import Array, read_header

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


class Unreadable(Exception):
    """Images cannot be used; the arguments say why."""


class Opened(NamedTuple):
    """Arrays by name, how the images are read, and what cannot be read."""

    arrays: dict[str, Array]  # of images, and of labels that cannot be right, only their shape and type
    read_images: Callable[[], Array]
    problems: list[str]


def sources(path: Path) -> list[Path]:
    """List the files that hold the arrays."""
    files = [path / f"{name}.npy" for name in NAMES] if path.is_dir() else [path]
    return [file for file in files if file.is_file()]


def open_all(path: Path) -> Opened:
    """Open what is there, without reading the images."""
    opened = Opened({}, lambda: _read_images(path), [])
    if not path.is_dir() and (not path.is_file() or path.suffix.lower() != ".npz"):
        wanted = f"{path}: must be an .npz file, or a folder that holds images.npy and labels.npy"
        return opened._replace(problems=[wanted])
    try:
        with _place(path) as place:
            opened.problems.extend(_missing(path, place))
            for name in NAMES:
                if not (place / f"{name}.npy").exists():
                    continue
                try:
                    opened.arrays[name] = _open(place / f"{name}.npy", opened.arrays.get("images"))
                except DAMAGE as error:
                    what = f"{path / name}.npy" if path.is_dir() else f"{name} of {path}"
                    opened.problems.append(f"{what}: cannot be read: {_reason(error)}")
    except DAMAGE as error:
        opened.problems.append(f"{path}: cannot be read as an .npz file: {_reason(error)}")
    for name in [name for name, array in opened.arrays.items() if array.dtype.hasobject]:
        del opened.arrays[name]
        opened.problems.append(
            f"{name} of {path}: holds Python objects, which may run code when they are read; "
            "save plain numbers or words"
        )
    return opened


@contextmanager
def _place(path: Path) -> Iterator[Path | zipfile.Path]:
    """Give a folder, or the root of an archive."""
    if path.is_dir():
        yield path
        return
    with zipfile.ZipFile(path) as archive:
        yield zipfile.Path(archive)


def _missing(path: Path, place: Path | zipfile.Path) -> list[str]:
    missing = [name for name in NAMES[:2] if not (place / f"{name}.npy").exists()]
    if path.is_dir():
        advice = "is not there; the folder must hold images.npy and labels.npy"
        return [f"{path / name}.npy: {advice}" for name in missing]
    members = [one.name.removesuffix(".npy") for one in place.iterdir() if one.name.endswith(".npy")]
    inside = ", ".join(sorted(members)) or "nothing"
    return [f"{path}: {' and '.join(missing)} not in it; it holds {inside}"] if missing else []


def _open(file: Path | zipfile.Path, images: Array | None) -> Array:
    """Read labels that may be right; of images, and of labels of a wrong shape or type, only those two."""
    if not file.is_file():
        raise ValueError("is not a file")
    with file.open("rb") as content:
        shape, _, kind = read_header(content)
        start = content.tell()
    array = np.broadcast_to(np.zeros((), kind), shape)
    if kind.hasobject:
        return array
    n_bytes = _size(file)
    expected = start + array.size * array.itemsize
    if n_bytes != expected:
        raise ValueError(f"it has {n_bytes} bytes, but as {kind} {list(shape)} it must have {expected}")
    if file.name == "images.npy" or images is None or array.ndim != 1 or shape != images.shape[:1]:
        return array
    if array.itemsize > LONGEST_WORD * (4 if kind.kind == "U" else 1):
        raise ValueError(f"{kind}: words must have at most {LONGEST_WORD} letters")
    with file.open("rb") as content:
        return np.lib.format.read_array(content, allow_pickle=False)


def _size(file: Path | zipfile.Path) -> int:
    return file.stat().st_size if isinstance(file, Path) else file.root.getinfo(file.at).file_size


def _read_images(path: Path) -> Array:
    """Map images, which may be larger than memory: out of an archive by way of a file without a name."""
    if path.is_dir():
        return np.lib.format.open_memmap(path / "images.npy", mode="r")
    folder = cache.folder()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _place(path) as place, tempfile.TemporaryFile(dir=folder) as file:
            n_bytes, free = _size(place / "images.npy"), shutil.disk_usage(folder).free
            if n_bytes > free:
                raise OSError(f"it unpacks to {n_bytes} bytes, and {folder} has {free} free; free disk space")
            with (place / "images.npy").open("rb") as member:
                shutil.copyfileobj(member, file, PIECE)
            file.seek(0)
            shape, is_fortran, kind = read_header(file)
            return np.memmap(file, kind, "r", file.tell(), shape, "F" if is_fortran else "C")  # type: ignore[arg-type]
    except DAMAGE as error:
        raise Unreadable(f"images of {path}: cannot be read: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
