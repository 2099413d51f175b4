"""Glyphs: characters of many scripts, drawn from the fonts that come with Matplotlib, and distorted."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from metabench.core import MetabenchError, Split, Splits, seeds, setting
from metabench.data import Dataset
from metabench.data.reading import glyph_shapes
from metabench.data.reading.cache import Array, cached
from metabench.data.reading.splits import make_splits

NAME = "glyphs"
VERSION = 1
"""Raised when the same settings give other pictures."""

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

    n_classes: int = setting(1100, "characters in all splits together", minimum=10)
    n_examples: int = setting(20, "drawings of each character", minimum=2)
    seed: int = setting(0, "chooses characters, splits and distortions", minimum=0)


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Draw the examples, or read them from the cache; no downloaded data is needed."""
    characters = _choose(options)
    key = (VERSION, glyph_shapes.origin(), torch.__version__, astuple(options), characters)
    images = torch.from_numpy(cached(NAME, key, lambda: _draw_all(characters, options)))
    cuts = [round(len(characters) * PARTS["meta_train"]), round(len(characters) * (1 - PARTS["meta_test"]))]
    bounds = [0, *cuts, len(characters)]
    parts = {}
    for part, first, last in zip(PARTS, bounds[:-1], bounds[1:], strict=True):
        names = tuple(f"U+{ord(one):04X} {unicodedata.name(one)}" for one in characters[first:last])
        scripts = tuple(glyph_shapes.script(one) for one in characters[first:last])
        parts[part] = Split(images[first:last], names, scripts)
    return make_splits(f"{NAME}/{split}", **parts)


def _choose(options: Options) -> str:
    """Shuffle the characters by a hash of each, and take the first."""
    distinct = glyph_shapes.distinct()
    if options.n_classes > len(distinct):
        raise MetabenchError(
            f"{NAME}: n_classes={options.n_classes}: at most {len(distinct)} characters look different"
        )
    return "".join(sorted(distinct, key=lambda one: seeds.seed(NAME, options.seed, one))[: options.n_classes])


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
    faces = torch.randperm(len(glyph_shapes.FACES), generator=generator).tolist()
    canvases = np.zeros((len(faces), CANVAS, CANVAS), np.uint8)
    for canvas, face in zip(canvases, faces, strict=True):
        picture = glyph_shapes.picture(character, glyph_shapes.FACES[face], DRAWN)
        assert picture is not None, "distinct() leaves no blank"
        glyph_shapes.paste(canvas, picture)
    chosen = torch.arange(n_examples) % len(faces)
    return torch.from_numpy(canvases)[chosen, None].float() / 255


def _weigh(ink: Tensor, u: Tensor) -> Tensor:
    """Make strokes thinner or bolder: blur, then call stroke what is above a threshold."""
    positions = torch.arange(CANVAS, dtype=ink.dtype)
    kernel = torch.exp(
        -(((positions[:, None] - positions) / BLUR) ** 2) / 2
    )  # as a matrix: faster than conv2d
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
    size="1,100 classes x 20, 28x28",
    licence="drawn from the DejaVu fonts (Bitstream Vera licence, changes in the public domain)",
    url="https://dejavu-fonts.github.io",
    citation="made by this package",
    splits=("random",),
    options=Options,
    load=load,
)
