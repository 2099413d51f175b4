"""Sinusoids: the regression problem of the MAML paper, from a fixed table of functions and points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from metabench.core import Split, Splits, seeds, setting
from metabench.data import Dataset
from metabench.data.reading.splits import make_splits

NAME = "sinusoid"

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, math.pi)
X = (-5.0, 5.0)

SHARE = 10
"""How many times fewer functions meta-validation and meta-test have than meta-train."""


@dataclass(frozen=True)
class Options:
    """How many functions there are, and at how many points each is known."""

    functions: int = setting(
        20_000, "functions in meta-train; a tenth of that in each of the other splits", minimum=SHARE
    )
    points: int = setting(50, "points at which each function is known", minimum=2, maximum=1_000)
    seed: int = setting(0, "draws the functions and the points", minimum=0, maximum=2**63 - 1)


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Draw the table; no downloaded data is needed."""
    few = options.functions // SHARE
    counts = {"meta_train": options.functions, "meta_validation": few, "meta_test": few}
    parts = {part: _draw(part, n_functions, options) for part, n_functions in counts.items()}
    return make_splits(f"{NAME}/{split}", **parts, kind="regression")


def _draw(part: str, n_functions: int, options: Options) -> Split:
    """Draw float32 [function, point, 2], of x and y; function i does not depend on how many there are."""
    generator = seeds.generator(NAME, options.seed, options.points, part)
    # One row a function; float64, so that the last bit of a processor's sine is rounded away.
    u = torch.rand(n_functions, 2 + options.points, generator=generator, dtype=torch.float64)
    amplitude, phase, x = _within(u[:, :1], AMPLITUDE), _within(u[:, 1:2], PHASE), _within(u[:, 2:], X)
    table = torch.stack([x, amplitude * torch.sin(x - phase)], dim=-1).float()
    shapes = zip(amplitude.flatten().tolist(), phase.flatten().tolist(), strict=True)
    names = tuple(f"{part} {index}: {a:.3f} sin(x - {p:.3f})" for index, (a, p) in enumerate(shapes))
    return Split(table, names, (NAME,) * n_functions)


def _within(u: torch.Tensor, bounds: tuple[float, float]) -> torch.Tensor:
    low, high = bounds
    return low + (high - low) * u


DATASET = Dataset(
    name=NAME,
    summary="regression of y = A sin(x - phase), A in [0.1, 5], phase in [0, pi], x in [-5, 5]; functions "
    "and points come from a fixed table, so that tasks can be frozen and hashed; needs no download",
    size="24,000 functions x 50 points",
    licence="made by this package",
    url="https://arxiv.org/abs/1703.03400",
    citation="Finn, Abbeel and Levine 2017, Model-Agnostic Meta-Learning, section 5.1",
    splits=("maml",),
    options=Options,
    load=load,
    kind_of=lambda options: "regression",
)
