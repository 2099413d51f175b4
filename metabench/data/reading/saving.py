"""Data that a program holds, written down once: a run, its workers and a resume read the same bytes."""

from __future__ import annotations

import hashlib
import io
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from metabench.core import SPLITS, MetabenchError, Pictures
from metabench.data.reading import fitting, splits
from metabench.data.reading.cache import Array
from metabench.storage import remote

LABEL = "label"
"""The column of classes, of rows that come from a dataset."""


class Example(NamedTuple):
    """One of a dataset's."""

    part: str  # of the splits; empty where they are made by seed
    place: str  # for messages
    values: Array  # uint8 [H, W] or [H, W, C], or float [D]
    label: str


def from_dataset(
    dataset: Any,
    size: int | None = None,
    channels: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Write a dataset of pairs (picture or features, label) down; return what names it for `train`, `search`.

    Args:
        dataset: has a length and gives pairs by index, as torchvision's do; or a dict of three of them:
            meta_train, meta_validation and meta_test.
        size: side in pixels that pictures are cut and resized to; pictures of one size need none.
        channels: 3 for colour, 1 for grey; as the pictures are where it is not given.
        folder: where to write; a folder of the cache, by the content, where it is not given.
        options: of the data set `array`, or, where there are features, `table`: seed, meta_train, ...
    """
    examples = _alike(dataset, size, channels)
    if examples[0].values.ndim == 1:
        return _rows(examples, folder, options)
    arrays = {
        "images": np.stack([one.values for one in examples]),
        "labels": np.array([one.label for one in examples]),
    }
    if examples[0].part:
        arrays["split"] = np.array([one.part for one in examples])

    def write(place: Path) -> None:
        place.mkdir()
        for name, array in arrays.items():
            np.save(place / f"{name}.npy", array, allow_pickle=False)

    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    path = _kept(f"pictures-{digest.hexdigest()[:20]}", folder, write)
    return {"name": "array", "options": {"path": str(path), **options}}


def from_frame(frame: Any, folder: str | os.PathLike[str] | None = None, **options: Any) -> dict[str, Any]:
    """Write a DataFrame down as a table; return what names it for `train` and `search`.

    Args:
        frame: of pandas.
        folder: where to write; a folder of the cache, by the content, where it is not given.
        options: of the data set `table`: label, or target and task; features, seed, ...
    """
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise MetabenchError(f"from_frame: {type(frame).__name__}; give a pandas DataFrame")
    named = frame.set_axis([str(one) for one in frame.columns], axis=1)
    if twice := named.columns[named.columns.duplicated()].tolist():
        raise MetabenchError(f"from_frame: column {twice[0]!r} stands twice; rename one")
    stream = io.BytesIO()
    try:
        named.to_parquet(stream, index=False)
    except (ValueError, TypeError, OverflowError) as error:
        line = str(error).splitlines()[0]
        raise MetabenchError(f"from_frame: cannot be written as Parquet: {line}") from None
    content = stream.getvalue()
    name = f"table-{hashlib.sha256(content).hexdigest()[:20]}.parquet"
    path = _kept(name, folder, lambda place: place.write_bytes(content))
    return {"name": "table", "options": {"path": str(path), **options}}


def _alike(dataset: Any, size: int | None, channels: int | None) -> list[Example]:
    """Return all examples, or refuse those that are none or have another shape."""
    problems: list[str] = []
    examples = list(_examples(dataset, size, channels, problems))
    if problems or not examples:
        splits.refuse("from_dataset", problems or ["holds no example"])
    shapes = {one.values.shape: one for one in reversed(examples)}
    if len(shapes) > 1:
        *_, other, first = shapes.values()
        cure = "give size, or channels, for all to be alike"
        what = f"{first.place} has shape {list(first.values.shape)}, {other.place} {list(other.values.shape)}"
        splits.refuse("from_dataset", [f"examples differ: {what}; {cure}"])
    return examples


def _rows(examples: list[Example], folder: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    import pandas as pd

    if examples[0].part:
        raise MetabenchError("from_dataset: features come as one dataset, whose classes are split by seed")
    values = np.stack([one.values for one in examples])
    frame = pd.DataFrame(values, columns=[f"feature {column}" for column in range(values.shape[1])])
    frame[LABEL] = [one.label for one in examples]
    return from_frame(frame, folder, **{"label": LABEL, "standardise": False, **options})


def _kept(name: str, folder: Any, write: Callable[[Path], Any]) -> Path:
    """Write under a name that the content gives, whole or not at all."""
    home = Path(folder) if folder is not None else remote.cache_folder() / "own"
    path = home.absolute() / name
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=home) as made:
                write(Path(made) / name)
                os.replace(Path(made) / name, path)
    except OSError as error:
        if not path.exists():  # another process may have been faster
            raise MetabenchError(f"folder={str(home)!r}: {error.strerror or error}") from error
    return path


def _examples(dataset: Any, size: int | None, channels: int | None, problems: list[str]) -> Iterator[Example]:
    parts: dict[str, Any] = {"": dataset}
    if isinstance(dataset, Mapping):
        parts = {splits.part_of(str(name)) or str(name): one for name, one in dataset.items()}
        if set(parts) != set(SPLITS):
            problems.append(f"dict of {', '.join(map(repr, dataset))}; give {', '.join(SPLITS)}")
            return
    for part, one in parts.items():
        if hasattr(one, "columns"):
            problems.append(f"{type(one).__name__}: is a table; give it to from_frame")
            return
        if not (hasattr(one, "__len__") and hasattr(one, "__getitem__")):
            problems.append(
                f"{type(one).__name__}: has no length and index; give a dataset, or a list of pairs"
            )
            return
        names = getattr(one, "classes", None)
        for index in range(len(one)):
            place = f"{part} example {index}".strip()
            try:
                values, label = _pair(one, index)
                yield Example(part, place, _values(values, size, channels), _label(label, names))
            except MetabenchError as error:
                problems.append(f"{place}: {error}")


def _pair(dataset: Any, index: int) -> tuple[Any, Any]:
    try:
        item = dataset[index]
    except Exception as error:  # whatever a dataset of somebody's raises
        raise MetabenchError(f"raised {type(error).__name__}: {error}") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise MetabenchError(f"is {type(item).__name__}; must be a pair of picture or features, and label")
    return item[0], item[1]


def _label(label: Any, names: Any) -> str:
    """Return the name of a class, as the dataset's `classes` have it where there are such."""
    if hasattr(label, "item") and math.prod(getattr(label, "shape", ())) == 1:
        label = label.item()
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
        raise MetabenchError(f"label {label!r} is {type(label).__name__}; must be a whole number or a word")
    if isinstance(label, int) and isinstance(names, list | tuple) and 0 <= label < len(names):
        return fitting.plain(str(names[label]))
    return fitting.plain(str(label))


def _values(values: Any, size: int | None, channels: int | None) -> Array:
    """Return a picture as uint8 [H, W] or [H, W, 3], or features as they are."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
        values = values.transpose(1, 2, 0) if values.ndim == 3 else values
    if isinstance(values, np.ndarray):
        if values.ndim == 1:
            return _features(values)
        values = Image.fromarray(_bytes(values))
    if not isinstance(values, Image.Image):
        kinds = "an image of Pillow's, a tensor or an array"
        raise MetabenchError(f"picture is {type(values).__name__}; must be {kinds}")
    grey = values.mode in ("1", "L", "I;16", "I", "F")
    depth = channels or (1 if grey else 3)
    if size is None and values.mode == ("L" if depth == 1 else "RGB"):
        return np.asarray(values)
    shape = (depth, size or values.height, size or values.width)
    pixels = fitting.fitted(values, shape, Pictures())
    return pixels[0] if depth == 1 else pixels.transpose(1, 2, 0)


def _features(values: Array) -> Array:
    if values.dtype.kind not in "fiu" or not len(values):
        raise MetabenchError(f"features of {values.dtype}; must be numbers")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise MetabenchError("features hold NaN or infinity; put numbers in place of them")
    return values


def _bytes(values: Array) -> Array:
    """Return uint8 [H, W] or [H, W, 3] of bytes, or of numbers in [0, 1]."""
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or 0 in values.shape or (values.ndim == 3 and values.shape[2] not in (3, 4)):
        shapes = "[H, W] or [H, W, C], a tensor's [C, H, W], with 1, 3 or 4 channels"
        raise MetabenchError(f"picture of shape {list(values.shape)}; must be {shapes}")
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "fb" or not (values.min() >= 0 and values.max() <= 1):
        ends = f"{values.dtype} in [{values.min():g}, {values.max():g}]"
        cure = "must be uint8, or have a point and be in [0, 1]; leave a transform that normalises out"
        raise MetabenchError(f"picture of {ends}: {cure}")
    return np.round(values.astype(np.float64) * 255).astype(np.uint8)
