"""Which characters look alike, and the list of those that do not, which Glyphs draws.

`python benchmarks/glyph_shapes.py` writes the list, and says what each character left out looks like.
"""

from __future__ import annotations

import itertools
import math
import unicodedata

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ft2font import FT2Font
from torch import Tensor

from metabench.data.sets import glyphs

SIDE, DRAWN = 48, 32
"""Pixels of a canvas, and of a character's longer side on it."""

LINE = 60
"""Characters of a line of the list."""

SPREAD = 11.0
"""Pixels that the ink of every character lies from its centre, as a root mean square."""

ROTATIONS = tuple(math.radians(degrees) for degrees in (-30, -20, -10, 0, 10, 20, 30))
ASPECTS, SCALES = (-0.5, -0.25, 0.0, 0.25, 0.5), (-0.1, 0.0, 0.1)
"""Logarithms of width over height, and of size."""

ALIKE, SAME_LETTER = 0.93, 0.85
"""Correlations from which two characters look alike: any two, and two forms of one letter or digit.

Above them are B and Cyrillic ve, a capital and a small letter of one shape, filled squares of two heights;
below them are W with a circumflex and without, n and h, and E and e.
"""


def candidates() -> str:
    """Return the letters, numbers, punctuation and symbols that all faces share and that are no dots."""
    maps = [set(FT2Font(str(glyphs.face_path(face))).get_charmap()) for face in glyphs.FACES]
    characters = map(chr, sorted(set.intersection(*maps)))
    visible = (one for one in characters if unicodedata.category(one)[0] in glyphs.KINDS)
    n_faces = len(glyphs.FACES)
    return "".join(one for one in visible if len(glyphs.pictures(one, glyphs.FACES, 8, 8)) == n_faces)


def correlations(characters: str) -> Tensor:
    """Return how alike characters look, at best, [n, n], under rotations and scales such as Glyphs draws.

    Of each the average over the faces is compared, so that weight and slant tell little apart; all are of one
    size and about their centres of ink, so that size and height above the line tell nothing apart.
    """
    faces = [np.mean(glyphs.pictures(one, glyphs.FACES, DRAWN, SIDE), 0) for one in characters]
    ink = torch.from_numpy(np.stack(faces)).float()[:, None]
    centre, spread = _moments(ink)
    plain = _turned(ink, centre, spread / SPREAD, 0.0, 1.0, 1.0)
    still = _rows(plain)
    best = still @ still.T
    middle = torch.zeros_like(centre)
    for angle, aspect, scale in itertools.product(ROTATIONS, ASPECTS, SCALES):
        wide, high = math.exp(scale + aspect / 2), math.exp(scale - aspect / 2)
        turned = _turned(plain, middle, torch.ones_like(spread), angle, wide, high)
        best = torch.maximum(best, still @ _rows(turned).T)
    return torch.maximum(best, best.T)


def _moments(ink: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centre of ink, [n, 2] as a part of half a canvas, and its spread, [n] pixels."""
    positions = torch.arange(SIDE, dtype=ink.dtype) - (SIDE - 1) / 2
    share = (ink / ink.sum((2, 3), keepdim=True))[:, 0]
    means = torch.stack([share.sum(1) @ positions, share.sum(2) @ positions], 1)
    squares = share.sum(1) @ positions**2 + share.sum(2) @ positions**2
    return means / (SIDE / 2), (squares - means.square().sum(1)).sqrt()


def _turned(ink: Tensor, centre: Tensor, size: Tensor, angle: float, wide: float, high: float) -> Tensor:
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[wide * cosine, -wide * sine], [high * sine, high * cosine]])
    affine = torch.cat([matrix * size.view(-1, 1, 1), centre[:, :, None]], 2)
    where = F.affine_grid(affine, list(ink.shape), align_corners=False)
    return F.grid_sample(ink, where, align_corners=False)


def _rows(ink: Tensor) -> Tensor:
    """Average to an example's resolution, and make each row of mean 0 and length 1."""
    rows = F.avg_pool2d(ink, 3, stride=2, padding=1).flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    return rows / rows.norm(dim=1, keepdim=True)


def alike(characters: str, slack: float = 0.0) -> Tensor:
    """Say which characters look alike, [n, n]."""
    folded = [unicodedata.normalize("NFKC", one).lower() for one in characters]
    is_same = torch.tensor([[one == other for other in folded] for one in folded])
    return correlations(characters) >= torch.where(is_same, SAME_LETTER, ALIKE) + slack


def main() -> None:
    """Keep each character that looks like none that was kept before it; write the list, and tell the rest."""
    characters = candidates()
    is_alike = alike(characters)
    kept: list[int] = []
    for index, one in enumerate(characters):
        like = [other for other in kept if is_alike[index, other]]
        if like:
            print(f"U+{ord(one):04X} {one} looks like", *(characters[other] for other in like))
        else:
            kept.append(index)
    chosen = "".join(characters[index] for index in kept)
    lines = [chosen[start : start + LINE] for start in range(0, len(chosen), LINE)]
    glyphs.CHARACTERS.write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{len(characters)} characters, {len(kept)} kept: {glyphs.CHARACTERS}")


if __name__ == "__main__":
    main()
