"""Finding image files in a folder or an archive, and decoding them once a machine."""

from __future__ import annotations

import errno
import io
import itertools
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from posixpath import basename, dirname
from typing import IO, NamedTuple, TypeVar

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError

from metabench.core import Pictures
from metabench.data.reading import archives
from metabench.data.reading.cache import Array, Key, cached, checksum, kept, table_file
from metabench.data.reading.fitting import FORMATS, SUFFIXES, fitted, is_hidden, opened, own_limit, plain

VERSION = 1
"""Raised when the same files give other bytes."""

FOREIGN = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw", ".dcm"}
"""How the names of pictures end that are of no such format."""

TO_CONVERT = "convert it to PNG or JPEG (`magick mogrify -format png *.heic` does a folder of HEIC)"

DEEPEST = 5
"""Folders inside one another that are looked through."""

LARGEST_LIST = 2**24
"""Bytes of a list of images at most; the real ones have a million."""

DARK = 2**14
"""The largest number of images of 16 bits below which they come out nearly black."""

COLOUR_SIDE, COLOURED, COLOURED_SHARE = 32, 16, 0.02
"""Pixels that are looked at, by how much of 255 the three colours of one differ, in what share of them."""

THREADS = 8
BATCH = 64
"""Pictures that are in memory at once."""


UNREADABLE = (UnidentifiedImageError, *archives.DAMAGE)
"""What reading a picture may raise."""

T = TypeVar("T")
R = TypeVar("R")


class Tree(NamedTuple):
    """What is in a folder or an archive, by paths with slashes in it, and what cannot be there."""

    place: Path
    limits: archives.Limits
    images: list[str]
    folders: list[str]  # "" is the place itself
    others: list[str]
    texts: dict[str, str]  # the content of files that end in .csv
    problems: list[str]


class Form(NamedTuple):
    """How images are made alike."""

    shape: tuple[int, int, int]  # [C, H, W]
    pictures: Pictures


class Decoded(NamedTuple):
    """What became of the picture of a file."""

    row: int
    column: int
    image: Array | None
    problem: str
    peak: int  # the largest of its numbers of 16 bits; 0: it has no such numbers


def by_class(paths: Iterable[str], level: int) -> dict[str, list[str]]:
    """Sort paths by the folder of the class that they are in, however deep."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault("/".join(dirname(path).split("/")[: level + 1]), []).append(path)
    return groups


def grouped(paths: Iterable[str]) -> dict[str, list[str]]:
    """Sort paths by the folder that they are in."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(dirname(path), []).append(path)
    return groups


def lone(tree: Tree) -> str:
    """Return the folder of folders that holds all there is, where those above it hold nothing else; or ''."""
    inside, images, top = grouped(tree.folders[1:]), grouped(tree.images), ""
    while top not in images and len(inside.get(top, [])) == 1:
        (top,) = inside[top]
    return top if top in inside and top not in images else ""


def class_name(folder: str) -> str:
    """Return the name of a class, the same letters on every system."""
    return plain(basename(folder))


def look_through(place: Path, limits: archives.Limits) -> Tree:
    """Sort what a folder or an archive holds, without hidden files and links back to where they are."""
    if place.is_file():
        return _packed(place, limits)
    tree = Tree(place, limits, [], [""], [], {}, [])
    for inside in tree.folders:  # which grow meanwhile
        if inside.count("/") >= DEEPEST:
            continue
        folder = place / inside
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            tree.problems.append(f"folder {str(folder)!r}: {error.strerror or error}")
            continue
        for entry in entries:
            if not is_hidden(entry.name):
                _sort_in(tree, folder, f"{inside}/{entry.name}" if inside else entry.name, entry)
    return tree


def cure(path: str) -> str:
    """Say what to do about a file that is no picture by its name."""
    if PurePosixPath(path).suffix.lower() in FOREIGN:
        return f"no format that is read; {TO_CONVERT}"
    return "not an image by its name; remove it, or hide it by a leading dot"


def _sort_in(tree: Tree, folder: Path, name: str, entry: os.DirEntry[str]) -> None:
    path = Path(entry.path)
    suffix = path.suffix.lower()
    try:
        entry.name.encode()
        status = entry.stat()
        if suffix == ".csv" and status.st_size <= LARGEST_LIST and path.is_file():
            tree.texts[name] = path.read_text("utf-8-sig", "replace")
    except UnicodeEncodeError:
        tree.problems.append(f"{str(path)!r}: the name is not Unicode; rename it")
        return
    except OSError as error:
        if error.errno != errno.ELOOP:
            tree.problems.append(f"{str(path)!r}: {error.strerror or error}")
        return
    if stat.S_ISDIR(status.st_mode):
        here = folder.resolve()
        is_loop = entry.is_symlink() and path.resolve() in (here, *here.parents)
        if not is_loop:
            tree.folders.append(name)
    elif suffix not in SUFFIXES:
        tree.others.append(name)
    elif not stat.S_ISREG(status.st_mode):
        tree.problems.append(f"{str(path)!r}: is not a file")
    else:
        tree.images.append(name)


def _packed(place: Path, limits: archives.Limits) -> Tree:
    try:
        files = archives.listing(place, limits)
    except archives.Refused as error:
        return Tree(place, limits, [], [""], [], {}, [str(error)])
    names = [name for name in sorted(files) if not any(map(is_hidden, name.split("/")))]
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents} - {"."}
    is_image = {name: PurePosixPath(name).suffix.lower() in SUFFIXES for name in names}
    images, others = ([name for name in names if is_image[name] == wanted] for wanted in (True, False))
    texts = {name: text for name, text in files.items() if text is not None}
    return Tree(place, limits, images, ["", *sorted(folders)], others, texts, [])


def table_key(tree: Tree, classes: Sequence[Sequence[str]], form: Form) -> Key:
    """Say what a table of images depends on."""
    is_packed = tree.place.is_file()
    files = [tree.place] if is_packed else [tree.place / name for row in classes for name in row]
    content = [list(row) if is_packed else len(row) for row in classes]
    return Key(checksum(files), (VERSION, PIL.__version__, form, content))


def table(name: str, key: Key, tree: Tree, classes: Sequence[Sequence[str]], form: Form) -> Array:
    """Decode images, or read the cache: uint8 [class, example, C, H, W], zeros where a class has fewer.

    Args:
        classes: the images of each class, as the tree names them.
    """
    shape = (len(classes), max(map(len, classes)), *form.shape)

    def write(path: Path) -> None:
        problems, peak = [], 0
        with table_file(path, shape) as put:
            for one in _decoded(tree, classes, form):
                peak = max(peak, one.peak)
                if one.image is None:
                    problems.append(one.problem)
                else:
                    put(one.row, one.column, one.image)
        if 0 < peak < DARK and not form.pictures.white:
            guess = next(2**bits - 1 for bits in (8, 10, 12, 14) if peak < 2**bits)
            problems.append(
                f"the images of 16 bits go up to {peak} of 65535, and would be nearly black; set "
                f"white={guess}, the number that is to be white, or white=65535 to take them as they are"
            )
        if problems:
            raise archives.Refused(*problems)

    return kept(name, key, write)


def unreadable(tree: Tree, names: Sequence[str], form: Form) -> dict[str, str]:
    """Return which images cannot be decoded, and why; a machine tries them once."""

    def make() -> Array:
        problems = [""] * len(names)
        for one in _decoded(tree, [names], form):
            problems[one.column] = one.problem
        return np.array(problems)

    problems = cached("unreadable", table_key(tree, [names], form), make).tolist()
    return {name: problem for name, problem in zip(names, problems, strict=True) if problem}


def _decoded(tree: Tree, classes: Sequence[Sequence[str]], form: Form) -> Iterator[Decoded]:
    """Decode images, some at once, in the order in which they are stored."""
    yield from each(lambda one: _try(*one, form), _pictures(tree, classes))


def each(function: Callable[[T], R], pictures: Iterable[T]) -> Iterator[R]:
    """Apply a function to pictures, some at once, in their order."""
    Image.init()  # not in several threads at once
    with (
        warnings.catch_warnings(),
        own_limit(),
        ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool,
    ):
        warnings.simplefilter("ignore")  # Pillow's, about what does not hinder it
        waiting = iter(pictures)
        while batch := list(itertools.islice(waiting, BATCH)):
            yield from pool.map(function, batch)


def sides_and_colours(tree: Tree, names: Sequence[str]) -> list[tuple[int, bool]]:
    """Return the shorter side of each picture that can be read, and whether it has colours."""

    def one(picture: tuple[tuple[int, int], str, Path | IO[bytes]]) -> tuple[int, bool] | None:
        try:
            with Image.open(picture[2], formats=FORMATS) as image:
                side = min(image.size)
                image.draft("RGB", (COLOUR_SIDE, COLOUR_SIDE))  # of a JPEG only so many pixels are decoded
                small = image.convert("RGB").resize((COLOUR_SIDE, COLOUR_SIDE))
        except UNREADABLE:
            return None
        pixels = np.asarray(small).astype(int)
        return side, bool((np.ptp(pixels, axis=2) > COLOURED).mean() > COLOURED_SHARE)

    return [measured for measured in each(one, _pictures(tree, [names])) if measured is not None]


def _pictures(
    tree: Tree, classes: Sequence[Sequence[str]]
) -> Iterator[tuple[tuple[int, int], str, Path | IO[bytes]]]:
    """Yield where an image goes in a table, its name, and the file that it is encoded in."""
    places = {name: (row, column) for row, names in enumerate(classes) for column, name in enumerate(names)}
    if tree.place.is_dir():
        for name, place in places.items():
            yield place, str(tree.place / name), tree.place / name
        return
    for member in archives.members(tree.place, tree.limits):
        if member.name in places:
            yield places[member.name], f"{tree.place}: {member.name}", io.BytesIO(member.read())


def _try(place: tuple[int, int], name: str, file: Path | IO[bytes], form: Form) -> Decoded:
    try:
        image = opened(file)
        peak = int(np.asarray(image).max()) if image.mode.startswith("I") else 0
        return Decoded(*place, fitted(image, *form), "", peak)
    except UNREADABLE as error:
        return Decoded(*place, None, f"{name!r}: cannot be decoded: {why(error, file)}", 0)


def why(error: BaseException, file: Path | IO[bytes]) -> str:
    """Say why the picture of a file cannot be read."""
    if not isinstance(error, UnidentifiedImageError):
        return archives.reason(error)
    if _is_foreign(file):
        return f"it is HEIC or AVIF, whatever its name says; {TO_CONVERT}"
    return f"it is damaged, or none of {', '.join(FORMATS)}"


def _is_foreign(file: Path | IO[bytes]) -> bool:
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return _is_foreign(opened)
    file.seek(4)
    return file.read(4) == b"ftyp"
