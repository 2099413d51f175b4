"""Finding image files in folders of classes, and decoding them once a machine."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from metabench.data.reading.cache import Array, Key, checksum, kept, table_file

VERSION = 1
"""Raised when the same files give other bytes."""

SUFFIXES = {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
HIDDEN = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"}
"""What systems leave behind, in small letters; so is all that starts with a dot."""

LARGEST = 2**28
"""Pixels of the largest image that is opened."""

THREADS = 8
BATCH = 64
"""Pictures that are in memory at once."""

DAMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError),
    *(MemoryError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError),
)
"""What decoding damaged files may raise."""


class File(NamedTuple):
    """An image file, with what its content is known by."""

    path: Path
    size: int
    changed: int  # nanoseconds


class Listing(NamedTuple):
    """What is in one folder, and what cannot be in a folder of images."""

    folders: list[Path]
    images: list[File]
    others: list[Path]
    problems: list[str]


class Picture(NamedTuple):
    """An encoded image, and where it goes in a table."""

    row: int
    column: int
    name: str
    file: Path | IO[bytes]


class Unreadable(Exception):
    """Images cannot be decoded; the arguments say which and why."""


def listed(folder: Path) -> Listing:
    """Sort what a folder holds; hidden files and links back to where they come from are left out."""
    found = Listing([], [], [], [])
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        found.problems.append(f"folder {str(folder)!r}: {error.strerror or error}")
        return found
    for entry in entries:
        if not entry.name.startswith(".") and entry.name.lower() not in HIDDEN:
            _sort_in(found, folder, entry)
    return found


def _sort_in(found: Listing, folder: Path, entry: os.DirEntry[str]) -> None:
    path = Path(entry.path)
    try:
        entry.name.encode()
        status = entry.stat()
    except UnicodeEncodeError:
        found.problems.append(f"{str(path)!r}: the name is not Unicode; rename it")
        return
    except OSError as error:
        if error.errno != errno.ELOOP:
            found.problems.append(f"{str(path)!r}: {error.strerror or error}")
        return
    if stat.S_ISDIR(status.st_mode):
        here = folder.resolve()
        is_loop = entry.is_symlink() and path.resolve() in (here, *here.parents)
        if not is_loop:
            found.folders.append(path)
    elif path.suffix.lower() not in SUFFIXES:
        found.others.append(path)
    elif not stat.S_ISREG(status.st_mode):
        found.problems.append(f"{str(path)!r}: is not a file")
    else:
        found.images.append(File(path, status.st_size, status.st_mtime_ns))


def class_name(folder: Path) -> str:
    """Return the name of a class, the same letters on every system."""
    return unicodedata.normalize("NFC", folder.name)


def table_key(classes: Sequence[Sequence[File]], look: tuple[int, int, str]) -> Key:
    """Say what a table of images depends on."""
    files = [file.path for row in classes for file in row]
    return Key(checksum(files), (VERSION, PIL.__version__, look, [len(row) for row in classes]))


def table(name: str, key: object, classes: Sequence[Sequence[File]], look: tuple[int, int, str]) -> Array:
    """Decode images, or read the cache: uint8 [class, example, C, H, W], zeros where a class has fewer.

    Args:
        look: side in pixels, channels, and the colour behind transparent pixels.
    """
    shape = (len(classes), max(map(len, classes)))

    def pictures() -> Iterator[Picture]:
        for row, files in enumerate(classes):
            for column, file in enumerate(files):
                yield Picture(row, column, str(file.path), file.path)

    return table_of(name, key, shape, pictures, look)


def table_of(
    name: str,
    key: object,
    shape: tuple[int, int],
    pictures: Callable[[], Iterator[Picture]],
    look: tuple[int, int, str],
) -> Array:
    """Decode pictures, in any order, into a table, or read the cache.

    Args:
        shape: classes, and examples of a class.
    """
    side, channels, background = look

    def write(path: Path) -> None:
        problems = []
        Image.init()  # not in several threads at once
        with (
            table_file(path, (*shape, channels, side, side)) as put,
            warnings.catch_warnings(),
            ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool,
        ):
            warnings.simplefilter("ignore")  # Pillow's, about what does not hinder it
            waiting = pictures()
            while batch := list(itertools.islice(waiting, BATCH)):
                decoded = pool.map(lambda one: _try(one, side, channels, background), batch)
                for one, image in zip(batch, decoded, strict=True):
                    if isinstance(image, str):
                        problems.append(image)
                    else:
                        put(one.row, one.column, image)
        if problems:
            raise Unreadable(*problems)

    return kept(name, key, write)


def _try(picture: Picture, side: int, channels: int, background: str) -> Array | str:
    try:
        return decode(picture.file, side, channels, background)
    except UnidentifiedImageError:
        return f"{picture.name!r}: cannot be decoded: it is damaged, or none of {', '.join(FORMATS)}"
    except DAMAGE as error:
        return f"{picture.name!r}: cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"


def decode(file: Path | IO[bytes], side: int, channels: int, background: str) -> Array:
    """Decode the first picture of a file, uint8 [C, side, side].

    The camera's orientation is applied; transparent pixels show the background; the largest square in the
    middle is taken and resized, each pixel a weighted mean of those that it covers (antialiasing).
    """
    with Image.open(file, formats=FORMATS) as opened:
        if opened.width * opened.height > LARGEST:
            raise ValueError(f"{opened.width}x{opened.height} pixels are more than {LARGEST}")
        opened.load()
        image = _eight_bits(ImageOps.exif_transpose(opened))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    image = image.convert("L" if channels == 1 else "RGB")
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    box = (left, top, left + short, top + short)
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=box))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits to 8, and numbers with a point from [0, 1]; whatever has 8 bits stays as it is."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    highest = 1.0 if image.mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= highest):
        raise ValueError(f"values in [{values.min()}, {values.max()}] must lie in [0, {highest:.0f}]")
    return Image.fromarray(np.round(values * (255 / highest)).astype(np.uint8))
