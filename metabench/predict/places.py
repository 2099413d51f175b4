"""Pictures on disk: a folder of folders of classes as a support set, and whatever else names pictures."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

from metabench.core import MetabenchError
from metabench.data.reading import archives, fitting, splits
from metabench.data.reading import images as reading
from metabench.data.reading.images import Tree
from metabench.storage import files


def class_folders(place: str | Path) -> tuple[list[Path], list[str]]:
    """Return the pictures in folders of classes, class/picture.png, and the class of each."""
    root = files.path_of(place, "place")
    tree = _look_through(root)
    if off := _level_problem(tree):
        splits.refuse("support", [off])
    wrong = [*tree.problems, *(f"{str(root / one)!r}: {reading.cure(one)}" for one in tree.others)]
    wrong += fitting.class_problems(root, tree.folders[1:], tree.images)
    if wrong:
        splits.refuse("support", wrong)
    return [root / one for one in tree.images], [reading.class_name(one.split("/")[0]) for one in tree.images]


def find_pictures(places: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return the pictures that paths, folders and patterns such as photos/*.png name, in their order."""
    pictures: list[Path] = []
    wrong: list[str] = []
    for place in [str(places)] if isinstance(places, str | Path) else map(str, places):
        names = [place] if Path(place).exists() else sorted(glob.glob(place, recursive=True))
        some = [picture for name in names for picture in _pictures(Path(name), wrong)]
        if not some and not wrong:
            wrong.append(f"{place!r}: no picture; give files, folders or patterns, such as 'photos/*.png'")
        pictures += some
    if wrong:
        splits.refuse("pictures", wrong)
    return pictures


def _pictures(path: Path, wrong: list[str]) -> list[Path]:
    """Return a file, or the pictures in a folder, and add what is in the way to a list."""
    if not path.is_dir():
        return [path]
    tree = _look_through(path)
    foreign = [one for one in tree.others if Path(one).suffix.lower() in reading.FOREIGN]
    wrong += [*tree.problems, *(f"{str(path / one)!r}: {reading.cure(one)}" for one in foreign)]
    return [path / one for one in sorted(tree.images)]


def _level_problem(tree: Tree) -> str | None:
    """Say which folder to give where the folders of classes are one deeper, or this is a class itself."""
    if top := reading.lone(tree):
        holds = f"{str(tree.place)!r} holds only {top!r}, which holds the folders of classes"
        return f"{holds}; give {str(tree.place / top)!r}"
    if tree.images and len(tree.folders) == 1:
        above = str(tree.place.absolute().parent)
        holds = f"{str(tree.place)!r} holds pictures, and no folders of classes"
        return f"{holds}; give the folder above it, {above!r}, if its folders are classes"
    return None


def _look_through(root: Path) -> Tree:
    if not root.is_dir():
        what = "is no folder" if root.exists() else "no such folder"
        unpacked = "unpack it, and " if archives.is_archive(root) else ""
        raise MetabenchError(f"{root}: {what}; {unpacked}give a folder of pictures")
    return reading.look_through(root, archives.Limits(0, 0))  # of archives alone
