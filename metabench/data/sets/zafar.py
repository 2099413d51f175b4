"""Zafar: people in the plane with a wanted outcome and a group, which is what their place turned around says.

Each task turns by an angle of its own, so that how much fairness costs differs between tasks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from metabench.core import SPLITS, Split, Splits, seeds, setting
from metabench.data import Dataset
from metabench.data.reading.splits import make_splits

NAME = "zafar"

MEANS = ((-2.0, -2.0), (2.0, 2.0))
COVARIANCES = (((10.0, 1.0), (1.0, 3.0)), ((5.0, 1.0), (1.0, 5.0)))
"""Of the Gaussian of each label, the last being the wanted outcome."""

ANGLE = (math.pi / 8, math.pi / 2)
SHIFT, SCALE = 1.0, (0.7, 1.4)
"""Of a task's plane: a normal shift of such a deviation, and a factor."""

SHARE = 5
"""How many times fewer tasks meta-validation and meta-test have than meta-train."""

LABELS = ("denied", "granted")


@dataclass(frozen=True)
class Options:
    """How many tasks there are, and of how many people."""

    tasks: int = setting(
        500, "tasks of meta-train; a fifth as many of meta-validation and meta-test", minimum=10
    )
    people: int = setting(60, "of a task", minimum=4, maximum=10_000)
    seed: int = setting(0, "draws the tasks", minimum=0, maximum=2**63 - 1)


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Draw the tasks of all splits."""
    parts = {
        part: draw(options, part, options.tasks if part == SPLITS[0] else options.tasks // SHARE)
        for part in SPLITS
    }
    return make_splits(f"{NAME}/{split}", **parts)


def draw(options: Options, part: str, n_tasks: int) -> Split:
    """Draw float32 [task, person, 4], of place, label and group."""
    generator = seeds.generator(NAME, options.seed, options.people, part)
    n = options.people
    y = (torch.rand(n_tasks, n, generator=generator) < 0.5).long()
    y[:, 0], y[:, 1] = 0, 1  # every task has both
    factors = torch.linalg.cholesky(torch.tensor(COVARIANCES))
    noise = torch.randn(n_tasks, n, 2, 1, generator=generator)
    x = torch.tensor(MEANS)[y] + (factors[y] @ noise)[..., 0]
    angle = _within(torch.rand(n_tasks, generator=generator), ANGLE)
    is_protected = torch.rand(n_tasks, n, generator=generator) < protection(x, angle)
    shift = SHIFT * torch.randn(n_tasks, 1, 2, generator=generator)
    x = _within(torch.rand(n_tasks, 1, 1, generator=generator), SCALE) * x + shift
    table = torch.cat([x, y[..., None], is_protected[..., None]], dim=-1).float()
    names = tuple(f"{part} {number}: {math.degrees(one):.0f}°" for number, one in enumerate(angle.tolist()))
    return Split(table, names, (NAME,) * n_tasks, labels=LABELS, has_group=True)


def protection(x: Tensor, angle: Tensor) -> Tensor:
    """Return how likely people at x [T, n, 2] are protected: as x turned is to be of the denied."""
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # [T, 2, 2]
    turned = x @ turn.transpose(-1, -2)
    densities = [
        torch.distributions.MultivariateNormal(torch.tensor(mean), torch.tensor(covariance)).log_prob(turned)
        for mean, covariance in zip(MEANS, COVARIANCES, strict=True)
    ]
    return (densities[0] - densities[1]).sigmoid()


def _within(u: Tensor, bounds: tuple[float, float]) -> Tensor:
    low, high = bounds
    return low + (high - low) * u


DATASET = Dataset(
    name=NAME,
    summary="people in the plane, a wanted outcome, and a group that tasks tie to it by an angle of their "
    "own: fairness without a file; nothing is downloaded",
    size="700 tasks x 60 people",
    licence="made by this package",
    url="https://arxiv.org/abs/1507.05259",
    citation="Zafar et al. 2017, Fairness Constraints, section 4.1; tasks by the angle are this package's",
    splits=("angles",),
    options=Options,
    load=load,
    has_group=lambda options: True,
    has_pictures=False,
)
