"""Looking at a data set before anything is trained on it: a drawn task, counts, and what is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from PIL import Image
from torch import Tensor

from metabench import data
from metabench.core import SPLITS, MetabenchError, Split, Splits, Task, seeds
from metabench.core.config import TaskConfig
from metabench.data.tasks import frozen, listed, sampling
from metabench.training import mosaic

FORMS = (".png", ".pdf", ".svg")
LONGEST = 28
"""Characters of a class's name that are drawn."""


class Place(NamedTuple):
    """Where an image is."""

    part: str
    name: str  # of its class
    number: int

    def __str__(self) -> str:
        return f"{self.part} {self.name}, example {self.number}"


def draw(out: Path, task: TaskConfig, seed: int) -> Splits:
    """Draw one meta-train task into a file, and return the data set."""
    if out.suffix.lower() not in FORMS:
        raise MetabenchError(f"--out {out}: must end in one of {', '.join(FORMS)}")
    splits, part = data.load(task), "meta_train"
    if splits.kind != "regression" and not splits.meta_train.has_pictures:
        rows = "environments" if splits.kind == "control" else "features"
        raise MetabenchError(f"{splits.name}: holds {rows}, which no picture shows; look at its table")
    data.check(task, splits, [part])
    shape = sampling.Shape(task.ways[0], task.shots[0], task.query)
    pool = sampling.pool(splits.meta_train, task, task.query)
    indices = sampling.sample(seeds.generator("sheet", seed), pool, shape, 1)
    drawn = frozen.gather(splits.meta_train.images, indices, shape)
    names = tuple(splits.meta_train.classes[row] for row in indices.classes[0].tolist())
    families, names = faces_of(names)
    try:
        with rc_context({"font.family": families}):
            figure = _points(drawn) if splits.kind == "regression" else _images(drawn, names)
            figure.suptitle(f"{splits.name}, {part}, seed {seed}", fontsize=9)
            out.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(out, dpi=150)
    except OSError as error:
        raise MetabenchError(f"--out {out}: {error.strerror or error}; take another file") from error
    return splits


def write_tasks(out: Path, task: TaskConfig, part: frozen.Part, n_tasks: int) -> dict[str, Any]:
    """Write frozen tasks, those of meta-test or of the confirmation, into a file that is not there yet."""
    _refuse_existing(out)
    splits = data.load(task)
    data.check(task, splits, [part])
    pool: Literal["test", "confirm"] = "test" if part == "meta_test" else "confirm"
    drawn = frozen.frozen(splits, part, task, n_tasks, pool)
    frozen.write(out, splits, part, task, pool, drawn)
    return {"dataset": splits.name, "part": part, "tasks": n_tasks, "hash": drawn.hash}


def write_listed(out: Path, task: TaskConfig, part: frozen.Part, listed_in: Path) -> dict[str, Any]:
    """Write the tasks that a file lists into one that is not there yet, as frozen tasks of a data set."""
    _refuse_existing(out)
    if not listed_in.exists():
        raise MetabenchError(f"--from {listed_in}: no such file")
    splits = data.load(task)
    drawn, task = listed.of_file(listed_in, splits, part, task, data.sources(task))
    frozen.write(out, splits, part, task, listed.POOL, drawn)
    n_tasks = sum(len(group.positions) for group in drawn.groups)
    return {"dataset": splits.name, "part": part, "tasks": n_tasks, "hash": drawn.hash}


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise MetabenchError(f"--out {out}: is there already; take another name, or remove it")


def faces_of(names: tuple[str, ...]) -> tuple[list[str], tuple[str, ...]]:
    """Return the faces that have all letters of names, and the names without letters that no face has.

    Matplotlib's own face comes first, then those of the system that have what it lacks. A letter of none is
    written by its number, as an empty box would tell nothing.
    """
    families = ["DejaVu Sans"]
    missing = set("".join(names)) - _letters(FT2Font(font_manager.findfont(families[0])))
    files = iter(sorted(font_manager.findSystemFonts()))
    while missing and (file := next(files, None)):
        face = FT2Font(file)
        drawn = missing & _letters(face)
        if drawn and face.style_name == "Regular":
            font_manager.fontManager.addfont(file)  # its list may be older than the face
            families.append(face.family_name)
            missing -= drawn
    numbers = {ord(letter): f"U+{ord(letter):04X}" for letter in missing}
    return families, tuple(name.translate(numbers) for name in names)


def _letters(face: FT2Font) -> set[str]:
    return set(map(chr, face.get_charmap()))


def counted(splits: Splits) -> list[str]:
    """Say how many classes, examples and domains each split has."""
    lines = []
    for part, split in _parts(splits):
        counts = _counts(split) or [0]
        each = f"{counts[0]}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        shape = "x".join(map(str, split.images.shape[2:]))
        domains = len(set(split.domains))
        lines.append(
            f"{part}: {len(split.classes)} classes of {each} examples, {shape}, in {domains} domains"
        )
    return lines


def problems(splits: Splits, n_needed: int, near: int | None = None) -> dict[str, list[str]]:
    """Name images that repeat, within a class or beyond it, those of one colour, and classes too small.

    Args:
        near: bits of 64 that the perceptual hashes of two images may differ in to be named; None: none is.
    """
    places: dict[bytes, list[Place]] = {}
    blank = []
    for place, image in _each(splits):
        if image.dim() == 3 and image.min() == image.max():
            blank.append(place)
        places.setdefault(hashlib.sha256(image.contiguous().numpy().data).digest(), []).append(place)
    return {
        **_repeats(places.values(), set(blank)),
        "blank": list(map(str, blank)),
        "too_small": [
            f"{part} {name}: {count} examples, needs {n_needed}"
            for part, split in _parts(splits)
            for name, count in zip(split.classes, _counts(split), strict=True)
            if count < n_needed
        ],
        **({} if near is None else {"near": _near(splits, near)}),
    }


def _repeats(groups: Iterable[list[Place]], blank: set[Place]) -> dict[str, list[str]]:
    """Name the images that are in several places: the first of each split, of each class, and how often."""
    splits, classes, often = [], [], []
    for places in groups:
        by_split = {place.part: place for place in reversed(places)}
        if len(by_split) > 1:
            splits.append(" = ".join(map(str, dict.fromkeys(by_split[place.part] for place in places))))
        if places[0] in blank:
            continue
        for part in dict.fromkeys(place.part for place in places):
            by_class: dict[str, list[Place]] = {}
            for place in (place for place in places if place.part == part):
                by_class.setdefault(place.name, []).append(place)
            if len(by_class) > 1:
                classes.append(" = ".join(str(same[0]) for same in by_class.values()))
            often += [f"{same[0]}: {len(same)} times" for same in by_class.values() if len(same) > 1]
    return {"in_two_splits": splits, "in_two_classes": classes, "repeated": often}


def _near(splits: Splits, distance: int) -> list[str]:
    """Name each image that looks nearly like one before it, with the nearest of those."""
    try:
        import imagehash
    except ImportError as error:
        raise MetabenchError("--near needs imagehash; do: pip install 'metabench[near]'") from error
    if not splits.meta_train.has_pictures:
        raise MetabenchError(f"--near: {splits.name} has no images")
    places, bits = [], []
    for place, image in _each(splits):
        pixels = image.permute(1, 2, 0).numpy()
        places.append(place)
        bits.append(imagehash.phash(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)).hash)
    hashes = np.packbits(np.stack(bits).reshape(len(bits), -1), axis=1).view(np.uint64)[:, 0]
    lines = []
    for index in range(1, len(hashes)):
        apart = np.bitwise_count(hashes[:index] ^ hashes[index])
        nearest = int(apart.argmin())
        if apart[nearest] <= distance:
            lines.append(f"{places[nearest]} ~ {places[index]}: {apart[nearest]} of 64 bits apart")
    return lines


def _parts(splits: Splits) -> list[tuple[str, Split]]:
    return [(part, getattr(splits, part)) for part in SPLITS]


def _counts(split: Split) -> list[int]:
    n_classes, n_examples = split.images.shape[:2]
    return [n_examples] * n_classes if split.counts is None else split.counts.tolist()


def _each(splits: Splits) -> Iterator[tuple[Place, Tensor]]:
    for part, split in _parts(splits):
        for name, images, count in zip(split.classes, split.images, _counts(split), strict=True):
            for number, image in enumerate(images[:count]):
                yield Place(part, name, number), image


def _images(task: Task, names: tuple[str, ...]) -> Figure:
    """Draw a class a row: its support, a gap, its query."""
    (x, y), (query, query_y) = ([leaf[0] for leaf in part[:2]] for part in (task.support, task.query))
    n_images = len(y) // len(names), len(query_y) // len(names)
    pixels = mosaic.mosaic(mosaic.Episode(x, y, query, query_y, query_y, names), *n_images)
    figure = Figure(figsize=(0.7 * (sum(n_images) + 1) + 2.5, 0.75 * len(names) + 0.8))
    axis = figure.add_axes((2.2 / figure.get_figwidth(), 0.02, 0.97 - 2.2 / figure.get_figwidth(), 0.88))
    axis.imshow(pixels)
    height = len(pixels) / len(names)
    shown = [name if len(name) <= LONGEST else f"...{name[3 - LONGEST :]}" for name in names]
    axis.set_yticks([(row + 0.5) * height for row in range(len(names))], shown, fontsize=7)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.set_frame_on(False)
    axis.set_title("support, framed in grey, and query", fontsize=8, loc="left")
    return figure


def _points(task: Task) -> Figure:
    figure = Figure(figsize=(5, 4))
    axis = figure.subplots()
    for title, part in (("support", task.support), ("query", task.query)):
        axis.scatter(part.x[0, :, 0].numpy(), part.y[0, :, 0].numpy(), label=title, s=20)
    if task.support.x.shape[-1] > 1:
        axis.set_xlabel("the first input")
    axis.legend()
    return figure
