"""Sparse navigation: a point that is paid only once it has left the middle towards the right corner."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor

from metabench.core import Splits, setting
from metabench.core.control import Environment
from metabench.data import Dataset
from metabench.data.sets import _control as control

NAME = "navigation_sparse"

CORNER = 2.0
"""Of a goal, along each axis: one of the four corners of a square."""

START = 0.2
"""Trajectories start within this of the middle along each axis; a step leads as far at most."""

SILENT = 0.5
"""Within this of the middle, by the sum over axes, nothing is paid."""


@dataclass(frozen=True)
class Options(control.Settings):
    """How long a walk is, beside what all environments have."""

    horizon: int = setting(100, "steps of a trajectory", minimum=1, maximum=1_000)


def reset(goal: Tensor, chance: Tensor) -> Tensor:
    """Start near the middle."""
    return (chance * 2 - 1) * START


def observe(goal: Tensor, place: Tensor) -> Tensor:
    """See one's place."""
    return place


def step(goal: Tensor, place: Tensor, action: Tensor, chance: Tensor) -> tuple[Tensor, ...]:
    """Move; the reward is the progress towards the goal, where it is the nearest corner of those outside."""
    moved = place + action.clamp(-START, START)
    # The nearest corner has the signs of the place.
    is_paid = (moved.abs().sum() >= SILENT) & (moved * goal > 0).all()
    progress = (goal - place).norm() - (goal - moved).norm()
    return moved, progress * is_paid, torch.zeros_like(progress)


@cache
def environment(options: Options) -> Environment:
    """Return the environment that options describe; of the same, the very same."""
    return control.environment(
        options,
        n_parameters=2,
        reset=reset,
        observe=observe,
        step=step,
        n_observed=2,
        n_actions=2,
        is_discrete=False,
        n_start=2,
    )


def draw(n: int, generator: Generator) -> Tensor:
    """Draw corners, each as likely."""
    return (torch.randint(2, (n, 2), generator=generator).double() * 2 - 1) * CORNER


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Draw the goals; no downloaded data is needed."""
    return control.splits(
        f"{NAME}/{split}",
        environment(options),
        options,
        draw,
        lambda goal: f"goal ({goal[0]:+.0f}, {goal[1]:+.0f}), {options.horizon} steps",
    )


DATASET = Dataset(
    name=NAME,
    summary="control: a point that starts in the middle of a square is paid for what it comes nearer to one "
    "of the four corners, but only once it is outside and that corner is the nearest, so that its first "
    "trajectories have to look around; all splits have the same four goals; needs no download",
    size="24,000 environments of 4 goals",
    licence="made by this package",
    url="https://arxiv.org/abs/1810.06784",
    citation="Rothfuss et al. 2019, ProMP: Proximal Meta-Policy Search, section 6.2",
    splits=("corners",),
    options=Options,
    load=load,
    kind_of=lambda options: "control",
    has_pictures=False,
)
