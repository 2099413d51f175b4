"""Anything that shows a picture, as an input of a network: files, Pillow's images, arrays and tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metabench.core import MetabenchError, Pictures
from metabench.core.config import nearest
from metabench.data.reading import archives, fitting, splits
from metabench.data.reading import images as reading
from metabench.data.reading.cache import Array
from metabench.training.inputs import Inputs

CHUNK = 256
"""Pictures that are in memory at once."""


class Made(NamedTuple):
    """What became of one picture."""

    input: Array | None  # [C, H, W]
    problem: str


def listed(images: Any, about: Inputs) -> list[Any]:
    """Return pictures, or rows of features, one by one; a lone one is refused."""
    if isinstance(images, str | Path | Image.Image):
        raise MetabenchError("images: is one picture; give a list of pictures")
    if hasattr(images, "columns"):
        return _of_frame(images, about)
    if isinstance(images, np.ndarray | Tensor):
        shape = tuple(images.shape)
        if len(about.shape) == 1:
            if shape[1:] != about.shape:
                rows = f"[n, {about.shape[0]}], a row of features each"
                raise MetabenchError(f"images: shape {list(shape)}; {about.data} takes {rows}")
        elif len(shape) not in (1, 3, 4) or (len(shape) == 3 and min(shape[0], shape[-1]) <= 4 < max(shape)):
            raise MetabenchError(
                f"images: shape {list(shape)}; must be [n, H, W] or [n, H, W, C] (a tensor: [n, C, H, W]); "
                "one picture goes into a list"
            )
    try:
        return list(images)
    except TypeError:
        raise MetabenchError(f"images: {type(images).__name__}; give a list of pictures") from None


def _of_frame(frame: Any, about: Inputs) -> list[Any]:
    """Return the rows of a DataFrame, by the columns that were learnt from."""
    if about.rows is None:
        raise MetabenchError(f"images: is a DataFrame, and {about.data} is no table; give arrays")
    columns = [str(one) for one in frame.columns]
    if missing := [name for name in about.rows.names if name not in columns]:
        raise MetabenchError(f"images: has no column {missing[0]!r}.{nearest(missing[0], columns)}")
    if twice := [name for name in about.rows.names if columns.count(name) > 1]:
        raise MetabenchError(f"images: column {twice[0]!r} stands twice; rename one")
    taken = frame.iloc[:, [columns.index(name) for name in about.rows.names]]
    try:
        return list(taken.to_numpy(np.float64, na_value=np.nan))
    except (ValueError, TypeError) as error:
        raise MetabenchError(f"images: columns that hold no numbers: {error}") from None


def chunks(images: list[Any], about: Inputs, is_prepared: bool) -> Iterator[Tensor]:
    """Yield inputs [n, C, H, W] of pictures, in [0, 1]; all that cannot be one is told at once, at the end.

    Args:
        is_prepared: they are inputs already, as the data set's own are.
    """
    if not is_prepared and about.pictures is None and about.rows is None:
        raise MetabenchError(
            f"{about.data}: does not say how a picture becomes an input; give inputs of shape "
            f"{list(about.shape)} as arrays, with `prepared`"
        )
    wrong: list[str] = []
    for start in range(0, len(images), CHUNK):
        numbered = list(enumerate(images[start : start + CHUNK], start))
        made = list(reading.each(lambda one: _try(one[0], one[1], about, is_prepared), numbered))
        wrong += [one.problem for one in made if one.input is None]
        if not wrong:
            stacked = torch.from_numpy(np.stack([one.input for one in made if one.input is not None]))
            # The same numbers as of a task's images: float32 of a byte, divided by 255.
            yield stacked if stacked.is_floating_point() else stacked.float().div_(255)
    if wrong:
        splits.refuse("pictures", wrong)


def _try(number: int, picture: Any, about: Inputs, is_prepared: bool) -> Made:
    name = repr(str(picture)) if isinstance(picture, str | Path) else f"picture {number}"
    try:
        if is_prepared:
            return Made(_as_it_is(picture, about.shape).astype(np.float32), "")
        if about.rows is not None:
            row = (_as_it_is(picture, about.shape) - about.rows.mean) / about.rows.scale
            return Made(row.astype(np.float32), "")
        assert about.pictures is not None, "or `chunks` had refused"
        return Made(fitting.fitted(_image(picture, about.pictures), about.shape, about.pictures), "")
    except reading.UNREADABLE as error:
        is_file = isinstance(picture, str | Path) and Path(picture).is_file()
        reason = reading.why(error, Path(picture)) if is_file else archives.reason(error)
        return Made(None, f"{name}: {reason}")


def _image(picture: Any, pictures: Pictures) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, str | Path):
        path = Path(picture)
        if not path.is_file():
            raise ValueError("is not a file; give pictures" if path.exists() else "no such file")
        return fitting.opened(path)
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu().numpy()
        picture = picture.transpose(1, 2, 0) if picture.ndim == 3 else picture
    if not isinstance(picture, np.ndarray):
        kinds = "the path of a file, an image of Pillow's, an array or a tensor"
        raise ValueError(f"{type(picture).__name__}: must be {kinds}")
    return Image.fromarray(_bytes(_plane(picture), pictures))


def _plane(values: Array) -> Array:
    """Return an array [H, W] or [H, W, C], or refuse its shape."""
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if 0 in values.shape or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)):
        shapes = "[H, W] or [H, W, C], a tensor's [C, H, W], with 1, 3 or 4 channels"
        raise ValueError(f"shape {list(values.shape)}; must be {shapes}")
    return values


def _bytes(values: Array, pictures: Pictures) -> Array:
    """Return the numbers of an array as bytes, as the data set's own arrays and files are read."""
    kind = values.dtype.str[1:]
    if kind == "u1" and not (pictures.has_scaled_bytes and (pictures.white or pictures.black)):
        return values
    white = pictures.white if kind != "b1" else 0
    white = white or fitting.WHITE.get(kind, 65535 if kind == "u2" else 0)
    if values.dtype.kind not in "buif" or not white:
        raise ValueError(f"{values.dtype}; must be uint8, uint16, or numbers with a point in [0, 1]")
    return fitting.in_bytes(values, pictures.black, white)


def _as_it_is(picture: Any, shape: tuple[int, ...]) -> Array:
    """Return an array that is an input already as float32."""
    values = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else picture
    values = np.asarray(values) if len(shape) == 1 else values
    if not isinstance(values, np.ndarray) or values.shape != shape:
        shape_or_kind = list(values.shape) if isinstance(values, np.ndarray) else type(picture).__name__
        raise ValueError(f"{shape_or_kind}; as `prepared` says, it must be an array of shape {list(shape)}")
    if len(shape) == 1:
        if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise ValueError(f"{values.dtype}; features must be finite numbers")
        return values.astype(np.float64)
    if values.dtype == np.uint8:
        return np.true_divide(values, np.float32(255))
    if values.dtype.kind != "f" or not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            f"{values.dtype}; as `prepared` says, it must be uint8, or have a point and be in [0, 1]"
        )
    return values.astype(np.float32)
