"""Navigation: the point that walks to a goal it is not shown, as in the MAML paper."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from metabench.core import Splits, setting
from metabench.core.control import Environment
from metabench.data import Dataset
from metabench.data.sets import _control as control

NAME = "navigation"

SIDE = 0.5
"""Goals lie in the square from minus to plus this."""

SPEED = 0.1
"""Of an action of one, and the furthest that a step leads along an axis."""

NEAR = 0.01
"""Of the goal along both axes, where a trajectory may end."""


@dataclass(frozen=True)
class Options(control.Settings):
    """When a walk ends, beside what all environments have."""

    horizon: int = setting(100, "steps of a trajectory", minimum=1, maximum=1_000)
    stop_at_goal: bool = setting(True, "whether a trajectory ends at the goal, as the authors' does")


def reset(goal: Tensor, chance: Tensor) -> Tensor:
    """Start at the origin."""
    return torch.zeros_like(goal)


def observe(goal: Tensor, place: Tensor) -> Tensor:
    """See one's place."""
    return place


def step(stops: bool, goal: Tensor, place: Tensor, action: Tensor, chance: Tensor) -> tuple[Tensor, ...]:
    """Move; the reward is minus the distance from the goal after the move."""
    place = place + (SPEED * action).clamp(-SPEED, SPEED)
    away = goal - place
    is_there = (away.abs() < NEAR).all() & stops
    return place, -away.square().sum().sqrt(), is_there.to(place.dtype)


def best(horizon: int, goal: Tensor) -> Tensor:
    """Return what walking straight is worth, along both axes as fast as may be."""
    walked = SPEED * torch.arange(1, horizon + 1, device=goal.device, dtype=goal.dtype)
    return -(goal.abs() - walked[:, None]).clamp(min=0).norm(dim=1).sum()


@cache
def environment(options: Options) -> Environment:
    """Return the environment that options describe; of the same, the very same."""
    return control.environment(
        options,
        n_parameters=2,
        reset=reset,
        observe=observe,
        step=partial(step, options.stop_at_goal),
        n_observed=2,
        n_actions=2,
        is_discrete=False,
        is_plane=True,
        best=partial(best, options.horizon),
    )


def draw(n: int, generator: Generator) -> Tensor:
    """Draw goals, uniform in the square."""
    return (torch.rand(n, 2, generator=generator, dtype=torch.float64) * 2 - 1) * SIDE


def published() -> Tensor:
    """Return the 40 goals that the paper's curves are of."""
    return torch.from_numpy(np.random.RandomState(1).uniform(-SIDE, SIDE, (40, 2)))


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Draw the goals; no downloaded data is needed."""
    ends = f"{options.horizon} steps" + (" or at the goal" if options.stop_at_goal else "")
    return control.splits(
        f"{NAME}/{split}",
        environment(options),
        options,
        draw,
        lambda goal: f"goal ({goal[0]:.3f}, {goal[1]:.3f}), {ends}",
        published() if split == "published" else None,
    )


DATASET = Dataset(
    name=NAME,
    summary="control: a point walks in the plane to a goal that it is not shown; the reward is minus the "
    "distance, goals are uniform in a square; in the split `published` meta-test is of the 40 goals of the "
    "paper's curves; needs no download",
    size="24,000 goals",
    licence="made by this package",
    url="https://arxiv.org/abs/1703.03400",
    citation="Finn, Abbeel and Levine 2017, Model-Agnostic Meta-Learning, section 5.3.1",
    splits=("uniform", "published"),
    options=Options,
    load=load,
    kind_of=lambda options: "control",
    has_pictures=False,
)
