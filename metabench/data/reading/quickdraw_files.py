"""Reading Quick, Draw!'s bitmaps: whole official files, or only those of their rows that were fetched.

A fetched category is `numpy_rows/<category>.npz` with three arrays: `images`, uint8 [row, 784]; `rows`, the
ascending numbers of these rows in the official file; `count`, how many rows that file has.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from fsspec.utils import merge_offset_ranges

from metabench.core import MetabenchError
from metabench.data.reading import fetch
from metabench.data.reading.cache import Array, read_header
from metabench.storage import files

NAME = "quickdraw"
FOLDER = "quickdraw/numpy_bitmap"
ROWS = "quickdraw/numpy_rows"
URL = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap"
PIXELS = 784

GAP = 32
"""Rows that are fetched and thrown away rather than asked for around: 25 kB cost less than a request."""

LONGEST = 5_000
"""Rows of one request at most, so that a broken connection costs little."""

DOWNLOAD = f"To download: metabench datasets fetch {NAME}"

DAMAGE = (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""What opening a damaged file may raise."""


class Category(NamedTuple):
    """The drawings of one category that are here."""

    total: int  # rows of the official file
    images: Array = np.empty((0, PIXELS), np.uint8)  # [row, 784]
    rows: Array | None = np.empty(0, np.int64)  # ascending [row]: which they are; None for all


def sources(root: Path | None, names: Sequence[str]) -> list[Path]:
    """List the files of the categories that are under root."""
    paths = [_path(root, name) for name in names] if root is not None else []
    return [path for path in paths if path.is_file()]


def _path(root: Path, name: str) -> Path:
    """Return the whole file of a category where it is here, or else that of its rows."""
    whole = root / FOLDER / f"{name}.npy"
    return whole if whole.is_file() else root / ROWS / f"{name}.npz"


def open_all(root: Path | None, names: Sequence[str]) -> dict[str, Category]:
    """Open the file of each category; all that is wrong with them is reported at once."""
    if root is None:
        raise MetabenchError(
            f"{NAME}: METABENCH_DATA is not set; set it to the folder that holds, or is to hold, {NAME}/. "
            f"{DOWNLOAD}"
        )
    if not (root / FOLDER).is_dir() and not (root / ROWS).is_dir():
        raise MetabenchError(
            f"{NAME}: neither {root / FOLDER} nor {root / ROWS} is a folder; METABENCH_DATA must hold one. "
            f"{DOWNLOAD}"
        )
    files, wrong, missing = {}, [], []
    for name in names:
        path = _path(root, name)
        try:
            if path.is_file():
                files[name] = open_one(path)
            else:
                missing.append(name)
        except MetabenchError as error:
            wrong.append(str(error))
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        lacks = f"{len(missing)} of {len(names)} categories are missing ({some})"
        wrong.insert(0, f"{root / NAME}: {lacks}. {DOWNLOAD}")
    if wrong:
        more = [f"and {len(wrong) - 5} more files"] if len(wrong) > 5 else []
        raise MetabenchError("\n".join(f"{NAME}: {line}" for line in wrong[:5] + more))
    return files


def open_present(root: Path, names: Sequence[str]) -> dict[str, Category]:
    """Open the files that are here; rows that were damaged since they were fetched count as absent."""
    files = {}
    for name, path in ((name, _path(root, name)) for name in names):
        try:
            if path.is_file():
                files[name] = open_one(path)
        except MetabenchError:
            if path.suffix == ".npy":  # what the user has put there
                raise
    return files


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


def lacking(category: Category, rows: Array) -> Array:
    """Return which of some rows are not here, ascending."""
    wanted = np.unique(rows)
    return wanted[:0] if category.rows is None else np.setdiff1d(wanted, category.rows)


def take(category: Category, rows: Array) -> Array:
    """Return some rows, [row, 784], in the order asked for; they must be here."""
    where = rows if category.rows is None else np.searchsorted(category.rows, rows)
    return category.images[where]


def header(client: fetch.Client, base: str, name: str) -> tuple[int, int]:
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
        raise MetabenchError(
            f"{url}: has {total} bytes, but its {shape[0]} rows need {needed}; it is cut off or damaged "
            "there: take another url"
        )
    return start, shape[0]


def address(base: str, name: str) -> str:
    """Return where a category's file is on a server."""
    return f"{base.rstrip('/')}/{quote(name)}.npy"


def stretches(rows: Array) -> list[tuple[int, int]]:
    """Put ascending rows together to few stretches [first, last + 1) that hold them."""
    first = rows.tolist()
    _, starts, stops = merge_offset_ranges(
        [""] * len(first), first, [row + 1 for row in first], max_gap=GAP, max_block=LONGEST
    )
    return list(zip(starts, stops, strict=True))


def fetch_rows(client: fetch.Client, base: str, name: str, start: int, count: int, rows: Array) -> Array:
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
    content = io.BytesIO()
    np.savez(
        content,
        images=np.concatenate([old.images, images])[order],
        rows=all_rows[order],
        count=np.int64(old.total),
    )
    files.write_bytes(root / ROWS / f"{name}.npz", content.getvalue())
