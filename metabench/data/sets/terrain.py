"""Terrain: land cover that is computed, the same textures in regions with colours and light of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from metabench.core import Pictures, Splits, seeds, setting
from metabench.data import Dataset
from metabench.data.reading import splits
from metabench.data.reading.cache import Array, Key, cached

NAME = "terrain"
VERSION = 1
"""Raised when the same options give other bytes."""


@dataclass(frozen=True)
class Options:
    """How many regions there are, what is seen of each, and what splits have of their own."""

    n_domains: int = setting(12, "regions in all splits together", minimum=3, maximum=1_000)
    n_examples: int = setting(20, "pictures of each class in each region", minimum=2, maximum=1_000)
    size: int = setting(32, "side in pixels", minimum=8, maximum=256)
    split_by: str = setting(
        "domain",
        "class: splits have classes of their own, each with all regions; domain: regions of their own, each "
        "with all classes",
        choices=("class", "domain"),
    )
    seed: int = setting(0, "draws regions and pictures, and splits them", minimum=0, maximum=2**63 - 1)
    meta_train: float = setting(0.5, "share of the classes or regions", above=0, maximum=1)
    meta_validation: float = setting(0.25, "share of the classes or regions", above=0, maximum=1)


class Region(NamedTuple):
    """What all pictures of a region have in common, whatever they show."""

    hue: float  # angle by which all colours are turned about grey
    light: float  # factor of all pixels
    scale: float  # factor of lengths on the ground
    blur: float  # of a Gaussian, in pixels
    noise: float


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Draw the pictures, or read them from the cache; no downloaded data is needed."""
    problems = splits.shares_problems(options)
    regions = [f"region{number:02d}" for number in range(options.n_domains)]
    domains = {f"{region}/{one}": region for region in regions for one in CLASSES}
    if options.split_by == "domain":
        cut, wrong = splits.by_domain(domains, (), options)
    else:
        dealt = splits.by_seed([*CLASSES], options)
        cut = {part: [f"{region}/{one}" for region in regions for one in dealt[part]] for part in dealt}
        wrong = splits.class_problems(dealt, "change meta_train and meta_validation")
    if problems + wrong:
        splits.refuse(NAME, problems + wrong)
    drawn = (options.n_domains, options.n_examples, options.size, options.seed)
    key = Key("", (VERSION, torch.__version__, drawn))
    table = cached(NAME, key, lambda: np.concatenate([_draw(region, options) for region in regions]))
    counts = dict.fromkeys(domains, options.n_examples)
    kind = splits.Kind(is_by_domain=options.split_by == "domain")
    return splits.splits_of(NAME, key, table, counts, cut, Pictures(), split, domains, kind)


def _draw(region: str, options: Options) -> Array:
    """Draw uint8 [class, example, 3, H, W]; a region does not depend on the others."""
    u = torch.rand(5, generator=seeds.generator(NAME, options.seed, region), dtype=torch.float64).tolist()
    seen = Region(
        2 * math.pi * u[0], 0.7 + 0.5 * u[1], 0.75 + 0.6 * u[2], 0.3 + 0.7 * u[3], 0.02 + 0.06 * u[4]
    )
    rows = []
    for name, (colour, ground) in CLASSES.items():
        generator = seeds.generator(NAME, options.seed, region, name, options.n_examples, options.size)
        height = ground(generator, options.n_examples, options.size, seen.scale)
        rows.append(_seen(height, torch.tensor(colour, dtype=torch.float64), seen, generator))
    return torch.stack(rows).mul(255).round().to(torch.uint8).numpy()


def _seen(height: Tensor, colour: Tensor, region: Region, generator: Generator) -> Tensor:
    """Colour textures [n, H, W] of mean 0 and deviation 1 or less as a region shows them: [n, 3, H, W]."""
    shade = 1 + 0.25 * _blurred(height, region.blur)
    picture = region.light * (_turned(colour, region.hue)[:, None, None] * shade[:, None])
    noise = torch.rand(picture.shape, generator=generator, dtype=torch.float64) - 0.5
    return (picture + 2 * region.noise * noise).clamp(0, 1)


def _turned(colour: Tensor, angle: float) -> Tensor:
    """Turn a colour about the grey axis (Rodrigues' rotation)."""
    axis = torch.full((3,), 3**-0.5, dtype=colour.dtype)
    across = torch.linalg.cross(axis, colour)
    along = axis * (axis @ colour)
    return along + (colour - along) * math.cos(angle) + across * math.sin(angle)


def _frequencies(size: int) -> tuple[Tensor, Tensor]:
    """Return cycles a pixel of each Fourier coefficient, down and across: [H, W // 2 + 1]."""
    down, across = torch.fft.fftfreq(size, dtype=torch.float64), torch.fft.rfftfreq(size, dtype=torch.float64)
    rows, columns = torch.meshgrid(down, across, indexing="ij")
    return rows, columns


def _filtered(noise: Tensor, gain: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(noise) * gain, s=noise.shape[-2:])


def _blurred(height: Tensor, sigma: float) -> Tensor:
    down, across = _frequencies(height.shape[-1])
    return _filtered(height, torch.exp(-2 * (math.pi * sigma) ** 2 * (down**2 + across**2)))


def _standardised(height: Tensor) -> Tensor:
    height = height - height.mean((-2, -1), keepdim=True)
    return height / height.std((-2, -1), keepdim=True).clamp(min=1e-9)


def rough(
    generator: Generator, n: int, size: int, scale: float, power: float, stretch: float = 1.0
) -> Tensor:
    """Draw noise whose spectrum falls with a power of the frequency, longer across than down by a factor."""
    noise = torch.rand(n, size, size, generator=generator, dtype=torch.float64) - 0.5
    down, across = _frequencies(size)
    frequency = torch.hypot(down / stretch, across * stretch).clamp(min=scale / size)
    return _standardised(_filtered(noise, frequency**-power))


def water(generator: Generator, n: int, size: int, scale: float) -> Tensor:
    """Draw what is nearly flat."""
    return 0.15 * rough(generator, n, size, scale, 1.0)


def fields(generator: Generator, n: int, size: int, scale: float) -> Tensor:
    """Draw stripes of any direction and phase."""
    return _waves(generator, n, size, 6 * scale, [0.0])


def streets(generator: Generator, n: int, size: int, scale: float) -> Tensor:
    """Draw a grid: two sets of stripes at a right angle, of which the brighter is seen."""
    return _waves(generator, n, size, 7 * scale, [0.0, math.pi / 2])


def crowns(generator: Generator, n: int, size: int, scale: float) -> Tensor:
    """Draw blobs: smooth noise with a threshold."""
    return _standardised((rough(generator, n, size, scale, 1.6) > 0.3).to(torch.float64)) + rough(
        generator, n, size, scale, 0.0
    )


def _waves(generator: Generator, n: int, size: int, length: float, angles: list[float]) -> Tensor:
    u = torch.rand(n, 2, 1, 1, generator=generator, dtype=torch.float64)
    down, across = torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 2, indexing="ij")
    turn, phase = math.pi * u[:, 0], 2 * math.pi * u[:, 1]
    sets = [
        torch.sin(
            2 * math.pi / length * (down * torch.sin(turn + one) + across * torch.cos(turn + one)) + phase
        )
        for one in angles
    ]
    return _standardised(torch.stack(sets).amax(0)) + 0.3 * rough(generator, n, size, 1.0, 1.0)


def _rough(power: float, stretch: float = 1.0) -> Callable[[Generator, int, int, float], Tensor]:
    return lambda generator, n, size, scale: rough(generator, n, size, scale, power, stretch)


CLASSES: Mapping[str, tuple[tuple[float, float, float], Callable[[Generator, int, int, float], Tensor]]] = {
    "water": ((0.25, 0.35, 0.55), water),
    "fields": ((0.55, 0.55, 0.30), fields),
    "urban": ((0.60, 0.55, 0.55), streets),
    "forest": ((0.25, 0.45, 0.25), crowns),
    "sand": ((0.65, 0.60, 0.45), _rough(0.0)),
    "grass": ((0.40, 0.55, 0.30), _rough(0.8)),
    "hills": ((0.50, 0.45, 0.35), _rough(2.0)),
    "dunes": ((0.65, 0.55, 0.40), _rough(1.5, 2.0)),
}
"""Classes to their colour, before a region turns it, and their texture."""

DATASET = Dataset(
    name=NAME,
    summary="textures of eight kinds of land cover in regions with colours, light and scale of their "
    "own, for splits by domain; needs no download",
    size="8 classes x 12 regions x 20, 32x32 in colour",
    licence="made by this package",
    url="",
    citation="made by this package",
    splits=("random",),
    options=Options,
    load=load,
)
