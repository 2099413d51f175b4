"""Glyphs: characters of many scripts, drawn from the fonts that come with Matplotlib, and distorted.

First come clean pictures; then what becomes of them.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import PIL
import torch
import torch.nn.functional as F
from PIL import Image, ImageFont, features
from torch import Generator, Tensor

from metabench.core import MetabenchError, Pictures, Split, Splits, seeds, setting
from metabench.data import Dataset
from metabench.data.reading.cache import Array, cached
from metabench.data.reading.splits import make_splits

NAME = "glyphs"
VERSION = 2
"""Raised when the same fonts and settings give other pictures."""

FACES = tuple(
    f"DejaVu{family}{style}.ttf"
    for family, slant in (("Sans", "Oblique"), ("SansMono", "Oblique"), ("Serif", "Italic"))
    for style in ("", "-Bold", f"-{slant}", f"-Bold{slant}")
)
FONT_SIZE = 48
SMALLEST = 10
"""Pixels of the longer side, at FONT_SIZE, below which a character is a mere dot."""

CHARACTERS = Path(__file__).with_suffix(".txt")
"""Those that are drawn; benchmarks/glyph_shapes.py chooses and writes them."""

SCRIPTS = ("Latin", "Greek", "Cyrillic", "Armenian", "Georgian")
KINDS = {"L": "Other letter", "N": "Number", "P": "Punctuation", "S": "Symbol"}

CANVAS, DRAWN, FINE, SIDE = 64, 42, 56, 28
"""Pixels of a side: clean canvas, character on it, sampled canvas, example."""

ROTATION = math.radians(22)
SHEAR = 0.3
LOG_SCALE = 0.25
SHIFT = 0.14  # of half a canvas
ELASTIC = 0.18  # of half a canvas
ELASTIC_GRID = 4
BLUR = 1.6  # pixels of the clean canvas
THINNEST, BOLDEST = 0.5, 0.22  # blurred ink from which a pixel is stroke
SHARPNESS = 5.0

CHUNK = 10  # characters drawn together: more do not fit a processor's cache
PARTS = {"meta_train": 0.64, "meta_validation": 0.16, "meta_test": 0.2}


@dataclass(frozen=True)
class Options:
    """How many characters are drawn how often, and the randomness of all that."""

    n_classes: int = setting(850, "characters in all splits together", minimum=10)
    n_examples: int = setting(20, "drawings of each character", minimum=2, maximum=1_000)
    seed: int = setting(0, "chooses characters, splits and distortions", minimum=0, maximum=2**63 - 1)


def _origin() -> tuple[str, ...]:
    """Say what the pictures depend on beside this file: fonts, FreeType, Pillow, Unicode's categories."""
    digest = hashlib.sha256()
    for face in FACES:
        digest.update(face_path(face).read_bytes())
    freetype = str(features.version("freetype2"))
    versions = (matplotlib.__version__, freetype, PIL.__version__, unicodedata.unidata_version)
    return (digest.hexdigest(), *versions)


def script(character: str) -> str:
    """Return the script of a letter, or the kind of any other character."""
    word = unicodedata.name(character).split()[0].capitalize()
    kind = unicodedata.category(character)[0]
    return word if kind == "L" and word in SCRIPTS else KINDS[kind]


@cache
def distinct() -> str:
    """Return the characters that all faces share and that look different, in the order of Unicode.

    They are a list, so that they are the same whatever draws them. Of those that look alike under the
    rotations and scales that examples have, the first is in it: of A, Alpha and Cyrillic A, one stays.
    """
    return "".join(CHARACTERS.read_text("utf-8").split())


def pictures(character: str, faces: Iterable[str], drawn: int, side: int) -> list[Array]:
    """Draw a character in the middle of squares of `side` pixels, one for each face where it is no dot.

    It is cropped and scaled so that its longer side has `drawn` pixels.
    """
    pictures = []
    for face in faces:
        mask = _font(face).getmask(character, mode="L")
        left, top, right, bottom = mask.getbbox() or (0, 0, 0, 0)
        longer = max(right - left, bottom - top)
        if longer < SMALLEST:
            continue
        width, height = (max(1, round(one * (drawn / longer))) for one in (right - left, bottom - top))
        image = Image.frombytes("L", mask.size, bytes(mask))
        image = image.resize((width, height), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
        picture = np.zeros((side, side), np.uint8)
        row, column = (side - height) // 2, (side - width) // 2
        picture[row : row + height, column : column + width] = np.asarray(image)
        pictures.append(picture)
    return pictures


@cache
def _font(face: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(face_path(face), FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def face_path(face: str) -> Path:
    """Return the file of a face."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", face)
    if not path.is_file():
        raise MetabenchError(f"{NAME}: {path} is missing; install Matplotlib again, with its fonts")
    return path


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Draw the examples, or read them from the cache; no downloaded data is needed."""
    characters = _choose(options)
    key = (VERSION, _origin(), torch.__version__, astuple(options), characters)
    images = torch.from_numpy(cached(NAME, key, lambda: _draw_all(characters, options)))
    cuts = [round(len(characters) * PARTS["meta_train"]), round(len(characters) * (1 - PARTS["meta_test"]))]
    bounds = [0, *cuts, len(characters)]
    parts = {}
    for part, first, last in zip(PARTS, bounds[:-1], bounds[1:], strict=True):
        names = tuple(f"U+{ord(one):04X} {unicodedata.name(one)}" for one in characters[first:last])
        scripts = tuple(script(one) for one in characters[first:last])
        parts[part] = Split(images[first:last], names, scripts)
    return make_splits(f"{NAME}/{split}", **parts, pictures=Pictures(is_inverted=True))


def _choose(options: Options) -> str:
    """Shuffle the characters by a hash of each, and take the first."""
    characters = distinct()
    if options.n_classes > len(characters):
        raise MetabenchError(
            f"{NAME}: n_classes={options.n_classes}: at most {len(characters)} characters look different"
        )
    shuffled = sorted(characters, key=lambda one: seeds.seed(NAME, options.seed, one))
    return "".join(shuffled[: options.n_classes])


def _draw_all(characters: str, options: Options) -> Array:
    """Draw uint8 [class, example, 1, 28, 28]; what a class looks like does not depend on the others."""
    chunks = [characters[start : start + CHUNK] for start in range(0, len(characters), CHUNK)]
    return np.concatenate([_draw(chunk, options) for chunk in chunks])


def _draw(characters: str, options: Options) -> Array:
    clean, draws = [], []
    for character in characters:
        generator = seeds.generator(NAME, options.seed, character)
        clean.append(_clean(character, options.n_examples, generator))
        # Uniform numbers only: unlike normal ones, they are the same bits on every processor.
        draws.append(torch.rand(options.n_examples, 7 + 2 * ELASTIC_GRID**2, generator=generator) * 2 - 1)
    u = torch.cat(draws)
    x = _weigh(torch.cat(clean), u[:, 0])
    where = _affine(u[:, 1:7]) + _elastic(u[:, 7:])
    fine = F.grid_sample(x, where, mode="bilinear", padding_mode="zeros", align_corners=False)
    images = F.avg_pool2d(fine, FINE // SIDE).mul(255).round().to(torch.uint8)
    return images.view(len(characters), -1, 1, SIDE, SIDE).numpy()


def _clean(character: str, n_examples: int, generator: Generator) -> Tensor:
    """Draw one character in faces in random order, as ink in [0, 1], [example, 1, H, W]."""
    faces = [FACES[face] for face in torch.randperm(len(FACES), generator=generator).tolist()]
    canvases = np.stack(pictures(character, faces, DRAWN, CANVAS))
    chosen = torch.arange(n_examples) % len(faces)
    return torch.from_numpy(canvases)[chosen, None].float() / 255


def _weigh(ink: Tensor, u: Tensor) -> Tensor:
    """Make strokes thinner or bolder: blur, then call stroke what is above a threshold."""
    positions = torch.arange(CANVAS, dtype=ink.dtype)
    # As a matrix: faster than conv2d.
    kernel = torch.exp(-(((positions[:, None] - positions) / BLUR) ** 2) / 2)
    kernel = kernel / kernel[CANVAS // 2].sum()
    blurred = kernel @ ink @ kernel
    threshold = (THINNEST + BOLDEST) / 2 + u * (BOLDEST - THINNEST) / 2
    return ((blurred - threshold.view(-1, 1, 1, 1)) * SHARPNESS + 0.5).clamp(0, 1)


def _affine(u: Tensor) -> Tensor:
    """Return where each pixel comes from, [n, H, W, 2], under rotation, shear, two scales and two shifts."""
    angle, shear = u[:, 0] * ROTATION, u[:, 1] * SHEAR
    wide, high = torch.exp(u[:, 2] * LOG_SCALE), torch.exp(u[:, 3] * LOG_SCALE)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    across = torch.stack([wide * cosine, wide * (shear * cosine - sine), u[:, 4] * SHIFT], 1)
    down = torch.stack([high * sine, high * (shear * sine + cosine), u[:, 5] * SHIFT], 1)
    return F.affine_grid(torch.stack([across, down], 1), [len(u), 1, FINE, FINE], align_corners=False)


def _elastic(u: Tensor) -> Tensor:
    """Return smooth displacements, [n, H, W, 2], through random ones on a coarse grid."""
    coarse = u.view(-1, 2, ELASTIC_GRID, ELASTIC_GRID) * ELASTIC
    fine = F.interpolate(coarse, (FINE, FINE), mode="bicubic", align_corners=True)
    return fine.permute(0, 2, 3, 1)


DATASET = Dataset(
    name=NAME,
    summary="characters of many scripts in twelve distorted typefaces; needs no download",
    size="850 classes x 20, 28x28",
    licence="drawn from the DejaVu fonts (Bitstream Vera licence, changes in the public domain)",
    url="https://dejavu-fonts.github.io",
    citation="made by this package",
    splits=("random",),
    options=Options,
    load=load,
)
