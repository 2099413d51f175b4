"""Clean pictures of the characters in Matplotlib's fonts, and which of them look different."""

from __future__ import annotations

import hashlib
import unicodedata
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import PIL
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageFont, features

from metabench.core import MetabenchError
from metabench.data.reading.cache import Array, cached

FACES = tuple(
    f"DejaVu{family}{style}.ttf"
    for family, slant in (("Sans", "Oblique"), ("SansMono", "Oblique"), ("Serif", "Italic"))
    for style in ("", "-Bold", f"-{slant}", f"-Bold{slant}")
)
FONT_SIZE = 48
SMALLEST = 10
"""Pixels of the longer side, at FONT_SIZE, below which a character is a mere dot."""

COMPARED_SIDE = 22
"""Pixels of the square in which characters are compared: about what they get in an example."""

ALIKE = 0.89
"""Correlation of two characters' averages over the faces from which they look alike."""

VERSION = 1
"""Raised when the same fonts give other characters."""

SCRIPTS = ("Latin", "Greek", "Cyrillic", "Armenian", "Georgian")
KINDS = {"L": "Other letter", "N": "Number", "P": "Punctuation", "S": "Symbol"}


def origin() -> tuple[str, ...]:
    """Say what the pictures depend on beside this file: fonts, FreeType, Pillow, Unicode's categories."""
    digest = hashlib.sha256()
    for face in FACES:
        digest.update(_face_path(face).read_bytes())
    freetype = str(features.version("freetype2"))
    versions = (matplotlib.__version__, freetype, PIL.__version__, unicodedata.unidata_version)
    return (digest.hexdigest(), *versions)


def script(character: str) -> str:
    """Return the script of a letter, or the kind of any other character."""
    word = unicodedata.name(character).split()[0].capitalize()
    kind = unicodedata.category(character)[0]
    return word if kind == "L" and word in SCRIPTS else KINDS[kind]


def distinct() -> str:
    """Return the characters that all faces share and that look different, in the order of Unicode.

    Letters, numbers, punctuation and symbols are taken; marks, spaces and controls are not, and neither is
    what is blank, a dot or a full square in any face. Each is cropped and scaled to the same square, so that
    size and height above the line, which distortion hides anyway, tell nothing apart; then its pictures in
    the faces are averaged, so that weight and slant tell little apart. A character is dropped when the
    correlation of its average with that of one that was kept before it reaches ALIKE: of A, Alpha and
    Cyrillic A, one stays.
    """
    codes = cached("glyph-characters", (VERSION, ALIKE, origin()), lambda: _distinct_codes(_shared()))
    return "".join(map(chr, codes.tolist()))


def _shared() -> list[str]:
    maps = [set(FT2Font(str(_face_path(face))).get_charmap()) for face in FACES]
    characters = map(chr, sorted(set.intersection(*maps)))
    return [character for character in characters if unicodedata.category(character)[0] in KINDS]


def _distinct_codes(characters: list[str]) -> Array:
    visible, rows = [], []
    for character in characters:
        pictures = [picture(character, face, COMPARED_SIDE) for face in FACES]
        squares = [_square(one) for one in pictures if one is not None]
        if len(squares) == len(FACES) and all(np.ptp(square) > 0 for square in squares):
            visible.append(character)
            rows.append(np.mean(squares, 0).ravel())
    is_alike = np.corrcoef(rows) >= ALIKE
    is_dropped = np.zeros(len(visible), bool)
    for index in range(len(visible)):
        if not is_dropped[index]:
            is_dropped[index + 1 :] |= is_alike[index, index + 1 :]
    return np.array([ord(one) for one, dropped in zip(visible, is_dropped, strict=True) if not dropped])


def _square(picture: Array) -> Array:
    square = np.zeros((COMPARED_SIDE, COMPARED_SIDE), np.uint8)
    return paste(square, picture)


def paste(canvas: Array, picture: Array) -> Array:
    """Put a picture in the middle of a canvas, in place."""
    top, left = ((outer - inner) // 2 for outer, inner in zip(canvas.shape, picture.shape, strict=True))
    canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


def picture(character: str, face: str, side: int) -> Array | None:
    """Draw a character, cropped and scaled so that its longer side has `side` pixels; None for a dot."""
    mask = _font(face).getmask(character, mode="L")
    box = mask.getbbox()
    if box is None or max(box[2] - box[0], box[3] - box[1]) < SMALLEST:
        return None
    width, height = box[2] - box[0], box[3] - box[1]
    scale = side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    drawn = Image.frombytes("L", mask.size, bytes(mask)).resize(size, Image.Resampling.BILINEAR, box=box)
    return np.asarray(drawn)


@cache
def _font(face: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_face_path(face), FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def _face_path(face: str) -> Path:
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", face)
    if not path.is_file():
        raise MetabenchError(f"glyphs: {path} is missing; install Matplotlib again, with its fonts")
    return path
