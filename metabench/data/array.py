"""Array: your own images as one .npz file, or as a folder of .npy files, with a label for each."""

from __future__ import annotations

import unicodedata
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metabench import seeds
from metabench.core import Splits, setting
from metabench.data import Dataset, _own
from metabench.data._cache import Array, kept, table_file

NAME = "array"
VERSION = 1
"""Raised when the same files give other bytes."""

NAMES = ("images", "labels", "split")
CHANNELS = (1, 3)
BLOCK = 256
"""Images that are converted at once."""

DAMAGE = (
    *(OSError, ValueError, EOFError, KeyError, TypeError, SyntaxError, RuntimeError, NotImplementedError),
    *(MemoryError, OverflowError, zipfile.BadZipFile, zlib.error),
)
"""What reading damaged files may raise."""


@dataclass(frozen=True)
class Options:
    """Where the arrays are, and how their classes are split."""

    path: str = setting(
        "",
        "an .npz file that holds images and labels, or a folder of images.npy and labels.npy; "
        "absolute or relative to METABENCH_DATA",
    )
    split_by: str = setting(
        "auto",
        "classes are split by the array `split` (a word an image: meta_train, meta_validation or meta_test), "
        "or by seed; auto: by the array where there is one",
        choices=("auto", "split", "seed"),
    )
    seed: int = setting(0, "splits classes, and chooses examples where not all are taken", minimum=0)
    meta_train: float = setting(0.64, "share of the classes, split by seed", above=0, maximum=1)
    meta_validation: float = setting(0.16, "share of the classes, split by seed", above=0, maximum=1)
    examples_per_class: int = setting(0, "images of a class, at most; 0: all", minimum=0)


class _Refused(Exception):
    """Arrays cannot be used; the arguments say why."""


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Read the arrays, or the cache; all that is wrong is reported at once."""
    problems = _own.shares_problem(options)
    path, wrong = _own.locate(root, options.path)
    if path is None:
        _own.refuse(NAME, problems + wrong)
    assert path is not None, "or it was refused"
    files = {name: path / f"{name}.npy" for name in NAMES} if path.is_dir() else {"": path}
    arrays, wrong = _open(path)
    problems += wrong
    problems += _shape_problems(arrays)
    classes: _own.Classes = {part: [] for part in _own.PARTS}
    rows: dict[str, list[int]] = {}
    if "labels" in arrays and not problems:
        names, wrong = _names(arrays["labels"])
        problems += wrong
        rows = _rows(names)
        classes, wrong = _split(names, list(rows), arrays.get("split"), options)
        problems += wrong
    rows = {name: _choose(name, found, options) for name, found in rows.items()}
    key = (VERSION, [_state(file) for file in files.values()], rows)
    table = None
    try:
        if rows and "images" in arrays:
            table = _table(arrays["images"], key, list(rows.values()))
        elif "images" in arrays and not _layout(arrays["images"])[1]:
            problems += _range_problems(arrays["images"], range(len(arrays["images"])))
    except _Refused as error:
        problems += error.args
    _own.refuse(NAME, problems)
    assert table is not None, "or something was refused"
    return _own.splits_of(NAME, key, table, {name: len(found) for name, found in rows.items()}, classes)


def _state(file: Path) -> tuple[str, int, int] | None:
    if not file.exists():
        return None
    status = file.stat()
    return str(file.resolve()), status.st_size, status.st_mtime_ns


def _open(path: Path) -> tuple[dict[str, Array], list[str]]:
    """Return the arrays by name; those of a folder are mapped into memory."""
    if not path.is_dir():
        return _unpacked(path)
    arrays, problems = {}, []
    for name in NAMES:
        file = path / f"{name}.npy"
        if not file.exists():
            if name != "split":
                problems.append(f"{file}: is not there; the folder must hold images.npy and labels.npy")
        elif not file.is_file():
            problems.append(f"{file}: is not a file")
        else:
            _take(arrays, problems, name, f"{file}", lambda file=file: np.load(file, "r", allow_pickle=False))
    return arrays, problems


def _unpacked(path: Path) -> tuple[dict[str, Array], list[str]]:
    arrays: dict[str, Array] = {}
    problems: list[str] = []
    if not path.is_file() or path.suffix.lower() != ".npz":
        return {}, [f"{path}: must be an .npz file, or a folder that holds images.npy and labels.npy"]
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in NAMES[:2] if name not in archive.files]
            if missing:
                found = ", ".join(sorted(archive.files)) or "nothing"
                problems.append(f"{path}: {' and '.join(missing)} not in it; it holds {found}")
            for name in NAMES:
                if name in archive.files:
                    _take(arrays, problems, name, f"{name} of {path}", lambda name=name: archive[name])
    except DAMAGE as error:
        problems.append(f"{path}: cannot be read as an .npz file: {_told(error)}")
    return arrays, problems


def _take(arrays: dict[str, Array], problems: list[str], name: str, where: str, read: Any) -> None:
    try:
        array = read()
        if not isinstance(array, np.ndarray):
            raise ValueError("not an array")
    except DAMAGE as error:
        told = _told(error)
        if "allow_pickle" in told or "Python objects" in told:
            told = "holds Python objects, which may run code when they are read; save plain numbers or words"
        problems.append(f"{where}: cannot be read: {told}")
        return
    arrays[name] = array


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _shape_problems(arrays: Mapping[str, Array]) -> list[str]:
    problems = []
    images = arrays.get("images")
    if images is not None:
        problems += _layout(images)[1]
        if images.dtype != np.uint8 and images.dtype.kind != "f":
            problems.append(f"images: {images.dtype}; must be uint8, or floating point in [0, 1]")
    for name in NAMES[1:]:
        array = arrays.get(name)
        if array is None:
            continue
        if array.dtype.kind not in ("US" if name == "split" else "iuUS"):
            kinds = "words" if name == "split" else "whole numbers or words"
            problems.append(f"{name}: {array.dtype}; must be {kinds}")
        if array.ndim != 1:
            problems.append(f"{name}: shape {list(array.shape)}; must be [n]")
        elif images is not None and images.ndim and len(array) != len(images):
            problems.append(f"{name}: {len(array)} of them for {len(images)} images; must be one an image")
    return problems


def _layout(images: Array) -> tuple[tuple[int, ...], list[str]]:
    """Return the order of axes that makes [n, C, H, W] of images with a channel axis, or what is wrong."""
    shape = list(images.shape)
    wanted = "must be [n, H, W], [n, H, W, C] or [n, C, H, W] with C of 1 or 3"
    if images.ndim not in (3, 4) or 0 in shape:
        return (), [f"images: shape {shape}; {wanted}, none of them 0"]
    if images.ndim == 3:
        return (0, 1, 2), []
    is_first, is_last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if is_first and is_last:
        return (), [f"images: shape {shape}: the channels may be the second or the last axis; {wanted}"]
    if not is_first and not is_last:
        return (), [f"images: shape {shape}; {wanted}"]
    return ((0, 1, 2, 3) if is_first else (0, 3, 1, 2)), []


def _names(labels: Array) -> tuple[list[str], list[str]]:
    """Return the label of each image as a word."""
    try:
        words = np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels
        names = [unicodedata.normalize("NFC", str(word)) for word in words.tolist()]
        "".join(names).encode()
    except (UnicodeError, ValueError) as error:
        return [], [f"labels: words that are not Unicode: {error}"]
    return names, [f"labels: image {names.index('')} has an empty label"] if "" in names else []


def _rows(names: list[str]) -> dict[str, list[int]]:
    """Return the images of each class, classes by name."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return dict(sorted(rows.items()))


def _split(
    labels: list[str], names: list[str], given: Array | None, options: Options
) -> tuple[_own.Classes, list[str]]:
    """Return the classes of each split, and what is wrong with them."""
    classes: _own.Classes = {part: [] for part in _own.PARTS}
    if options.split_by == "split" and given is None:
        return classes, ["split_by=split: there is no array `split`"]
    if options.split_by == "seed" or given is None:
        classes = _own.by_seed(names, options)
        return classes, _own.problems_of(classes, "add classes, or change meta_train and meta_validation")
    words, problems = _names(given)
    parts = {word: _own.part_of(word) for word in dict.fromkeys(words)}
    problems += [
        f"split: {word!r} is no split; allowed: {', '.join(_own.PARTS)}"
        for word, part in parts.items()
        if part is None and word
    ]
    for part, name in sorted({(parts[word] or "", name) for word, name in zip(words, labels, strict=False)}):
        if part:
            classes[part].append(name)
    return classes, problems + _own.problems_of(classes, "add classes to it")


def _choose(name: str, rows: list[int], options: Options) -> list[int]:
    """Take some images of a class by a hash of their positions."""
    if not 0 < options.examples_per_class < len(rows):
        return rows
    rank = {row: seeds.seed("own examples", options.seed, name, row) for row in rows}
    return sorted(sorted(rows, key=lambda row: rank[row])[: options.examples_per_class])


def _table(images: Array, key: object, rows: list[list[int]]) -> Array:
    """Sort images by class, or read the cache: uint8 [class, example, C, H, W], zeros where one has fewer."""
    axes, problems = _layout(images)
    if problems:
        raise _Refused(*problems)
    image = images[:0].transpose(axes).shape[1:]
    shape = (len(rows), max(map(len, rows)), *(image if len(image) == 3 else (1, *image)))

    def write(path: Path) -> None:
        problems = []
        with table_file(path, shape) as put:
            for row, chosen in enumerate(rows):
                for start in range(0, len(chosen), BLOCK):
                    block = images[chosen[start : start + BLOCK]].transpose(axes)
                    problems += _range_problems(block, chosen[start : start + BLOCK])
                    if block.dtype.kind == "f":
                        block = np.round(np.clip(np.nan_to_num(block), 0, 1) * 255.0).astype(np.uint8)
                    for column, one in enumerate(block, start):
                        put(row, column, one)
        if problems:
            raise _Refused(*problems)

    return kept(NAME, key, write)


def _range_problems(block: Array, rows: Sequence[int]) -> list[str]:
    if block.dtype.kind != "f":
        return []
    axes = tuple(range(1, block.ndim))
    is_right = ((block >= 0) & (block <= 1)).all(axes)
    return [
        f"images: image {row} has values in [{one.min()}, {one.max()}]; must lie in [0, 1]"
        for row, one, right in zip(rows, block, is_right, strict=True)
        if not right
    ]


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
    is_here=lambda root: True,
)
