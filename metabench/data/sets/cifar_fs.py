"""CIFAR-FS: the 100 classes of CIFAR-100, split at random by Bertinetto et al.

CIFAR-100's binary version is read out of its archive or folder; the python version is pickled: never.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from metabench.core import MetabenchError, Pictures, Split, Splits
from metabench.data import Dataset
from metabench.data.reading import archives, splits
from metabench.data.reading import fetch as _fetch
from metabench.data.reading.cache import Array, Key, cached, checksum

NAME = "cifar_fs"
FOLDER = "cifar100"
INSIDE = "cifar-100-binary"
ARCHIVE = f"{INSIDE}.tar.gz"
PICKLED = "cifar-100-python"
URL = "https://www.cs.toronto.edu/~kriz"
MD5 = "03b5dce01913d631647c71ecec9e9cb8"
VERSION = 1
"""Raised when the same files give other bytes."""

EXAMPLES = {"train.bin": 500, "test.bin": 100}
"""Files to the images of each class in them, in the order in which they are put together."""

NAMES = {"fine": "fine_label_names.txt", "coarse": "coarse_label_names.txt"}
SHAPE = (3, 32, 32)
RECORD = 2 + 3 * 32 * 32
"""Bytes of an image: its superclass, its class, and red, green and blue, row by row."""

LARGEST_LIST = 10_000
"""Bytes of a list of names at most."""

LARGEST_IN_ALL = 400_000_000
"""Bytes of the unpacked archive at most; the real one has 185 million."""

CITATION = "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images"


@dataclass(frozen=True)
class Options:
    """There is nothing to choose."""


@cache
def groups() -> splits.Groups:
    """Return Bertinetto's classes of each split, by superclass."""
    return splits.read_list(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


def classes() -> splits.Classes:
    """Return Bertinetto's classes of each split."""
    return splits.sorted_classes(groups())


def superclasses() -> dict[str, str]:
    """Return the superclass of each of the 100 classes."""
    return splits.group_of(groups())


def sources(root: Path | None, split: str, options: object) -> list[Path]:
    """Return the archive or the folder that would be read, if there is one."""
    return [] if root is None else list(archives.find(root / FOLDER, {ARCHIVE: INSIDE}).values())


def fetch(root: Path, split: str, options: object, order: _fetch.Order) -> None:
    """Fetch the official archive, which serves both data sets, where it is not here."""
    _fetch.archives(root / FOLDER, URL, {ARCHIVE: MD5}, {ARCHIVE: INSIDE}, order)


def load(name: str, classes: splits.Classes, root: Path | None, split: str, options: object) -> Splits:
    """Read the classes of each split, or the cache; the images of train.bin come before those of test.bin."""
    is_pickled = root is not None and any((root / FOLDER).glob(f"{PICKLED}*"))
    pickled = f"; {PICKLED} holds pickles, which are never read" if is_pickled else ""
    (source,) = archives.require(name, root, FOLDER, {ARCHIVE: INSIDE}, pickled)
    inside = [source / file for file in (*EXAMPLES, *NAMES.values())]
    files = [source] if source.is_file() else [file for file in inside if file.is_file()]
    try:
        images = cached(FOLDER, Key(checksum(files), VERSION), lambda: _sort(source, _contents(source)))
    except archives.Refused as error:
        download = f"To download: metabench datasets fetch {name}"
        raise MetabenchError(f"{name}: {error}. Replace it. {download}") from error
    homes = superclasses()
    position = {one: row for row, one in enumerate(sorted(homes))}
    parts = {}
    for part, names in classes.items():
        chunk = torch.from_numpy(images[[position[one] for one in names]])
        parts[part] = Split(chunk, tuple(names), tuple(homes[one] for one in names))
    return splits.make_splits(f"{name}/{split}", **parts, pictures=Pictures())


def _contents(source: Path) -> dict[str, bytes]:
    """Return the files that are needed, each of the size that it must have."""
    sizes = {file: len(superclasses()) * n_examples * RECORD for file, n_examples in EXAMPLES.items()}
    contents: dict[str, bytes] = {}
    for name, size, read in archives.members(source, archives.Limits(max(sizes.values()), LARGEST_IN_ALL)):
        file = name.removeprefix(f"{INSIDE}/")
        if file in NAMES.values() and size > LARGEST_LIST:
            raise archives.Refused(f"{source}: {name!r} has {size} bytes, must have {LARGEST_LIST} or fewer")
        if size != sizes.get(file, size):
            raise archives.Refused(f"{source}: {name!r} has {size} bytes, must have {sizes[file]}")
        if file in EXAMPLES or file in NAMES.values():
            contents[file] = read()
    missing = [file for file in (*EXAMPLES, *NAMES.values()) if file not in contents]
    if missing:
        raise archives.Refused(f"{source}: {', '.join(missing)} not in it")
    return contents


def _sort(source: Path, contents: Mapping[str, bytes]) -> Array:
    """Sort images by class, uint8 [class, example, C, H, W], classes by name, as many as there must be."""
    homes = superclasses()
    fine, coarse = (contents[NAMES[kind]].decode("utf-8", "replace").split() for kind in ("fine", "coarse"))
    if sorted(fine) != sorted(homes) or sorted(coarse) != sorted({*homes.values()}):
        strange = sorted({*fine, *coarse} ^ {*homes, *homes.values()})
        raise archives.Refused(f"{source}: its names are not those of CIFAR-100's classes: {strange[:5]}")
    rows = [sorted(homes).index(name) for name in fine]
    images = np.empty((len(fine), sum(EXAMPLES.values()), *SHAPE), np.uint8)
    first = 0
    for file, n_examples in EXAMPLES.items():
        records = np.frombuffer(contents[file], np.uint8).reshape(-1, RECORD)
        problem = _labels_problem(records[:, 1], records[:, 0], fine, coarse, n_examples)
        if problem:
            raise archives.Refused(f"{source}: {file} {problem}")
        order = np.argsort(records[:, 1], kind="stable").reshape(len(fine), n_examples)
        for row, chosen in zip(rows, order, strict=True):
            images[row, first : first + n_examples] = records[chosen, 2:].reshape(n_examples, *SHAPE)
        first += n_examples
    return images


def _labels_problem(
    labels: Array, homes: Array, fine: Sequence[str], coarse: Sequence[str], n_examples: int
) -> str | None:
    """Say what is wrong with the classes and superclasses of images, or return None."""
    if labels.max() >= len(fine) or homes.max() >= len(coarse):
        return f"has labels up to {labels.max()} and {homes.max()}, must be below {len(fine)}, {len(coarse)}"
    counts = np.bincount(labels, minlength=len(fine)).tolist()
    wrong = [f"{name} {n}" for name, n in zip(fine, counts, strict=True) if n != n_examples]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        return f"must hold {n_examples} images a class, but has: {', '.join(wrong[:8])}{more}"
    expected = superclasses()
    strayed = np.array([coarse.index(expected[name]) for name in fine])[labels] != homes
    if strayed.any():
        name = fine[labels[strayed][0]]
        return f"has {strayed.sum()} images in another superclass than their class, such as {name!r}"
    return None


DATASET = Dataset(
    name=NAME,
    summary="photographs of things and animals, CIFAR-100's classes split at random",
    size="100 classes x 600, 3x32x32, 64/16/20 classes",
    licence="none stated; its authors ask to be cited",
    url="https://www.cs.toronto.edu/~kriz/cifar.html",
    citation=f"{CITATION}; split bertinetto: Bertinetto et al. 2019 (arXiv 1805.08136)",
    splits=("bertinetto",),
    options=Options,
    load=partial(load, NAME, classes()),
    is_available=lambda root: bool(sources(root, "", None)),
    fetch=fetch,
    sources=sources,
)
