"""What the numbers of arrays become: bytes of pictures between black and white, or standardised bands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from metabench.core import MetabenchError, Moments, Split
from metabench.data.reading import fitting
from metabench.data.reading.cache import Array

WHITES = (1, 255, 1023, 4095, 16383, 65535)
"""What is white in images of usual depths."""

DARK = 16
"""The largest number of uint8 below which images come out nearly black."""


class Scale(NamedTuple):
    """Which numbers are black and white, 0 where the type says it."""

    black: float
    white: float


class Seen:
    """The numbers of images: whether they lie between black and white, and what they become."""

    def __init__(self, scale: Scale, kind: np.dtype[Any]) -> None:
        """Take the usual white of a type where none is set."""
        self.kind, self.black, self.is_set = kind, scale.black, bool(scale.white)
        self.white = scale.white or fitting.WHITE.get(kind.str[1:], 0)
        self.low, self.high = math.inf, -math.inf
        self.outside: list[int] = []

    def look(self, block: Array, rows: Sequence[int]) -> bool:
        """Look at the numbers of images, whose rows are for the message; say whether all can be scaled."""
        flat = block.reshape(len(block), -1)
        low, high = flat.min(1), flat.max(1)
        # What is no number makes both bounds that, and is not inside.
        self.low, self.high = (
            float(np.minimum(self.low, low.min())),
            float(np.maximum(self.high, high.max())),
        )
        is_inside = (low >= self.black) & (high <= self.white)
        self.outside += [row for row, inside in zip(rows, is_inside.tolist(), strict=True) if not inside]
        return not self.outside and self.white > self.black

    def scaled(self, block: Array) -> Array:
        """Return the numbers as bytes."""
        return fitting.scaled(block, self.black, self.white)

    def problems(self) -> list[str]:
        """Say what is wrong with the numbers, and which black and white would mend it."""
        said = f"images: {self.kind} in [{self.low:g}, {self.high:g}]"
        white = next((one for one in WHITES if self.high <= one), self.high)
        black = f" and black={-white if self.low >= -white else self.low:g}" * (self.low < 0)
        cure = f"set the number that is white, such as white={white:g}{black}"
        if math.isnan(self.high):
            cure = "put numbers in place of what is none"
        if not self.white:
            return [f"{said}: of this type it is not clear which number is white; {cure}"]
        if self.white <= self.black:
            return [f"black={self.black:g} and white={self.white:g}: white must be the larger"]
        if self.outside:
            beyond = f"{len(self.outside)} images, the first image {min(self.outside)}"
            return [f"{said}: {beyond}, are not within [{self.black:g}, {self.white:g}]; {cure}"]
        if self.kind == np.uint8 and 0 < self.high < DARK and not self.is_set:
            as_is = "white=255 to take them as they are"
            return [f"{said}, of 255: nearly black; set white={self.high:g}, or {as_is}"]
        return []


class Bands:
    """The numbers of images that are no pictures: whether all are numbers."""

    def __init__(self) -> None:
        """Have seen none."""
        self.strange: list[int] = []

    def look(self, block: Array, rows: Sequence[int]) -> bool:
        """Look at the numbers of images, whose rows are for the message; say whether all are finite."""
        is_finite = np.asarray(np.isfinite(block.reshape(len(block), -1).astype(np.float32)).all(1))
        self.strange += [row for row, finite in zip(rows, is_finite.tolist(), strict=True) if not finite]
        return not self.strange

    def scaled(self, block: Array) -> Array:
        """Return the numbers as float32."""
        return block.astype(np.float32)

    def problems(self) -> list[str]:
        """Say in which images there are others than finite numbers."""
        if not self.strange:
            return []
        return [
            f"images: {len(self.strange)} images, the first image {min(self.strange)}, hold what is no "
            "finite number of 32 bits; put numbers in its place"
        ]


def standardised(parts: Mapping[str, Split]) -> tuple[dict[str, Split], Moments]:
    """Take from each band its mean over meta-train, and divide it by its deviation there.

    Without a meta-train bands stay as they are, until a run that is tested on them has its own moments taken.
    """
    train = _examples(parts["meta_train"]).double()
    if not len(train):
        return dict(parts), as_they_are(parts["meta_test"].images.shape[2])
    mean, scale = train.mean((0, 2, 3)), train.std((0, 2, 3), correction=0)
    still = [str(band) for band, one in enumerate(scale.tolist()) if one <= 1e-12 * abs(float(mean[band]))]
    if still:
        raise MetabenchError(f"images: bands {', '.join(still)} are constant in meta-train; leave them out")
    moments = Moments(tuple(mean.tolist()), tuple(scale.tolist()))
    return {part: moved(split, as_they_are(len(mean)), moments) for part, split in parts.items()}, moments


def as_they_are(n: int) -> Moments:
    """Return the moments of numbers that are not standardised."""
    return Moments((0.0,) * n, (1.0,) * n)


def moved(split: Split, before: Moments, after: Moments) -> Split:
    """Standardise numbers by other moments than they were: of each band, or of a row's first columns."""
    n = len(before.mean)
    shape = (n, 1, 1) if split.has_pictures else (n,)
    parts = (torch.tensor(one, dtype=torch.float64).view(shape) for one in (*before, *after))
    mean, scale, new_mean, new_scale = parts
    images = split.images.clone()
    numbers = images if split.has_pictures else images[..., :n]
    numbers.copy_((numbers.double() * scale + mean - new_mean) / new_scale)
    if split.counts is not None:  # beyond them are zeros
        images[torch.arange(images.shape[1]) >= split.counts[:, None]] = 0
    return split._replace(images=images)


def _examples(split: Split) -> torch.Tensor:
    """Return the images that there are: [n, C, H, W]."""
    if split.counts is None:
        return split.images.flatten(0, 1)
    return split.images[torch.arange(split.images.shape[1]) < split.counts[:, None]]
