"""Photographs of published splits that may not be passed on: read from the user's folders or archive."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import PIL

from metabench.core import Splits, setting
from metabench.data.reading import archives, layouts, own
from metabench.data.reading import images as _images
from metabench.data.reading.cache import Array, Key, checksum

DEEPEST = 5
"""Folders inside one another that are looked through."""

LARGEST_FILE = 2**26
"""Bytes of one file of an archive at most."""

LARGEST_LIST = 2**24
"""Bytes of a list of images at most; the real ones have a million."""

PACKED = ", ".join(archives.SUFFIXES)


@dataclass(frozen=True)
class Options:
    """Where the images are, and how they are made alike."""

    path: str = setting(
        "",
        "folder or archive of the images, absolute or relative to METABENCH_DATA; "
        "empty: the folder of METABENCH_DATA that has the data set's name",
    )
    size: int = setting(
        84,
        "side in pixels: the square in the middle of each image is resized to it, with antialiasing",
        minimum=1,
        maximum=1024,
    )


class Photos(NamedTuple):
    """What is known of a published split, and how to get its images."""

    name: str
    split: str
    classes: own.Classes
    domains: Mapping[str, str]  # one a class
    fewest: int  # images of a class
    most: int
    total: int  # images of all classes
    largest: int  # bytes of an unpacked archive
    are_others_left: bool  # whether other classes beside these are no mistake
    get: str  # what to get, and where
    layouts: str  # how it may lie


class Source(NamedTuple):
    """The images of a folder or an archive by their paths in it, and lists."""

    place: Path
    files: dict[str, _images.File]
    texts: dict[str, str]
    archives: list[Path]  # beside the images
    problems: list[str]


def load(photos: Photos, root: Path | None, options: Options) -> Splits:
    """Decode the images of a split, or read them from the cache; all that is wrong is told at once."""
    if not options.path.strip() and root is None:
        unset = (
            f"METABENCH_DATA is not set; set it to the folder that holds {photos.name}/, or the option path"
        )
        own.refuse(photos.name, [unset, *_how(photos, Path("METABENCH_DATA") / photos.name)])
    place, problems = own.locate(root, options.path.strip() or photos.name)
    if place is None or problems:
        default = (root or Path("METABENCH_DATA")) / photos.name
        is_default = not options.path.strip()
        problems = [f"{default} is not there"] if is_default else problems
        own.refuse(photos.name, [*problems, *_how(photos, default)])
    assert place is not None, "or it was refused"
    try:
        source, images = _find(photos, place)
        look = (options.size, 3, "white")
        key, table = _table(photos, source, images, look)
    except (archives.Refused, _images.Unreadable) as error:
        own.refuse(photos.name, [*map(str, error.args)])
        raise
    counts = {name: len(row) for name, row in images.items()}
    return own.splits_of(photos.name, key, table, counts, photos.classes, photos.split, photos.domains)


def sources(photos: Photos, root: Path | None, split: str, options: Options) -> list[Path]:
    """Return the folder or archive that would be read, if there is one."""
    place, _ = own.locate(root, options.path.strip() or photos.name)
    return [] if place is None else [place]


def is_here(photos: Photos, root: Path | None) -> bool:
    """Say whether something like the data set is under root, without looking at every image."""
    if root is None:
        return False
    known = {name for names in photos.classes.values() for name in names}
    waiting = [(root / photos.name, 0)]
    for folder, depth in waiting:
        try:
            with os.scandir(folder) as scan:
                entries = list(scan)
        except OSError:
            continue
        below = [entry for entry in entries if entry.is_dir()]
        if any(entry.name in known for entry in below):
            return True
        names = [entry.name for entry in entries if entry.is_file()]
        if any(layouts.list_part(name) for name in names):
            return True
        if depth == 0 and any(name.lower().endswith(archives.SUFFIXES) for name in names):
            return True
        waiting += [(Path(entry.path), depth + 1) for entry in below if depth < DEEPEST]
    return False


def _how(photos: Photos, place: Path) -> list[str]:
    return [
        f"to get it: {photos.get}; put it under {place}, or set the option path to where it is",
        f"it may lie as {photos.layouts}; in folders or in one archive ({PACKED}); pickles (.pkl) are never "
        "read; for other images than those published, take the data set `folder`",
    ]


def _find(photos: Photos, place: Path) -> tuple[Source, dict[str, list[str]]]:
    """Return where the images are and those of each class, in the splits' order, or refuse."""
    source = _packed(photos, place) if place.is_file() else _unpacked(place)
    layout = _layout(photos, source)
    if layout is None and source.archives:
        if len(source.archives) > 1:
            names = ", ".join(path.name for path in source.archives)
            own.refuse(photos.name, [f"{place} holds {names}; set the option path to the one that is meant"])
        source = _packed(photos, source.archives[0])
        layout = _layout(photos, source)
    if layout is None:
        nothing = f"{source.place} holds no folder of a class, such as {photos.classes['meta_train'][0]}"
        own.refuse(photos.name, [*source.problems, nothing, *_how(photos, place)])
    assert layout is not None, "or it was refused"
    problems = source.problems + [f"{source.place}: {line}" for line in layout.problems]
    if layout.images:
        wrong = layouts.count_problems(
            layout.images, photos.classes, photos.fewest, photos.most, photos.total
        )
        problems += [f"{source.place}: {line}" for line in wrong]
    if problems:
        own.refuse(photos.name, [*problems, *_how(photos, place)])
    chosen = [name for names in photos.classes.values() for name in names]
    return source, {name: layout.images[name] for name in chosen}


def _layout(photos: Photos, source: Source) -> layouts.Layout | None:
    return layouts.find(source.files, source.texts, photos.classes, photos.are_others_left)


def _unpacked(place: Path) -> Source:
    """List the images in a folder and those below it."""
    source = Source(place, {}, {}, [], [])
    waiting = [(place, "", 0)]
    for folder, prefix, depth in waiting:
        inside = _images.listed(folder)
        source.problems.extend(inside.problems)
        source.files.update({prefix + image.path.name: image for image in inside.images})
        for other in inside.others:
            if layouts.list_part(other.name):
                _add_list(source, prefix + other.name, other)
        if depth == 0:
            source.archives.extend(other for other in inside.others if archives.is_archive(other))
        if depth < DEEPEST:
            waiting += [(below, f"{prefix}{below.name}/", depth + 1) for below in inside.folders]
    return source


def _add_list(source: Source, name: str, path: Path) -> None:
    try:
        if path.stat().st_size > LARGEST_LIST:
            raise OSError(f"more than {LARGEST_LIST} bytes")
        source.texts[name] = path.read_text("utf-8-sig", "replace")
    except OSError as error:
        source.problems.append(f"{path}: {error.strerror or error}")


def _packed(photos: Photos, place: Path) -> Source:
    """List the images in an archive."""
    if not archives.is_archive(place):
        own.refuse(photos.name, [f"{place}: must be a folder or an archive ({PACKED})", *_how(photos, place)])
    listing = archives.listing(place, _limits(photos))
    files = {
        name: _images.File(Path(name), size, 0) for name, size in listing.sizes.items() if _is_image(name)
    }
    return Source(place, files, listing.texts, [], [])


def _limits(photos: Photos) -> archives.Limits:
    return archives.Limits(LARGEST_FILE, photos.largest)


def _is_image(name: str) -> bool:
    """Say whether a member of an archive is an image by its name, and not one that systems leave behind."""
    words = name.lower().split("/")
    is_hidden = any(word.startswith(".") or word in _images.HIDDEN for word in words)
    return not is_hidden and os.path.splitext(words[-1])[1] in _images.SUFFIXES


def _table(
    photos: Photos, source: Source, images: Mapping[str, list[str]], look: tuple[int, int, str]
) -> tuple[Key, Array]:
    """Return the decoded images, one class a row, and what they depend on."""
    rows = list(images.values())
    if source.place.is_dir():
        files = [[source.files[name] for name in row] for row in rows]
        key = _images.table_key(files, look)
        return key, _images.table(photos.name, key, files, look)
    packed_key = Key(checksum([source.place]), (_images.VERSION, PIL.__version__, look, rows))
    places = {name: (row, column) for row, names in enumerate(rows) for column, name in enumerate(names)}

    def pictures() -> Iterator[_images.Picture]:
        for member in archives.members(source.place, _limits(photos)):
            if member.name in places:
                where = f"{source.place}: {member.name}"
                yield _images.Picture(*places[member.name], where, io.BytesIO(member.read()))

    shape = (len(rows), max(map(len, rows)))
    return packed_key, _images.table_of(photos.name, packed_key, shape, pictures, look)
