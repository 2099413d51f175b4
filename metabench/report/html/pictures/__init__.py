"""The families of pictures, one file each: functions from what was read to figures with their words."""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.figure import Figure


class Picture(NamedTuple):
    """A figure, and what is said of it."""

    name: str  # of its files
    title: str
    caption: str  # what to see, and how to read it
    alt: str  # for who cannot see it: the finding itself
    figure: Figure


class Omitted(NamedTuple):
    """A picture that is left out."""

    title: str
    why: str


Drawn = list[Picture | Omitted]
