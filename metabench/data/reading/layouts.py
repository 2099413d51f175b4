"""Which images are of which class of a published split: told by the folders that hold them, or by lists."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from metabench.data.reading.own import PARTS, Classes, part_of

SHOWN = 8
"""Names that a message gives one by one."""

LIST = "filename", "label"
"""The first line of Ravi and Larochelle's lists."""


class Layout(NamedTuple):
    """The images of each class, and what is wrong with where they lie."""

    images: dict[str, list[str]]
    problems: list[str]


def find(
    images: Iterable[str], texts: Mapping[str, str], classes: Classes, are_others_left: bool
) -> Layout | None:
    """Find the classes of a split among images; None where there is nothing like it.

    Args:
        images: paths with slashes, relative to one folder.
        texts: paths of lists `train.csv`, `val.csv` and `test.csv` to their content.
        classes: those of each split.
        are_others_left: whether folders of other classes beside theirs are no mistake.
    """
    folders: dict[str, list[str]] = {}
    for image in images:
        folders.setdefault(_above(image), []).append(image)
    homes = {name: part for part, names in classes.items() for name in names}
    if any(_last(folder) in homes for folder in folders):
        return _by_folder(folders, homes, are_others_left)
    places = sorted({_above(path) for path in texts if list_part(path)})
    return _by_list(folders, texts, places, homes) if places else None


def list_part(path: str) -> str | None:
    """Return the split whose list a path is by its name, or None."""
    stem, _, suffix = _last(path).rpartition(".")
    return part_of(stem) if suffix.lower() == "csv" else None


def count_problems(
    found: Mapping[str, Sequence[str]], classes: Classes, fewest: int, most: int, total: int
) -> list[str]:
    """Say which classes are missing, and which have fewer or more images than they usually have."""
    problems = []
    for part, names in classes.items():
        missing = [name for name in names if name not in found]
        if missing:
            problems.append(
                f"{len(missing)} of the {len(names)} classes of {part} are missing: {_some(missing)}"
            )
    sizes = {name: len(row) for name, row in found.items()}
    usual = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    for word, wrong in (
        ("fewer", [f"{name} ({n})" for name, n in sizes.items() if n < fewest]),
        ("more", [f"{name} ({n})" for name, n in sizes.items() if n > most]),
    ):
        if wrong:
            problems.append(f"{len(wrong)} classes have {word} images than the usual {usual}: {_some(wrong)}")
    n_images = sum(sizes.values())
    if not problems and n_images != total:
        problems.append(f"{n_images} images in all, but there are {total} as published")
    return problems


def _by_folder(folders: Mapping[str, list[str]], homes: Mapping[str, str], are_others_left: bool) -> Layout:
    """Take folders `class/` or `split/class/`; words for splits count where there are two or more."""
    tops = {_above(folder) for folder in folders if _last(folder) in homes}
    parts = {top: part_of(_last(top)) for top in tops}
    is_split = len(set(filter(None, parts.values()))) > 1
    bases = sorted({_above(top) if is_split and parts[top] else top for top in tops})
    if len(bases) > 1:
        some = _some([base or "." for base in bases])
        return Layout({}, [f"folders of classes are in {len(bases)} places: {some}; set path to one of them"])
    images: dict[str, list[str]] = {}
    others, twice, strayed = [], [], []
    for folder in sorted(folders):
        name, top = _last(folder), _above(folder)
        if name not in homes:
            is_beside = top in tops or (is_split and _above(top) == bases[0] and part_of(_last(top)))
            others += [name] if is_beside and top != folder else []
            continue
        twice += [name] if name in images else []
        strayed += [f"{name} of {homes[name]} is in {top}"] if is_split and parts[top] != homes[name] else []
        images[name] = sorted(folders[folder])
    problems = []
    if others and not are_others_left:
        problems.append(f"{len(others)} classes too many: {_some(others)}")
    if twice:
        problems.append(f"{len(twice)} classes have two folders: {_some(twice)}")
    if strayed:
        problems.append(f"{len(strayed)} classes are in another split's folder: {_some(strayed)}")
    return Layout(images, problems)


def _by_list(
    folders: Mapping[str, list[str]],
    texts: Mapping[str, str],
    places: Sequence[str],
    homes: Mapping[str, str],
) -> Layout:
    """Take the images that lists name, `images/` beside the lists or the lists' own folder."""
    if len(places) > 1:
        some = _some([place or "." for place in places])
        return Layout({}, [f"lists are in {len(places)} places: {some}; set path to one of them"])
    place = places[0]
    beside = [f"{place}/images" if place else "images", place]
    known = {_last(image): image for folder in reversed(beside) for image in folders.get(folder, [])}
    lists = {
        part: text for path, text in texts.items() if _above(path) == place and (part := list_part(path))
    }
    problems = [
        f"there is no list {word}.csv beside the others"
        for part, word in zip(PARTS, ("train", "val", "test"), strict=True)
        if part not in lists
    ]
    images: dict[str, list[str]] = {}
    others, lacking, strayed = [], [], []
    for part, text in lists.items():
        rows = _rows(text)
        if not rows or tuple(rows[0]) != LIST or any(len(row) != len(LIST) for row in rows):
            problems.append(
                f"the list of {part} must have the first line {','.join(LIST)}, and such lines only"
            )
            continue
        for file, label in rows[1:]:
            others += [label] if label not in homes else []
            strayed += [label] if homes.get(label, part) != part else []
            if file in known:
                images.setdefault(label, []).append(known[file])
            else:
                lacking.append(file)
    for what, wrong in (
        ("classes too many", others),
        ("classes are in another split's list", strayed),
        ("images of the lists are not there", lacking),
    ):
        if wrong:
            told = list(dict.fromkeys(wrong))
            problems.append(f"{len(told)} {what}: {_some(told)}")
    return Layout({name: sorted(set(row)) for name, row in images.items() if name in homes}, problems)


def _rows(text: str) -> list[list[str]]:
    try:
        return list(csv.reader(text.splitlines()))
    except csv.Error:
        return []


def _above(path: str) -> str:
    return path.rpartition("/")[0]


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
