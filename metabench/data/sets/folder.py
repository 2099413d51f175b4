"""Folder: any folder of images, `class/image.png` or `split/class/image.png`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from metabench.core import Splits, seeds, setting
from metabench.data import Dataset
from metabench.data.reading import images, own
from metabench.data.reading.images import File

NAME = "folder"


@dataclass(frozen=True)
class Options:
    """Where the images are, how they are made alike, and how their classes are split."""

    path: str = setting("", "folder of the images, absolute or relative to METABENCH_DATA")
    size: int = setting(
        84,
        "side in pixels: the square in the middle of each image is resized to it, with antialiasing",
        minimum=1,
        maximum=1024,
    )
    channels: int = setting(3, "3 for colour, 1 for grey", choices=(3, 1))
    background: str = setting("white", "what transparent pixels show", choices=("white", "black"))
    split_by: str = setting(
        "auto",
        "classes are split by the folders above them, by seed, or by a list; "
        "auto: by folders named train, val and test (or alike) where there are such, else by seed",
        choices=("auto", "folder", "seed", "list"),
    )
    seed: int = setting(0, "splits classes, and chooses examples where not all are taken", minimum=0)
    meta_train: float = setting(0.64, "share of the classes, split by seed", above=0, maximum=1)
    meta_validation: float = setting(0.16, "share of the classes, split by seed", above=0, maximum=1)
    list: str = setting(
        "",
        "for split_by=list: a file, absolute or relative to path, that names the classes of each split; "
        ".yaml maps meta_train, meta_validation and meta_test to lists, any other file has lines "
        "`# meta_train` and so on, with a class on each line after them",
    )
    examples_per_class: int = setting(0, "images of a class, at most; 0: all", minimum=0)
    domains: bool = setting(
        False,
        "folders of domains stand above those of classes: domain/class/image or split/domain/class/image; a "
        "class may be in several, and goes to one split with all of them",
    )


class Found(NamedTuple):
    """The classes of a folder, by name, and what is wrong."""

    files: dict[str, list[File]]  # by class, or by domain/class
    parts: dict[str, str | None]  # the split of each, where folders say so
    domains: dict[str, str]  # of each, where there are domains
    is_split: bool
    problems: list[str]


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Decode the images, or read them from the cache; all that is wrong is reported at once.

    Hidden files are left alone, and so are files beside the folders of classes that are no images.
    """
    problems = own.shares_problem(options)
    if bool(options.list.strip()) != (options.split_by == "list"):
        problems.append(f"list={options.list!r} and split_by={options.split_by!r}: one needs the other")
    folder, wrong = own.locate(root, options.path)
    if folder is not None and not folder.is_dir():
        wrong.append(f"path={options.path!r}: {folder} is a file; give the folder that holds the classes")
    if folder is None or wrong:
        own.refuse(NAME, problems + wrong)
    assert folder is not None, "or it was refused"
    found = _find(folder, options)
    classes, wrong = _split(folder, found, options)
    problems += found.problems + wrong
    chosen = [one for part in own.PARTS for one in classes[part]]
    # Folders that are splits are decoded in the splits' order; else the table must not depend on the seed.
    used = dict.fromkeys(chosen if found.is_split else sorted(chosen)) or sorted(found.files)
    files = {one: _choose(one, found.files[one], options) for one in used}
    look = (options.size, options.channels, options.background)
    rows = list(files.values())
    key = images.table_key(rows, look)
    try:
        table = images.table(NAME, key, rows, look) if any(rows) else None
    except images.Unreadable as error:
        problems += error.args
    own.refuse(NAME, problems)
    assert table is not None, "or no split had a class"
    counts = {one: len(row) for one, row in files.items()}
    return own.splits_of(NAME, key, table, counts, classes, domains=found.domains)


def _find(folder: Path, options: Options) -> Found:
    """List the folders of classes, and refuse what is neither hidden nor an image of a class."""
    top = images.listed(folder)
    is_split = options.split_by == "folder"
    if not is_split:
        is_split = any(own.part_of(below.name) and _holds_folders(below) for below in top.folders)
    found = Found({}, {}, {}, is_split, list(top.problems))
    if not is_split:
        _add_all(found, top, None, options)
        return found
    _tell_stray(found, top)
    for below in top.folders:
        part, inside = own.part_of(below.name), images.listed(below)
        if part is None:
            found.problems.append(f"folder {str(below)!r}: no name of a split; as {', '.join(own.PARTS)}")
            continue
        found.problems.extend(inside.problems)
        _add_all(found, inside, part, options)
    return found


def _add_all(found: Found, inside: images.Listing, part: str | None, options: Options) -> None:
    """Add the classes in a folder, or in the folders of domains in it."""
    _tell_stray(found, inside)
    for below in inside.folders:
        if not options.domains:
            _add(found, below, part, None)
            continue
        domain = images.listed(below)
        found.problems.extend(domain.problems)
        _tell_stray(found, domain)
        if not domain.folders:
            found.problems.append(f"domain {below.name!r} is empty: {str(below)!r} holds no class")
        for deeper in domain.folders:
            _add(found, deeper, part, images.class_name(below))


def _tell_stray(found: Found, inside: images.Listing) -> None:
    found.problems.extend(
        f"{str(image.path)!r}: an image outside the folders of classes" for image in inside.images
    )


def _holds_folders(folder: Path) -> bool:
    inside = images.listed(folder)
    return bool(inside.folders) and not inside.images


def _add(found: Found, folder: Path, part: str | None, domain: str | None) -> None:
    inside, name = images.listed(folder), images.class_name(folder)
    if domain is not None:
        name = f"{domain}/{name}"
        found.domains[name] = domain
    where = str(folder)
    found.problems.extend(inside.problems)
    found.problems.extend(
        f"{str(other)!r}: not an image by its name; remove it, or hide it by a leading dot"
        for other in inside.others
    )
    found.problems.extend(f"{str(below)!r}: a folder inside the class {name!r}" for below in inside.folders)
    if not inside.images:
        found.problems.append(f"class {name!r} is empty: {where!r} holds no image")
    if name in found.files:
        home = str(found.files[name][0].path.parent) if found.files[name] else "another folder"
        what = "is in two splits" if found.parts[name] != part else "has two folders"
        found.problems.append(f"class {name!r} {what}: {home!r} and {where!r}")
        return
    found.files[name] = inside.images
    found.parts[name] = part


def _split(folder: Path, found: Found, options: Options) -> tuple[own.Classes, list[str]]:
    """Return the classes of each split, and what is wrong with them.

    With domains, a class is split by its name alone, so that it is in one split with all its domains.
    """
    by_name: dict[str, list[str]] = {}
    for one in sorted(found.files):
        by_name.setdefault(one.removeprefix(f"{found.domains.get(one)}/"), []).append(one)
    classes, wrong = _split_names(folder, found, by_name, options)
    return {part: [one for name in names for one in by_name[name]] for part, names in classes.items()}, wrong


def _split_names(
    folder: Path, found: Found, by_name: dict[str, list[str]], options: Options
) -> tuple[own.Classes, list[str]]:
    names = list(by_name)
    classes: own.Classes = {part: [] for part in own.PARTS}
    if found.is_split and options.split_by in ("seed", "list"):
        return classes, [f"split_by={options.split_by}: the folders are splits already; use folder or auto"]
    if options.split_by == "list":
        if not options.list.strip():
            return classes, []
        classes, wrong = own.by_list(folder / Path(options.list).expanduser(), names)
        return classes, wrong + own.problems_of(classes, "name more in the list")
    if found.is_split:
        for name, members in by_name.items():
            for part in dict.fromkeys(found.parts[one] or "" for one in members):
                classes[part].append(name)
        return classes, own.problems_of(classes, "add folders of classes to it")
    classes = own.by_seed(names, options)
    return classes, own.problems_of(classes, "add classes, or change meta_train and meta_validation")


def _choose(name: str, files: list[File], options: Options) -> list[File]:
    """Take some images of a class by a hash of their names, so that other images change little."""
    if not 0 < options.examples_per_class < len(files):
        return files
    rank = {file: seeds.seed("own examples", options.seed, name, file.path.name) for file in files}
    taken = set(sorted(files, key=lambda file: rank[file])[: options.examples_per_class])
    return [file for file in files if file in taken]


DATASET = Dataset(
    name=NAME,
    summary="your own images: any folder class/image.png or split/class/image.png (option path); "
    "png, jpeg, webp, tiff, bmp, gif",
    size="as many classes and images as there are, size x size",
    licence="yours",
    url="",
    citation="yours",
    splits=("own",),
    options=Options,
    load=load,
    is_here=lambda root: True,
    sources=own.sources,
)
