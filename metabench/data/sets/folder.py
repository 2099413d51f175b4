"""Folder: any folder or archive of images, `class/image.png` or `split/class/image.png`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from posixpath import basename, dirname
from typing import NamedTuple

from metabench.core import SPLITS, Pictures, Splits, setting
from metabench.core.config import attempt
from metabench.data import Dataset
from metabench.data.reading import archives, splits
from metabench.data.reading import images as _images
from metabench.data.reading.images import Form, Tree, class_name, grouped
from metabench.data.reading.splits import Classes

NAME = "folder"
LIMITS = archives.Limits(2**26, 200_000_000_000)
"""Bytes of one file of an archive, and of all together, at most."""

SURVEYED = 100
"""Images, at least, from which a folder's sizes and colours are known."""

PATH = "absolute, or relative to where you are, the space's file, or METABENCH_DATA"
SIZE = setting(
    84,
    "side in pixels: the square in the middle of each image is resized to it, with antialiasing",
    minimum=1,
    maximum=1024,
)


@dataclass(frozen=True)
class Options:
    """Where the images are, how they are made alike, and how their classes are split."""

    path: str = setting("", f"folder or archive of the images, {PATH}")
    size: int = SIZE
    channels: int = setting(3, "3 for colour, 1 for grey", choices=(3, 1))
    background: str = setting("white", "what transparent pixels show", choices=("white", "black"))
    white: int = setting(
        0,
        "the number that is white in images of 16 bits or with a point, such as 4095 for 12 bits; "
        "0: 65535, and 1.0 with a point",
        minimum=0,
        maximum=65535,
    )
    split_by: str = setting(
        "auto",
        "classes are split by the folders above them, by seed, or by a list; pictures: each class's pictures "
        "are split by seed, so that a few classes are enough, and nothing is said of new ones; domain: the "
        "folders of domains are split, with all their classes, which other domains may have, too; "
        "auto: by folders named train, val and test (or alike) where there are such, else by seed",
        choices=("auto", "folder", "seed", "list", "pictures", "domain"),
    )
    seed: int = setting(
        0,
        "splits classes, pictures or domains, and chooses examples where not all are taken",
        minimum=0,
        maximum=2**63 - 1,
    )
    meta_train: float = setting(
        0.64, "share of the classes, pictures or domains, split by seed; 0: none", minimum=0, maximum=1
    )
    meta_validation: float = setting(
        0.16, "share of the classes, pictures or domains, split by seed; 0: none", minimum=0, maximum=1
    )
    folds: int = setting(
        0,
        "for split_by=pictures: into how many parts goes what meta_validation leaves of each class; each is "
        "meta-test once, the others meta-train; a search's runs take them in turn; 0: one cut, by shares",
        minimum=0,
        maximum=100,
    )
    fold: int = setting(0, "which of the folds is meta-test, from 0 on", minimum=0, maximum=99)
    list: str = setting(
        "",
        "for split_by=list: a YAML file, where a path may be or in its folder (an archive's), that maps "
        "meta_train, meta_validation and meta_test to lists of classes",
    )
    examples_per_class: int = setting(0, "images of a class, at most; 0: all", minimum=0)
    smallest_class: int = setting(0, "classes with fewer images are left out; 0: none is", minimum=0)
    subfolders: bool = setting(False, "images in folders inside a class's folder are the class's, too")
    skip: bool = setting(
        False, "leave out, and list, what is not an image of a class or cannot be read; else it is an error"
    )
    domains: bool = setting(
        False,
        "folders of domains stand above those of classes: domain/class/image or split/domain/class/image; a "
        "class may be in several, and goes to one split with all of them; split_by=domain implies it",
    )
    group: str = setting(
        "",
        "a regular expression that the names of image files match, such as `[^_]+`: what it matches, or "
        "what its parentheses do, names a group, and no task has images of one in both support and query; in "
        "two domains groups are two",
    )


class Survey(NamedTuple):
    """What a folder of images is like."""

    n_classes: int | None  # None where its folders say which split a class is in
    side: int  # the median of the images' shorter sides
    channels: int


class Sorted(NamedTuple):
    """The classes of a folder, by name, and what is wrong."""

    images: dict[str, list[str]]  # by class, or by domain/class
    parts: dict[str, str | None]  # the split of each, where folders say so
    domains: dict[str, str]  # of each, where there are domains
    is_split: bool
    problems: list[str]
    skippable: list[str]  # what else is wrong, with single files and empty folders


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Decode the images, or read them from the cache; all that is wrong is reported at once.

    Hidden files are left alone, and so are files beside the folders of classes that are no images.
    """
    options = _with_domains(options)
    problems = splits.shares_problems(options)
    if bool(options.list.strip()) != (options.split_by == "list"):
        problems.append(f"list={options.list!r} and split_by={options.split_by!r}: one needs the other")
    problems += splits.fold_problems(options)
    place = attempt(problems, splits.locate, root, options.path)
    if place is None:
        splits.refuse(NAME, problems)
    if not place.is_dir() and not archives.is_archive(place):
        advice = "give the folder that holds the classes, or an archive"
        splits.refuse(NAME, [*problems, f"path={options.path!r}: {place} is a file; {advice}"])
    tree = _images.look_through(place, LIMITS)
    there = _sort(tree, options)
    off = _level_problem(tree, options, there.is_split)
    if off:
        splits.refuse(NAME, [*problems, off])
    shape = (options.channels, options.size, options.size)
    form = Form(shape, Pictures(options.background, white=options.white))
    left_out = _leave_out(tree, there, options, form)
    problems += [] if options.skip else there.skippable
    if options.split_by == "pictures":
        return _cut_pictures(problems, tree, there, options, form)
    classes, wrong = _split(there, options, (place, root), left_out)
    chosen = [one for part in SPLITS for one in classes[part]]
    # Folders that are splits are decoded in the splits' order; else the table must not depend on the seed.
    used = dict.fromkeys(chosen if there.is_split else sorted(chosen)) or sorted(there.images)
    images = {one: splits.choose(one, there.images[one], options, basename) for one in used}
    names = {one: list(map(basename, row)) for one, row in images.items()}
    groups, strange = splits.groups_of(names, options.group, there.domains)
    problems += there.problems + wrong + strange
    kind = splits.Kind(options.split_by == "domain", groups)
    return cut(NAME, problems, tree, images, form, classes, domains=there.domains, kind=kind)


def _with_domains(options: Options) -> Options:
    return replace(options, domains=options.domains or options.split_by == "domain")


def survey(root: Path | None, options: Options) -> Survey:
    """Look at some images of a folder or archive; refuse one in which there is nothing to look at."""
    options = _with_domains(options)
    place = splits.locate(root, options.path)
    tree = _images.look_through(place, LIMITS)
    there = _sort(tree, options)
    names = sorted(tree.images)
    off = _level_problem(tree, options, there.is_split)
    if off or not names:
        empty = f"{_shown(tree, '')} holds no image; give the folder that holds the folders of classes"
        splits.refuse(NAME, [off] if off else tree.problems or [empty])
    try:
        looked = _images.sides_and_colours(tree, names[:: max(1, len(names) // SURVEYED)])
    except archives.Refused as error:
        splits.refuse(NAME, error.args)
    side = int(statistics.median([side for side, _ in looked] or [SIZE.default]))
    in_colour = sum(colour for _, colour in looked) * 2 > len(looked)
    classes = {one.removeprefix(f"{there.domains.get(one)}/") for one in there.images}
    return Survey(None if there.is_split else len(classes), side, 3 if in_colour else 1)


def _level_problem(tree: Tree, options: Options, is_split: bool) -> str | None:
    """Say which folder to give where all images lie at another depth than those of classes do."""
    depths = {path.count("/") for path in tree.images}
    expected = 1 + is_split + options.domains
    if not depths or expected in depths:
        return None
    if top := _images.lone(tree):
        give = f"path={str(tree.place / top)!r}"
        if tree.place.is_file():
            give = f"an archive of what is in {top!r}, or the unpacked folder"
        return f"{_shown(tree, '')} holds only {top!r}, which holds the folders of classes; give {give}"
    if depths == {0}:
        holds = f"{_shown(tree, '')} holds images, and no folders of classes"
        return (
            f"{holds}; give the folder above it, path={str(tree.place.parent)!r}, if its folders are classes"
        )
    if options.subfolders and max(depths) > expected:
        return None
    layout = "/".join(["split"] * is_split + ["domain"] * options.domains + ["class", "image.png"])
    cure = "subfolders=true takes images of folders inside those of classes"
    if min(depths) < expected:
        cure = "put the images into folders of classes"
    elif not options.domains:
        cure += ", domains=true says that folders of domains stand above them"
    deep = " or ".join(map(str, sorted(depths)))
    return f"the images lie {deep} folders deep, and as {layout} they would lie {expected} deep; {cure}"


def _leave_out(tree: Tree, there: Sorted, options: Options, form: Form) -> list[str]:
    """Take out what is to be skipped, and classes that are too small; say so, and return the classes."""
    notes: list[str] = []
    if options.skip:
        unreadable = _images.unreadable(tree, [one for row in there.images.values() for one in row], form)
        notes += [*there.skippable, *unreadable.values()]
        for name, row in there.images.items():
            there.images[name] = [one for one in row if one not in unreadable]
    fewest = max(options.smallest_class, int(options.skip))
    small = {name: len(row) for name, row in there.images.items() if len(row) < fewest}
    for name, count in small.items():
        del there.images[name]
        if count:
            notes.append(f"class {name!r} has {count} images, and smallest_class={fewest}")
    splits.note(NAME, (f"left out: {line}" for line in notes))
    return [name.removeprefix(f"{there.domains.get(name)}/") for name in small]


def cut(
    name: str,
    problems: list[str],
    tree: Tree,
    images: Mapping[str, list[str]],
    form: Form,
    classes: Classes,
    split: str = "own",
    domains: Mapping[str, str] | None = None,
    kind: splits.Kind | None = None,
) -> Splits:
    """Decode the images of each class, and cut them into splits, or refuse all that is wrong."""
    rows, table = list(images.values()), None
    key = _images.table_key(tree, rows, form)
    try:
        table = _images.table(name, key, tree, rows, form) if any(rows) else None
    except archives.Refused as error:
        problems = [*problems, *error.args]
    if problems or table is None:
        splits.refuse(name, problems)
    counts = {one: len(row) for one, row in images.items()}
    return splits.splits_of(name, key, table, counts, classes, form.pictures, split, domains, kind)


def _cut_pictures(problems: list[str], tree: Tree, there: Sorted, options: Options, form: Form) -> Splits:
    """Give each split all classes, and pictures of its own of each."""
    problems = [*problems, *there.problems]
    if there.is_split:
        problems.append("split_by=pictures: the folders are splits already; use folder or auto")
    if options.group:
        problems.append(
            "group and split_by=pictures: pictures of one group would be in two splits; leave one out"
        )
    if len(there.images) < splits.FEWEST:
        problems.append(f"split_by=pictures: {len(there.images)} classes; add folders of classes")
    images: dict[str, list[str]] = {}
    classes: Classes = {part: [f"{part}/{name}" for name in sorted(there.images)] for part in SPLITS}
    for name, row in there.images.items():
        chosen = splits.choose(name, row, options, basename)
        deal = splits.by_fold if options.folds else splits.by_seed
        dealt = deal(chosen, options, f"pictures of {name}")
        images |= {f"{part}/{name}": sorted(dealt[part]) for part in SPLITS}
    advice = "add pictures, or change meta_train, meta_validation or folds"
    empty = [f"{one!r} has no picture; {advice}" for one, row in images.items() if not row]
    made = cut(NAME, problems + empty, tree, images, form, classes)
    parts = {}
    for part in SPLITS:
        names = tuple(one.removeprefix(f"{part}/") for one in classes[part])
        renamed = getattr(made, part)._replace(
            classes=names, domains=tuple(there.domains.get(one, NAME) for one in names)
        )
        is_one = len(set(renamed.words)) == len(names)  # else two domains have one class twice
        parts[part] = renamed._replace(shared=tuple(sorted(renamed.words)) if is_one else ())
    return made._replace(**parts)


def _sort(tree: Tree, options: Options) -> Sorted:
    """Sort folders into classes, and refuse what is neither hidden nor an image of a class."""
    inside, images = grouped(tree.folders[1:]), grouped(tree.images)
    tops = inside.get("", [])
    is_split = options.split_by == "folder" or any(
        splits.part_of(top) and top in inside and top not in images for top in tops
    )
    there = Sorted({}, {}, {}, is_split, [], list(tree.problems))
    level = is_split + options.domains  # how many folders stand above that of a class
    others = grouped(tree.others)
    if options.subfolders:
        images, others = _images.by_class(tree.images, level), _images.by_class(tree.others, level)
    strange = [top for top in tops if is_split and splits.part_of(top) is None]
    unnamed = f"no name of a split; as {', '.join(SPLITS)}"
    there.problems.extend(f"folder {_shown(tree, top)}: {unnamed}" for top in strange)
    for folder in tree.folders:
        depth = folder.count("/") if folder else -1
        if folder.partition("/")[0] in strange or depth > level:
            continue
        if depth == level:
            _add(there, tree, folder, images.get(folder, []), options)
            deeper = [] if options.subfolders else inside.get(folder, [])
            what = f"a folder inside the class {class_name(folder)!r}"
            there.skippable.extend(f"{_shown(tree, one)}: {what}" for one in deeper)
            there.skippable.extend(
                f"{_shown(tree, one)}: {_images.cure(one)}" for one in others.get(folder, [])
            )
            continue
        if options.domains and depth == level - 1 and folder not in inside:
            empty = f"domain {basename(folder)!r} is empty"
            there.skippable.append(f"{empty}: {_shown(tree, folder)} holds no class")
        lost = images.get(folder, [])
        there.skippable.extend(
            f"{_shown(tree, one)}: an image outside the folders of classes" for one in lost
        )
    return there


def _shown(tree: Tree, path: str) -> str:
    return repr(str(tree.place / path))


def _add(there: Sorted, tree: Tree, folder: str, images: list[str], options: Options) -> None:
    name = class_name(folder)
    if options.domains:
        domain = class_name(dirname(folder))
        name = f"{domain}/{name}"
        there.domains[name] = domain
    if not images:
        there.skippable.append(f"class {name!r} is empty: {_shown(tree, folder)} holds no image")
    part = splits.part_of(folder.partition("/")[0]) if there.is_split else None
    if name in there.images:
        home = _shown(tree, dirname(there.images[name][0])) if there.images[name] else "another folder"
        what = "is in two splits" if there.parts[name] != part else "has two folders"
        there.problems.append(f"class {name!r} {what}: {home} and {_shown(tree, folder)}")
        return
    there.images[name] = images
    there.parts[name] = part


def _split(
    there: Sorted, options: Options, places: tuple[Path, Path | None], left_out: Sequence[str]
) -> tuple[Classes, list[str]]:
    """Return the classes of each split, and what is wrong with them.

    With domains, a class is split by its name alone, so that it is in one split with all its domains.
    """
    by_name: dict[str, list[str]] = {}
    for one in sorted(there.images):
        by_name.setdefault(one.removeprefix(f"{there.domains.get(one)}/"), []).append(one)
    if options.split_by == "domain":
        return splits.by_domain(there.domains, there.parts.items() if there.is_split else (), options)
    classes: Classes = {part: [] for part in SPLITS}
    wrong: list[str] = []
    if there.is_split and options.split_by in ("seed", "list"):
        return classes, [f"split_by={options.split_by}: the folders are splits already; use folder or auto"]
    if options.split_by == "list":
        if not options.list.strip():
            return classes, []
        place, root = places
        folder = place if place.is_dir() else place.parent
        path = attempt(wrong, splits.locate, root, options.list, "list", [folder])
        if path is None:
            return classes, wrong
        classes, wrong = splits.by_list(path, [*by_name, *left_out])
        classes = {part: [name for name in names if name in by_name] for part, names in classes.items()}
        advice = "name more in the list"
    elif there.is_split:
        for name, members in by_name.items():
            for part in dict.fromkeys(there.parts[one] or "" for one in members):
                classes[part].append(name)
        advice = "add folders of classes to it"
    else:
        classes = splits.by_seed(list(by_name), options)
        advice = (
            "add classes, change meta_train and meta_validation, or take split_by=pictures, which needs 2 "
            "classes in all and says nothing of new ones"
        )
    wrong += splits.class_problems(classes, advice, empty=splits.empty(options), domains=options.domains)
    return {part: [one for name in names for one in by_name[name]] for part, names in classes.items()}, wrong


DATASET = Dataset(
    name=NAME,
    summary="your own images: any folder or archive of class/image.png or split/class/image.png (option "
    "path); png, jpeg, webp, tiff, bmp, gif",
    size="as many classes and images as there are, size x size",
    licence="yours",
    url="",
    citation="yours",
    splits=("own",),
    options=Options,
    is_resizable=True,
    load=load,
    is_available=lambda root: True,
    sources=splits.sources,
    anchor=splits.anchor,
)
