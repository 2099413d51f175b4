"""How a picture's file becomes an input, by NumPy and Pillow alone: exported models take this file along."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from metabench.core import Pictures

SUFFIXES = {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")

HIDDEN = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"}
"""What systems leave behind, in small letters; so is all that starts with a dot."""

LARGEST = 2**28
"""Pixels of the largest image that is opened."""


WHITE = {"u1": 255, "b1": 1, "f2": 1, "f4": 1, "f8": 1}
"""Types of numbers to what is white in an array of them, where nobody says another."""


def plain(name: str) -> str:
    """Return a name as it is compared: the same letters on every system, without blanks around it."""
    return unicodedata.normalize("NFC", name).strip() or name


def is_hidden(name: str) -> bool:
    """Say whether a file is what systems leave behind, or hidden."""
    return name.startswith(".") or name.lower() in HIDDEN


def class_problems(root: Path, folders: Sequence[str], pictures: Sequence[str]) -> list[str]:
    """Say what is wrong with folders of classes, class/picture.png.

    Args:
        folders, pictures: what is in the folder `root`, by paths from there.
    """
    wrong: list[str] = []
    named: dict[str, str] = {}  # classes to their folders
    for folder in folders:
        name = plain(folder.rpartition("/")[2])
        if "/" in folder:
            deep = f"{str(root / folder)!r}: a folder inside the class {plain(folder.split('/')[0])!r}"
            wrong.append(f"{deep}; pictures lie in the folder of their class itself")
        elif not any(one.startswith(f"{folder}/") for one in pictures):
            wrong.append(f"class {name!r} is empty: {str(root / folder)!r} holds no picture")
        elif name in named:
            wrong.append(f"class {name!r} has two folders: {named[name]!r} and {folder!r}")
        named.setdefault(name, folder)
    beside = [one for one in pictures if "/" not in one]
    wrong += [f"{str(root / one)!r}: a picture outside the folders of classes" for one in beside]
    if not named and not wrong:
        wrong.append(
            f"{str(root)!r}: holds no folder; give one that holds a folder of pictures for each class"
        )
    return wrong


@contextmanager
def own_limit() -> Iterator[None]:
    """Keep Pillow from refusing images smaller than LARGEST."""
    theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = theirs


def opened(file: Path | IO[bytes]) -> Image.Image:
    """Read the first picture of a file."""
    with Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > LARGEST:
            raise ValueError(f"{image.width}x{image.height} pixels are more than {LARGEST}")
        image.load()
    return image


def fitted(image: Image.Image, shape: Sequence[int], pictures: Pictures) -> np.ndarray[Any, Any]:
    """Make an input of a shape [C, H, W] of a picture, uint8.

    The camera's orientation is applied; transparent pixels show the background; the largest part in the
    middle that has the input's proportions is taken and resized, each pixel a weighted mean of those that it
    covers (antialiasing).
    """
    channels, height, width = shape
    image = _eight_bits(ImageOps.exif_transpose(image), pictures)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, pictures.background), image)
    image = image.convert("L" if channels == 1 else "RGB")
    times = min(image.width / width, image.height / height)
    across, down = (max(1, round(times * side)) for side in (width, height))
    left, top = (image.width - across) // 2, (image.height - down) // 2
    box, rule = (left, top, left + across, top + down), Image.Resampling[pictures.resize.upper()]
    pixels = np.asarray(image.resize((width, height), rule, box=box))
    pixels = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return 255 - pixels if pictures.is_inverted else pixels


def _eight_bits(image: Image.Image, pictures: Pictures) -> Image.Image:
    """Scale 16 bits to 8, and numbers with a point; whatever has 8 bits stays as it is."""
    if not image.mode.startswith(("I", "F")):
        return image
    white = pictures.white or (1 if image.mode == "F" else 65535)
    return Image.fromarray(in_bytes(np.asarray(image), pictures.black, white))


def in_bytes(values: np.ndarray[Any, Any], black: float, white: float) -> np.ndarray[Any, Any]:
    """Return uint8, where black is 0 and white 255, or raise ValueError for what is not between them."""
    low, high = values.min(), values.max()
    if not (low >= black and high <= white):
        advice = "the option white of the data set is the largest number that there may be"
        raise ValueError(f"values in [{low:g}, {high:g}] must lie in [{black:g}, {white:g}]; {advice}")
    return scaled(values, black, white)


def scaled(values: np.ndarray[Any, Any], black: float, white: float) -> np.ndarray[Any, Any]:
    """Return uint8, where black is 0 and white 255, of numbers between them."""
    if values.dtype == np.uint8 and (black, white) == (0, 255):
        return values
    return np.round((values.astype(np.float64) - black) * (255 / (white - black))).astype(np.uint8)
