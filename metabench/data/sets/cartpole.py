"""Cart and pole: a pole is held up on a cart whose wanted place, and whose steering, are not shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from metabench.core import Splits, setting
from metabench.core.control import Environment
from metabench.data import Dataset
from metabench.data.sets import _control as control

NAME = "cartpole"

GRAVITY, FORCE, SECONDS = 9.8, 10.0, 0.02
"""Of the equations of gymnasium's CartPole, as what follows: a step is this many seconds."""

CART, POLE, HALF = 1.0, 0.1, 0.5
"""Mass of the cart, mass of the pole, half of its length; the latter two times the environment's factors."""

FURTHEST, STEEPEST = 2.4, math.radians(12)
"""Where a trajectory ends."""

START = 0.05
"""Each number of a state starts within this of 0."""

TARGET = 1.5
"""Wanted places are within this of the middle."""


@dataclass(frozen=True)
class Options(control.Settings):
    """How long a pole is held, beside what all environments have."""

    horizon: int = setting(200, "steps of a trajectory, at most", minimum=1, maximum=1_000)


def reset(parameters: Tensor, chance: Tensor) -> Tensor:
    """Start in the middle, nearly upright and nearly at rest."""
    return (chance * 2 - 1) * START


def observe(parameters: Tensor, state: Tensor) -> Tensor:
    """See place, speed, angle and its speed."""
    return state


def move(state: Tensor, force: Tensor, mass: Tensor, half: Tensor, seconds: float = SECONDS) -> Tensor:
    """Let cart and pole move under a force for a moment, by Euler's rule."""
    _, speed, angle, turn = state.unbind()
    total, sin, cos = CART + mass, angle.sin(), angle.cos()
    pushed = (force + mass * half * turn**2 * sin) / total
    turning = (GRAVITY * sin - cos * pushed) / (half * (4 / 3 - mass * cos**2 / total))
    pushed = pushed - mass * half * turning * cos / total
    return state + seconds * torch.stack([speed, pushed, turn, turning])


def step(parameters: Tensor, state: Tensor, action: Tensor, chance: Tensor) -> tuple[Tensor, ...]:
    """Push left or right; a step is worth 1 at the wanted place, and less with the distance from it."""
    sign, target, mass, length = parameters.unbind()
    force = FORCE * sign * (2 * action - 1)
    state = move(state, force, POLE * mass, HALF * length)
    has_ended = (state[0].abs() > FURTHEST) | (state[2].abs() > STEEPEST)
    reward = (1 - (state[0] - target).abs() / FURTHEST).clamp(min=0)
    return state, reward, has_ended.to(state.dtype)


@cache
def environment(options: Options) -> Environment:
    """Return the environment that options describe; of the same, the very same."""
    return control.environment(
        options,
        n_parameters=4,
        reset=reset,
        observe=observe,
        step=step,
        n_observed=4,
        n_actions=2,
        is_discrete=True,
        n_start=4,
    )


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Draw the environments; no downloaded data is needed."""
    return control.splits(
        f"{NAME}/{split}",
        environment(options),
        options,
        lambda n, generator: control.draw_hidden(n, generator, TARGET),
        lambda one: f"{control.describe_hidden(one)}, {options.horizon} steps",
    )


DATASET = Dataset(
    name=NAME,
    summary="control: a pole on a cart is to be held up near a place that is not shown, by pushes of which "
    "it is not said whether they are reversed; pole's mass and length differ, too; the equations are those "
    "of gymnasium's CartPole, the reward is this package's own; needs no download",
    size="24,000 environments",
    licence="made by this package",
    url="https://gymnasium.farama.org/environments/classic_control/cart_pole/",
    citation="Barto, Sutton and Anderson 1983, Neuronlike adaptive elements that can solve difficult "
    "learning control problems",
    splits=("uniform",),
    options=Options,
    load=load,
    kind_of=lambda options: "control",
    has_pictures=False,
)
