"""The families of pictures, one file each: functions from what was read to figures with their words."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure


class Picture(NamedTuple):
    """A figure, and what is said of it."""

    name: str  # of its files
    title: str
    caption: str  # what to see, and how to read it
    alt: str  # for who cannot see it: the finding itself
    draw: Callable[[float], Figure]  # at a width in inches: that of a desk's screen, or of a telephone's


class Omitted(NamedTuple):
    """A picture that is left out."""

    title: str
    why: str


Drawn = list[Picture | Omitted]
