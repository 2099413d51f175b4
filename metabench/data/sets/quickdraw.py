"""Quick, Draw!: doodles of 345 categories by people with twenty seconds each, as 28x28 bitmaps.

They are read from whole official files, or from only those of their rows that were fetched. A fetched
category is `numpy_rows/<category>.npz` with three arrays: `images`, uint8 [row, 784]; `rows`, the ascending
numbers of these rows in the official file; `count`, how many rows that file has.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from fsspec.utils import merge_offset_ranges

from metabench.core import MetabenchError, Pictures, Split, Splits, setting
from metabench.data import Dataset
from metabench.data.reading import fetch as _fetch
from metabench.data.reading.archives import DAMAGE
from metabench.data.reading.cache import Array, read_header
from metabench.data.reading.splits import Classes, make_splits, read_list, refuse
from metabench.storage import files

NAME = "quickdraw"
FOLDER = "quickdraw/numpy_bitmap"
ROWS = "quickdraw/numpy_rows"
URL = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap"
DOWNLOAD = f"To download: metabench datasets fetch {NAME}"
PIXELS = 784
N_CATEGORIES = 345
POOL = 100
"""Drawings a category that validation and test draw from, as far as the files have them."""

GAP = 32
"""Rows that are fetched and thrown away rather than asked for around: 25 kB cost less than a request."""

LONGEST = 5_000
"""Rows of one request at most, so that a broken connection costs little."""


@dataclass(frozen=True)
class Options:
    """How much of each category is used."""

    examples_per_class: int = setting(100, "drawings of each meta-train category", minimum=2)


def meta_dataset_classes() -> Classes:
    """Return Meta-Dataset's classes of each split, in its order."""
    return read_list(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


def cloudera_classes() -> Classes:
    """Return the classes of each split of Cloudera Fast Forward's report, in its order."""
    names = _names(meta_dataset_classes())
    names.sort(key=lambda name: f"{name}.npy")  # file names, whose suffix changes the order of six
    np.random.RandomState(123).shuffle(names)
    return {"meta_train": names[:207], "meta_validation": names[207:276], "meta_test": names[276:]}


CLASSES = {"cloudera": cloudera_classes, "meta_dataset": meta_dataset_classes}


class Category(NamedTuple):
    """The drawings of one category that are here."""

    total: int  # rows of the official file
    images: Array = np.empty((0, PIXELS), np.uint8)  # [row, 784]
    rows: Array | None = np.empty(0, np.int64)  # ascending [row]: which they are; None for all


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Read a named split; which rows are drawn is Cloudera's rule for both splits."""
    classes = CLASSES[split]()
    categories = _open_all(root, _names(classes))
    rows = _draw({name: category.total for name, category in categories.items()}, classes, options)
    lacking = {name: len(_lacking(categories[name], rows[name])) for name in rows}
    short = [name for name, n_lacking in lacking.items() if n_lacking]
    if short:
        n_rows = len(rows[short[0]])
        raise MetabenchError(
            f"{NAME}: {len(short)} categories lack some of their rows; {short[0]!r} has "
            f"{n_rows - lacking[short[0]]} of {n_rows}. To fetch them: metabench datasets fetch {NAME}, with "
            f"split={split} and the option examples_per_class={options.examples_per_class}"
        )
    parts = {}
    for part, names in classes.items():
        images = np.stack([_take(categories[name], rows[name]) for name in names])  # [class, example, 784]
        tensor = torch.from_numpy(images).view(len(names), -1, 1, 28, 28)
        parts[part] = Split(tensor, tuple(names), (NAME,) * len(names))
    return make_splits(f"{NAME}/{split}", **parts, pictures=Pictures(is_inverted=True))


def _names(classes: Classes) -> list[str]:
    return [name for part in classes.values() for name in part]


def _draw(available: dict[str, int], classes: Classes, options: Options) -> dict[str, Array]:
    """Choose the rows of each category among those that it has.

    `RandomState.choice` without replacement is a permutation cut short, so the choice of one category does
    not depend on how many are chosen of the others, and fewer rows are the first of more.
    """
    n_train = options.examples_per_class
    short = min(classes["meta_train"], key=lambda name: available[name])
    if available[short] < n_train:
        n_short = sum(available[name] < n_train for name in classes["meta_train"])
        raise MetabenchError(
            f"{NAME}: examples_per_class={n_train}: {n_short} meta-train categories have fewer rows; "
            f"{short!r} has {available[short]} and needs {n_train}. "
            f"Set the option examples_per_class to {available[short]} or less, or get all rows. {DOWNLOAD}"
        )
    rng = np.random.RandomState(123)
    rng.shuffle(np.arange(len(available)))  # Cloudera shuffled its classes with the same generator first
    rows: dict[str, Array] = {}
    for part, names in classes.items():
        n_rows = n_train if part == "meta_train" else min(POOL, *(available[name] for name in names))
        rows |= {name: rng.choice(available[name], n_rows, replace=False) for name in names}
    return rows


def sources(root: Path | None, split: str, options: object) -> list[Path]:
    """List the files of the categories that are under root."""
    paths = [_path(root, name) for name in _names(meta_dataset_classes())] if root is not None else []
    return [path for path in paths if path.is_file()]


def _path(root: Path, name: str) -> Path:
    """Return the whole file of a category where it is here, or else that of its rows."""
    whole = root / FOLDER / f"{name}.npy"
    return whole if whole.is_file() else root / ROWS / f"{name}.npz"


def _open_all(root: Path | None, names: Sequence[str]) -> dict[str, Category]:
    """Open the file of each category; all that is wrong with them is reported at once."""
    if root is None:
        unset = "METABENCH_DATA is not set; set it to the folder that holds, or is to hold,"
        refuse(NAME, [f"{unset} {NAME}/. {DOWNLOAD}"])
    if not (root / FOLDER).is_dir() and not (root / ROWS).is_dir():
        neither = f"neither {root / FOLDER} nor {root / ROWS} is a folder; METABENCH_DATA must hold one"
        refuse(NAME, [f"{neither}. {DOWNLOAD}"])
    categories, damaged = _open_present(root, names)
    wrong = list(damaged.values())
    missing = [name for name in names if name not in categories and _path(root, name) not in damaged]
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        lacks = f"{len(missing)} of {len(names)} categories are missing ({some})"
        wrong.insert(0, f"{root / NAME}: {lacks}. {DOWNLOAD}")
    if wrong:
        refuse(NAME, wrong)
    return categories


def _open_present(root: Path, names: Sequence[str]) -> tuple[dict[str, Category], dict[Path, str]]:
    """Open the files that are here, and say what is wrong with those that cannot be used."""
    categories, damaged = {}, {}
    for name, path in ((name, _path(root, name)) for name in names):
        try:
            if path.is_file():
                categories[name] = open_one(path)
        except MetabenchError as error:
            damaged[path] = str(error)
    return categories, damaged


def open_one(path: Path) -> Category:
    """Open one file, whole or rows, and check its form."""
    advice = "delete it and fetch it again"
    try:
        if path.suffix == ".npy":
            images = np.load(path, mmap_mode="r", allow_pickle=False)
            category = Category(len(images) if images.ndim else 0, images, None)
        else:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                category = Category(int(stored["count"]), stored["images"], stored["rows"])
    except DAMAGE as error:
        raise MetabenchError(f"{path}: cannot be read as a NumPy array ({error}); {advice}") from error
    total, images, rows = category
    if images.dtype != np.uint8 or images.shape[1:] != (PIXELS,):
        shape = f"{images.dtype} {list(images.shape)}"
        raise MetabenchError(f"{path}: must be uint8 [n, 784], but is {shape}; {advice}")
    if rows is not None and not (
        rows.dtype == np.int64
        and rows.shape == images.shape[:1]
        and (np.diff(rows, prepend=-1, append=total) > 0).all()
    ):
        raise MetabenchError(f"{path}: its rows are not those of its images; {advice}")
    return category


def _lacking(category: Category, rows: Array) -> Array:
    """Return which of some rows are not here, ascending."""
    wanted = np.unique(rows)
    return wanted[:0] if category.rows is None else np.setdiff1d(wanted, category.rows)


def _take(category: Category, rows: Array) -> Array:
    """Return some rows, [row, 784], in the order asked for; they must be here."""
    where = rows if category.rows is None else np.searchsorted(category.rows, rows)
    return category.images[where]


def fetch(root: Path, split: str, options: Options, order: _fetch.Order) -> None:
    """Fetch the rows that a split draws, or whole files where that is asked for."""
    base = order.url or URL
    client = _fetch.Client(base, order.jobs)
    with _fetch.alone(root / NAME, order):
        if order.is_whole:
            _fetch_files(client, base, root / FOLDER, order)
        else:
            (root / ROWS).mkdir(exist_ok=True)
            _fetch_drawn(client, base, root, CLASSES[split](), options, order)


def _fetch_files(client: _fetch.Client, base: str, folder: Path, order: _fetch.Order) -> None:
    folder.mkdir(exist_ok=True)
    names = _names(meta_dataset_classes())
    missing = [name for name in names if not (folder / f"{name}.npy").is_file()]

    def save(name: str) -> None:
        client.save(address(base, name), folder / f"{name}.npy")

    for done, _ in enumerate(client.each(order.jobs, missing, save), len(names) - len(missing) + 1):
        order.progress(done, len(names))


def _fetch_drawn(
    client: _fetch.Client, base: str, root: Path, classes: Classes, options: Options, order: _fetch.Order
) -> None:
    """Fetch in two rounds: which rows are drawn depends on how many each category has."""
    names = _names(classes)
    categories, damaged = _open_present(root, names)  # damaged rows count as absent
    for path, problem in damaged.items():
        if path.suffix == ".npy":  # what the user has put there
            raise MetabenchError(problem)
    n_steps = 2 * len(names)

    def ask(name: str) -> tuple[int, int]:
        return header(client, base, name)

    starts = {}
    missing = [name for name in names if name not in categories]
    for done, (name, (start, count)) in enumerate(client.each(order.jobs, missing, ask), len(categories) + 1):
        starts[name], categories[name] = start, Category(count)
        order.progress(done, n_steps)
    rows = _draw({name: categories[name].total for name in names}, classes, options)
    lacking = {name: _lacking(categories[name], rows[name]) for name in names}
    to_fetch = [name for name in names if len(lacking[name]) or name in starts]

    def get(name: str) -> None:
        category = categories[name]
        start, count = (starts[name], category.total) if name in starts else ask(name)
        if count != category.total:
            problem = f"taken from a file of {category.total} rows, but that of {base} has {count}"
            path = root / ROWS / f"{name}.npz"
            raise MetabenchError(f"{path}: {problem}; delete it, or take the former url")
        images = fetch_rows(client, base, name, start, count, lacking[name])
        keep(root, name, category, lacking[name], images)

    for done, _ in enumerate(client.each(order.jobs, to_fetch, get), n_steps - len(to_fetch) + 1):
        order.progress(done, n_steps)


def header(client: _fetch.Client, base: str, name: str) -> tuple[int, int]:
    """Ask a server where the first row of a category's file starts, and how many rows it has."""
    url = address(base, name)
    content, total = client.part(url, 0, 256)
    stream = io.BytesIO(content)
    try:
        shape, is_fortran, dtype = read_header(stream)
    except ValueError as error:
        raise MetabenchError(f"{url}: does not start as a NumPy array ({error}); take another url") from error
    start = stream.tell()
    if dtype != np.uint8 or shape[1:] != (PIXELS,) or is_fortran:
        raise MetabenchError(f"{url}: must be uint8 [n, 784], but is {dtype} {list(shape)}")
    needed = start + shape[0] * PIXELS
    if total != needed:
        problem = f"has {total} bytes, but its {shape[0]} rows need {needed}"
        raise MetabenchError(f"{url}: {problem}; it is cut off or damaged there: take another url")
    return start, shape[0]


def address(base: str, name: str) -> str:
    """Return where a category's file is on a server."""
    return f"{base.rstrip('/')}/{quote(name)}.npy"


def stretches(rows: Array) -> list[tuple[int, int]]:
    """Put ascending rows together to few stretches [first, last + 1) that hold them."""
    first = rows.tolist()
    stop = [row + 1 for row in first]
    _, starts, stops = merge_offset_ranges([""] * len(first), first, stop, max_gap=GAP, max_block=LONGEST)
    return list(zip(starts, stops, strict=True))


def fetch_rows(client: _fetch.Client, base: str, name: str, start: int, count: int, rows: Array) -> Array:
    """Fetch some rows, ascending, of a category's file whose first row lies at byte `start`."""
    parts = [np.empty((0, PIXELS), np.uint8)]
    url = address(base, name)
    for first, stop in stretches(rows):
        content, total = client.part(url, start + first * PIXELS, start + stop * PIXELS)
        if total != start + count * PIXELS:
            raise MetabenchError(f"{url}: changed while it was read; run the same command again")
        block = np.frombuffer(content, np.uint8).reshape(-1, PIXELS)
        parts.append(block[rows[(rows >= first) & (rows < stop)] - first])
    return np.concatenate(parts)


def keep(root: Path, name: str, old: Category, rows: Array, images: Array) -> None:
    """Keep more rows of a category beside those that are here."""
    assert old.rows is not None, "a whole file lacks nothing"
    all_rows = np.concatenate([old.rows, rows])
    order = np.argsort(all_rows)
    all_images = np.concatenate([old.images, images])
    content = io.BytesIO()
    np.savez(content, images=all_images[order], rows=all_rows[order], count=np.int64(old.total))
    files.write_bytes(root / ROWS / f"{name}.npz", content.getvalue())


DATASET = Dataset(
    name=NAME,
    summary="doodles by people, one category a class",
    size="345 classes, 28x28",
    licence="CC BY 4.0, Google",
    url="https://github.com/googlecreativelab/quickdraw-dataset",
    citation=(
        "Ha and Eck 2018 (arXiv 1704.03477); split cloudera: Cloudera Fast Forward 2020, Meta-Learning; "
        "split meta_dataset: Triantafillou et al. 2020 (arXiv 1903.03096)"
    ),
    splits=tuple(CLASSES),
    options=Options,
    load=load,
    is_available=lambda root: len(sources(root, "", None)) == N_CATEGORIES,
    fetch=fetch,
    sources=sources,
)
