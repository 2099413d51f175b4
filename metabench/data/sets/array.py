"""Array: your own images as one .npz file, or as a folder of .npy files, with labels; never a pickle."""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metabench.core import SPLITS, Pictures, Splits, setting
from metabench.core.config import attempt
from metabench.data import Dataset
from metabench.data.reading import archives, fitting, splits
from metabench.data.reading.cache import Array, Key, checksum, kept, read_header, table_file
from metabench.data.reading.scaling import Bands, Scale, Seen
from metabench.data.reading.splits import Classes
from metabench.storage import remote

NAME = "array"
VERSION = 2
"""Raised when the same files give other bytes."""

NAMES = ("images", "labels", "split")
CHANNELS = (1, 3)
BLOCK = 2**26
"""Bytes that are converted at once."""

PIECE = 2**20
"""Bytes of an archive that are unpacked at once."""

LONGEST_WORD = 1000
"""Letters of a label at most."""


@dataclass(frozen=True)
class Options:
    """Where the arrays are, and how their classes are split."""

    path: str = setting(
        "",
        "an .npz file that holds images and labels, or a folder of images.npy and labels.npy; "
        "absolute, or relative to where you are, the space's file, or METABENCH_DATA",
    )
    black: float = setting(0.0, "the number that is black in the images")
    white: float = setting(
        0.0,
        "the number that is white; 0: 255 for uint8, 1 for floating point and for true and false; for "
        "other types it must be set",
        minimum=0,
    )
    split_by: str = setting(
        "auto",
        "classes are split by the array `split` (a word an image: meta_train, meta_validation or meta_test), "
        "or by seed; domain: the domains are split, by that array where there is one, with all classes, "
        "which others may have, too; auto: by the array where there is one",
        choices=("auto", "split", "seed", "domain"),
    )
    domain: str = setting(
        "", "name of an array that says which domain an image is of, by a word or a whole number"
    )
    group: str = setting(
        "",
        "name of an array of words or whole numbers: no task has images of one group in both support and "
        "query",
    )
    seed: int = setting(
        0,
        "splits classes, or domains, and chooses examples where not all are taken",
        minimum=0,
        maximum=2**63 - 1,
    )
    meta_train: float = setting(
        0.64, "share of the classes or domains, split by seed; 0: none", minimum=0, maximum=1
    )
    meta_validation: float = setting(
        0.16, "share of the classes or domains, split by seed; 0: none", minimum=0, maximum=1
    )
    examples_per_class: int = setting(0, "images of a class, at most; 0: all", minimum=0)


class Sorted(NamedTuple):
    """Which images are of which class, split, domain and group."""

    rows: dict[str, list[int]]  # of each class
    classes: Classes
    domains: dict[str, str]  # of each class, where there are any
    groups: dict[str, list[str]] | None  # of each image of each class


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Read the arrays, or the cache; all that is wrong is reported at once."""
    problems = splits.shares_problems(options)
    path = attempt(problems, splits.locate, root, options.path)
    if path is None:
        splits.refuse(NAME, problems)
    asked = tuple(name for name in (options.domain, options.group) if name)
    arrays, wrong = _open_all(path, asked)
    problems += wrong + _shape_problems(arrays) + _band_problems(arrays, options)
    there = Sorted({}, {}, {}, None)
    if "labels" in arrays and not problems:
        there, problems = _sort(arrays, options)
    rows = there.rows
    files = [path / f"{name}.npy" for name in (*NAMES, *asked)] if path.is_dir() else [path]
    source, scale = checksum([file for file in files if file.is_file()]), (options.black, options.white)
    key = Key(source, (VERSION, rows, scale))
    table = None
    try:
        if rows and "images" in arrays:
            table = _table(path, arrays["images"], key, list(rows.values()), Scale(*scale))
        elif "images" in arrays and not _image_problems(arrays["images"]):
            seen = _seen(arrays["images"], Scale(*scale))
            seen.look(_read_images(path), range(len(arrays["images"])))
            problems += seen.problems()
    except archives.Refused as error:
        problems += error.args
    if problems or table is None:
        splits.refuse(NAME, problems)
    counts = {name: len(row) for name, row in rows.items()}
    pictures = Pictures(black=options.black, white=options.white, has_scaled_bytes=True)
    kind = splits.Kind(options.split_by == "domain", there.groups, rows)
    about = None if table.dtype.kind == "f" else pictures
    return splits.splits_of(NAME, key, table, counts, there.classes, about, "own", there.domains, kind)


def _open_all(path: Path, asked: tuple[str, ...]) -> tuple[dict[str, Array], list[str]]:
    """Open what is there, and say what cannot be read.

    Of images, and of labels that cannot be right, only the shape and the type are read.
    """
    if not path.is_dir() and (not path.is_file() or path.suffix.lower() != ".npz"):
        return {}, [f"{path}: must be an .npz file, or a folder that holds images.npy and labels.npy"]
    arrays: dict[str, Array] = {}
    problems: list[str] = []
    try:
        with _place(path) as place:
            problems += _missing(path, place, asked)
            for name in (name for name in (*NAMES, *asked) if (place / f"{name}.npy").exists()):
                try:
                    arrays[name] = _open(place / f"{name}.npy", arrays.get("images"))
                except archives.DAMAGE as error:
                    what = f"{path / name}.npy" if path.is_dir() else f"{name} of {path}"
                    problems.append(f"{what}: cannot be read: {archives.reason(error)}")
    except archives.DAMAGE as error:
        problems.append(f"{path}: cannot be read as an .npz file: {archives.reason(error)}")
    return arrays, problems


@contextmanager
def _place(path: Path) -> Iterator[Path | zipfile.Path]:
    """Give a folder, or the root of an archive."""
    if path.is_dir():
        yield path
        return
    with zipfile.ZipFile(path) as archive:
        yield zipfile.Path(archive)


def _missing(path: Path, place: Path | zipfile.Path, asked: tuple[str, ...]) -> list[str]:
    missing = [name for name in (*NAMES[:2], *asked) if not (place / f"{name}.npy").exists()]
    if path.is_dir():
        advice = (
            f"is not there; the folder must hold {' and '.join(f'{one}.npy' for one in (*NAMES[:2], *asked))}"
        )
        return [f"{path / name}.npy: {advice}" for name in missing]
    members = [one.name.removesuffix(".npy") for one in place.iterdir() if one.name.endswith(".npy")]
    inside = ", ".join(sorted(members)) or "nothing"
    return [f"{path}: {' and '.join(missing)} not in it; it holds {inside}"] if missing else []


def _open(file: Path | zipfile.Path, images: Array | None) -> Array:
    """Read labels that may be right; of all else only the shape and the type."""
    if not file.is_file():
        raise ValueError("is not a file")
    with file.open("rb") as content:
        shape, _, kind = read_header(content)
        start = content.tell()
    if kind.hasobject:
        raise ValueError("holds Python objects, which may run code when read; save plain numbers or words")
    array = np.broadcast_to(np.zeros((), kind), shape)
    n_bytes = _size(file)
    expected = start + array.size * array.itemsize
    if n_bytes != expected:
        raise ValueError(f"it has {n_bytes} bytes, but as {kind} {list(shape)} it must have {expected}")
    if file.name == "images.npy" or images is None or array.ndim != 1 or shape != images.shape[:1]:
        return array
    if array.itemsize > LONGEST_WORD * (4 if kind.kind == "U" else 1):
        raise ValueError(f"{kind}: words must have at most {LONGEST_WORD} letters")
    with file.open("rb") as content:
        return np.lib.format.read_array(content, allow_pickle=False)


def _size(file: Path | zipfile.Path) -> int:
    return file.stat().st_size if isinstance(file, Path) else file.root.getinfo(file.at).file_size


def _read_images(path: Path) -> Array:
    """Map images, which may be larger than memory: out of an archive by way of a file without a name."""
    if path.is_dir():
        return np.lib.format.open_memmap(path / "images.npy", mode="r")
    folder = remote.cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _place(path) as place, tempfile.TemporaryFile(dir=folder) as file:
            n_bytes, free = _size(place / "images.npy"), shutil.disk_usage(folder).free
            if n_bytes > free:
                raise OSError(f"it unpacks to {n_bytes} bytes, and {folder} has {free} free; free disk space")
            with (place / "images.npy").open("rb") as member:
                shutil.copyfileobj(member, file, PIECE)
            file.seek(0)
            shape, is_fortran, kind = read_header(file)
            return np.memmap(file, kind, "r", file.tell(), shape, "F" if is_fortran else "C")  # type: ignore[arg-type]
    except archives.DAMAGE as error:
        raise archives.Refused(f"images of {path}: cannot be read: {archives.reason(error)}") from error


def _shape_problems(arrays: Mapping[str, Array]) -> list[str]:
    problems = []
    images = arrays.get("images")
    if images is not None:
        problems += _image_problems(images)
    for name, array in arrays.items():
        if name == "images":
            continue
        if array.dtype.kind not in ("US" if name == "split" else "iuUS"):
            kinds = "words" if name == "split" else "whole numbers or words"
            problems.append(f"{name}: {array.dtype}; must be {kinds}")
        if array.ndim != 1:
            problems.append(f"{name}: shape {list(array.shape)}; must be [n]")
        elif images is not None and images.ndim and len(array) != len(images):
            problems.append(f"{name}: {len(array)} of them for {len(images)} images; must be one an image")
    return problems


def _image_problems(images: Array) -> list[str]:
    strange = [] if images.dtype.kind in "buif" else [f"images: {images.dtype}; must be real numbers"]
    return _layout(images)[1] + strange


def _layout(images: Array) -> tuple[tuple[int, ...], list[str]]:
    """Return the order of axes that makes [n, C, H, W] of images with a channel axis, or what is wrong."""
    shape = list(images.shape)
    wanted = "must be [n, H, W], [n, H, W, C] or [n, C, H, W], with C of 1 or 3, or square images of other C"
    if images.ndim not in (3, 4) or 0 in shape:
        return (), [f"images: shape {shape}; {wanted}, none of them 0"]
    if images.ndim == 3:
        return (0, 1, 2), []
    is_first, is_last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if is_first and is_last:
        return (), [f"images: shape {shape}: the channels may be the second or the last axis; {wanted}"]
    if not is_first and not is_last:  # bands, not colours
        is_first, is_last = (shape[2] == shape[3] != shape[1]), (shape[1] == shape[2] != shape[3])
    if not is_first and not is_last:
        return (), [f"images: shape {shape}; {wanted}"]
    return ((0, 1, 2, 3) if is_first else (0, 3, 1, 2)), []


def _band_problems(arrays: Mapping[str, Array], options: Options) -> list[str]:
    """Say what is wrong with names of arrays, and with options for bands that are no colours."""
    images = arrays.get("images")
    wrong = [
        f"{option}={name!r}: is not of its own; give the name of an array beside {', '.join(NAMES)}"
        for option, name in (("domain", options.domain), ("group", options.group))
        if name in NAMES
    ]
    if images is not None and _is_of_bands(images) and (options.black or options.white):
        wrong.append(
            "black and white: are of pictures; bands are standardised each by meta-train; leave them out"
        )
    if options.split_by == "domain" and not options.domain:
        wrong.append("split_by=domain: domain is not set; give the name of the array that holds the domains")
    return wrong


def _is_of_bands(images: Array) -> bool:
    axes, wrong = _layout(images)
    return not wrong and len(axes) == 4 and images.shape[axes[1]] not in CHANNELS


def _seen(images: Array, scale: Scale) -> Seen | Bands:
    return Bands() if _is_of_bands(images) else Seen(scale, images.dtype)


def _names(labels: Array, what: str = "labels") -> tuple[list[str], list[str]]:
    """Return the label of each image as a word."""
    try:
        words = np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels
        written = [str(word) for word in words.tolist()]
        "".join(written).encode()
    except (UnicodeError, ValueError) as error:
        return [], [f"{what}: words that are not Unicode: {error}"]
    names = [fitting.plain(word) for word in written]
    changed = [word for word in written if word.strip() not in ("", word)]
    if changed:
        blanks = f"{len(changed)} {what} have blanks around them, which are left out: {changed[0]!r}"
        splits.note(NAME, [f"{blanks} is {fitting.plain(changed[0])!r}"])
    return names, [f"{what}: image {names.index('')} has an empty label"] if "" in names else []


def _sort(arrays: Mapping[str, Array], options: Options) -> tuple[Sorted, list[str]]:
    """Sort images into classes, and classes into splits; say what is wrong with them."""
    names, problems = _names(arrays["labels"])
    domains: dict[str, str] = {}
    if options.domain:
        words, wrong = _names(arrays[options.domain], options.domain)
        problems += wrong
        names = [f"{word}/{name}" for word, name in zip(words, names, strict=False)]
        domains = dict(zip(names, words, strict=False))
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    classes, wrong = _split(names, sorted(rows), arrays.get("split"), options, domains)
    rows = {name: splits.choose(name, rows[name], options) for name in sorted(rows)}
    problems += wrong
    groups = None
    if options.group:
        words, wrong = _names(arrays[options.group], options.group)
        problems += wrong
        groups = {
            name: [f"{domains.get(name, '')}/{words[row]}" for row in some]
            for name, some in rows.items()
            if words
        }
    return Sorted(rows, classes, domains, groups), problems


def _split(
    labels: list[str],
    names: list[str],
    split: Array | None,
    options: Options,
    domains: Mapping[str, str],
) -> tuple[Classes, list[str]]:
    """Return the classes of each split, and what is wrong with them."""
    if options.split_by == "domain" and split is None:
        return splits.by_domain(domains, (), options)
    plain = {name: name.removeprefix(f"{domains.get(name)}/") for name in names}
    classes: Classes = {part: [] for part in SPLITS}
    if options.split_by == "split" and split is None:
        return classes, ["split_by=split: there is no array `split`"]
    if options.split_by == "seed" or split is None:
        dealt = splits.by_seed(list(dict.fromkeys(plain.values())), options)
        advice = "add classes, or change meta_train and meta_validation"
        wrong = splits.class_problems(dealt, advice, empty=splits.empty(options))
        return {
            part: [one for name in dealt[part] for one in names if plain[one] == name] for part in dealt
        }, wrong
    return _declared(labels, plain, split, options, domains)


def _declared(
    labels: list[str],
    plain: Mapping[str, str],
    split: Array,
    options: Options,
    domains: Mapping[str, str],
) -> tuple[Classes, list[str]]:
    """Return the classes that the array `split` gives each split, and what is wrong with them.

    Args:
        plain: names of classes after `domain/`, by which two domains share them.
    """
    words, problems = _names(split)
    parts = {word: splits.part_of(word) for word in dict.fromkeys(words)}
    problems += [
        f"split: {word!r} is no split; allowed: {', '.join(SPLITS)}"
        for word, part in parts.items()
        if part is None and word
    ]
    homes = sorted({(name, parts[word] or "") for word, name in zip(words, labels, strict=False)})
    if options.split_by == "domain":
        classes, wrong = splits.by_domain(domains, homes, options)
        return classes, problems + wrong
    classes = {part: [name for name, home in homes if home == part] for part in SPLITS}
    words_of = {part: list(dict.fromkeys(plain[name] for name in row)) for part, row in classes.items()}
    return classes, problems + splits.class_problems(words_of, "add classes to it", domains=bool(domains))


def _table(path: Path, like: Array, key: object, rows: list[list[int]], scale: Scale) -> Array:
    """Sort images by class, or read the cache: [class, example, C, H, W], zeros where one has fewer.

    Pictures are uint8; bands, which have no black and white, are float32 as they are.

    Args:
        like: has the images' shape.
    """
    axes = _layout(like)[0]
    image = like[:0].transpose(axes).shape[1:]
    shape = (len(rows), max(map(len, rows)), *(image if len(image) == 3 else (1, *image)))
    size = max(1, BLOCK // (math.prod(image) * like.itemsize))
    kind = np.float32 if _is_of_bands(like) else np.uint8

    def write(place: Path) -> None:
        images, seen = _read_images(path), _seen(like, scale)
        with table_file(place, shape, kind) as put:
            for row, chosen in enumerate(rows):
                for start in range(0, len(chosen), size):
                    some = chosen[start : start + size]
                    block = images[some].transpose(axes)
                    if not seen.look(block, some):
                        continue
                    for column, one in enumerate(seen.scaled(block), start):
                        put(row, column, one)
        if problems := seen.problems():
            raise archives.Refused(*problems)

    return kept(NAME, key, write)


DATASET = Dataset(
    name=NAME,
    summary="your own images as arrays: an .npz file of images and labels, or images.npy and labels.npy "
    "(option path)",
    size="as many classes and images as there are, as large as they are",
    licence="yours",
    url="",
    citation="yours",
    splits=("own",),
    options=Options,
    load=load,
    sources=splits.sources,
    anchor=splits.anchor,
)
