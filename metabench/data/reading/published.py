"""Which images are of which class of a published split: told by the folders that hold them, or by lists."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from posixpath import basename, dirname
from typing import NamedTuple

from metabench.core import SPLITS
from metabench.data.reading import archives as _archives
from metabench.data.reading import images as _images
from metabench.data.reading import splits
from metabench.data.reading.images import Tree, grouped
from metabench.data.reading.splits import Classes, part_of

SHOWN = 8
"""Names that a message gives one by one."""

LIST = ["filename", "label"]
"""The first line of Ravi and Larochelle's lists."""

LARGEST_FILE = 2**26
"""Bytes of one file of an archive at most."""

PACKED = ", ".join(_archives.SUFFIXES)


class Published(NamedTuple):
    """What is known of a published split of images that may not be passed on, and how to get them."""

    name: str
    split: str
    classes: Classes
    domains: Mapping[str, str]  # one a class
    fewest: int  # images of a class
    most: int
    total: int  # images of all classes
    largest: int  # bytes of an unpacked archive
    has_other_classes: bool  # whether other classes beside these are no mistake
    get: str  # what to get, and where
    layouts: str  # how it may lie


def is_available(published: Published, root: Path | None) -> bool:
    """Say whether something like the data set is under root, without looking at every image."""
    if root is None:
        return False
    top, names = root / published.name, {*published.domains}
    inside = (path for depth in range(_images.DEEPEST) for path in top.glob("*/" * depth + "*"))
    return any(
        one.name in names or list_part(one.name) or (one.parent == top and _archives.is_archive(one))
        for one in inside
    )


def find(published: Published, place: Path) -> tuple[Tree, dict[str, list[str]]]:
    """Return where the images are and those of each class, in the splits' order, or refuse."""
    limits = _archives.Limits(LARGEST_FILE, published.largest)
    if place.is_file() and not _archives.is_archive(place):
        wrong = f"{place}: must be a folder or an archive ({PACKED})"
        splits.refuse(published.name, [wrong, *advice(published, place)])
    tree = _images.look_through(place, limits)
    images, problems = _classes(tree, published)
    archives = [
        place / name for name in tree.others if "/" not in name and _archives.is_archive(place / name)
    ]
    if images is None and place.is_dir() and archives:
        if len(archives) > 1:
            names = ", ".join(path.name for path in archives)
            wrong = f"{place} holds {names}; set the option path to the one that is meant"
            splits.refuse(published.name, [wrong])
        tree = _images.look_through(archives[0], limits)
        images, problems = _classes(tree, published)
    if images is None and not tree.problems:
        problems = [f"holds no folder of a class, such as {published.classes['meta_train'][0]}"]
    elif images:
        problems += _count_problems(images, published)
    if images is None or tree.problems or problems:
        lines = [*tree.problems, *(f"{tree.place}: {line}" for line in problems)]
        splits.refuse(published.name, [*lines, *advice(published, place)])
    return tree, {name: images[name] for names in published.classes.values() for name in names}


def advice(published: Published, place: Path) -> list[str]:
    """Say how the images are got, and how they may lie."""
    return [
        f"to get it: {published.get}; put it under {place}, or set the option path to where it is",
        f"it may lie as {published.layouts}; in folders or in one archive ({PACKED}); pickles (.pkl) are "
        "never read; for other images than those published, take the data set `folder`",
    ]


def list_part(path: str) -> str | None:
    """Return the split whose list a path is by its name, or None."""
    stem, _, suffix = basename(path).rpartition(".")
    return part_of(stem) if suffix.lower() == "csv" else None


def _classes(tree: Tree, published: Published) -> tuple[dict[str, list[str]] | None, list[str]]:
    """Find the images of each class, and what is wrong with where they lie; None: nothing is like it."""
    folders = grouped(tree.images)
    homes = {name: part for part, names in published.classes.items() for name in names}
    if any(basename(folder) in homes for folder in folders):
        return _by_folder(folders, homes, published.has_other_classes)
    lists = {path: text for path, text in tree.texts.items() if list_part(path)}
    return _by_list(folders, lists, homes) if lists else (None, [])


def _by_folder(
    folders: Mapping[str, list[str]], homes: Mapping[str, str], has_other_classes: bool
) -> tuple[dict[str, list[str]], list[str]]:
    """Take folders `class/` or `split/class/`; words for splits count where there are two or more."""
    tops = {dirname(folder) for folder in folders if basename(folder) in homes}
    parts = {top: part_of(basename(top)) for top in tops}
    is_split = len(set(filter(None, parts.values()))) > 1
    bases = sorted({dirname(top) if is_split and parts[top] else top for top in tops})
    if len(bases) > 1:
        return {}, _problem("folders of classes are in {n} places: {names}; set path to one of them", bases)
    images: dict[str, list[str]] = {}
    others, twice, strayed = [], [], []
    for folder in sorted(folders):
        name, top = basename(folder), dirname(folder)
        if name not in homes:
            is_beside = top in tops or (is_split and dirname(top) == bases[0] and part_of(basename(top)))
            others += [name] if is_beside and top != folder else []
            continue
        twice += [name] if name in images else []
        strayed += [f"{name} of {homes[name]} is in {top}"] if is_split and parts[top] != homes[name] else []
        images[name] = sorted(folders[folder])
    return images, [
        *_problem("{n} classes too many: {names}", [] if has_other_classes else others),
        *_problem("{n} classes have two folders: {names}", twice),
        *_problem("{n} classes are in another split's folder: {names}", strayed),
    ]


def _by_list(
    folders: Mapping[str, list[str]], lists: Mapping[str, str], homes: Mapping[str, str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Take the images that lists name, `images/` beside the lists or the lists' own folder."""
    places = sorted(set(map(dirname, lists)))
    if len(places) > 1:
        return {}, _problem("lists are in {n} places: {names}; set path to one of them", places)
    beside = [f"{places[0]}/images".lstrip("/"), places[0]]
    files = {basename(image): image for folder in reversed(beside) for image in folders.get(folder, [])}
    texts = {list_part(path): text for path, text in lists.items()}
    problems, lacking, others, strayed = [], [], [], []
    images: dict[str, list[str]] = {}
    for part, word in zip(SPLITS, ("train", "val", "test"), strict=True):
        if part not in texts:
            problems.append(f"there is no list {word}.csv beside the others")
            continue
        rows = _rows(texts[part])
        if not rows or rows[0] != LIST or any(len(row) != len(LIST) for row in rows):
            wrong = f"the list of {part} must have the first line {','.join(LIST)}, and such lines only"
            problems.append(wrong)
            continue
        for file, label in rows[1:]:
            others += [label] if label not in homes else []
            strayed += [label] if homes.get(label, part) != part else []
            lacking += [file] if file not in files else []
            if file in files and label in homes:
                images.setdefault(label, []).append(files[file])
    return {name: sorted(set(row)) for name, row in images.items()}, [
        *problems,
        *_problem("{n} classes too many: {names}", others),
        *_problem("{n} classes are in another split's list: {names}", strayed),
        *_problem("{n} images of the lists are not there: {names}", lacking),
    ]


def _rows(text: str) -> list[list[str]]:
    try:
        return list(csv.reader(text.splitlines()))
    except csv.Error:
        return []


def _count_problems(images: Mapping[str, Sequence[str]], published: Published) -> list[str]:
    """Say which classes are missing, and which have fewer or more images than they usually have."""
    problems = []
    for part, names in published.classes.items():
        missing = [name for name in names if name not in images]
        problems += _problem(f"{{n}} of the {len(names)} classes of {part} are missing: {{names}}", missing)
    sizes = {name: len(row) for name, row in images.items()}
    fewest, most = published.fewest, published.most
    usual = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    few = [f"{name} ({n})" for name, n in sizes.items() if n < fewest]
    many = [f"{name} ({n})" for name, n in sizes.items() if n > most]
    problems += _problem(f"{{n}} classes have fewer images than the usual {usual}: {{names}}", few)
    problems += _problem(f"{{n}} classes have more images than the usual {usual}: {{names}}", many)
    n_images = sum(sizes.values())
    if not problems and n_images != published.total:
        problems.append(f"{n_images} images in all, but there are {published.total} as published")
    return problems


def _problem(message: str, names: Iterable[str]) -> list[str]:
    """Say with some names what is wrong with all of them, if there are any."""
    names = [name or "." for name in dict.fromkeys(names)]
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [message.format(n=len(names), names=", ".join(names[:SHOWN]) + more)]
