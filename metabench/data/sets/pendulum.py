"""Pendulum: it is swung towards an angle that is not shown, by a torque that may be reversed."""

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

NAME = "pendulum"

GRAVITY, SECONDS = 10.0, 0.05
"""Of the equations of gymnasium's Pendulum, as what follows: a step is this many seconds."""

STRONGEST, FASTEST = 2.0, 8.0
"""Of a torque, and of a turn, whichever way."""


@dataclass(frozen=True)
class Options(control.Settings):
    """How long it is swung, beside what all environments have."""

    horizon: int = setting(200, "steps of a trajectory", minimum=1, maximum=1_000)


def reset(parameters: Tensor, chance: Tensor) -> Tensor:
    """Start at any angle, turning slowly."""
    return (chance * 2 - 1) * chance.new_tensor([math.pi, 1.0])


def observe(parameters: Tensor, state: Tensor) -> Tensor:
    """See cosine and sine of the angle, which is 0 upright, and its speed."""
    angle, turn = state.unbind()
    return torch.stack([angle.cos(), angle.sin(), turn])


def move(state: Tensor, torque: Tensor, mass: Tensor, length: Tensor, seconds: float = SECONDS) -> Tensor:
    """Let a rod turn under a torque for a moment; the new speed carries the angle on."""
    angle, turn = state.unbind()
    turning = 3 * GRAVITY / (2 * length) * angle.sin() + 3 / (mass * length**2) * torque
    turn = (turn + seconds * turning).clamp(-FASTEST, FASTEST)
    return torch.stack([angle + seconds * turn, turn])


def step(parameters: Tensor, state: Tensor, action: Tensor, chance: Tensor) -> tuple[Tensor, ...]:
    """Turn; what is away from the wanted angle before that, fast or strong costs its square."""
    sign, target, mass, length = parameters.unbind()
    torque = (sign * action[0]).clamp(-STRONGEST, STRONGEST)
    away = (state[0] - target + math.pi).remainder(2 * math.pi) - math.pi
    cost = away**2 + 0.1 * state[1] ** 2 + 0.001 * torque**2
    return move(state, torque, mass, length), -cost, torch.zeros_like(cost)


@cache
def environment(options: Options) -> Environment:
    """Return the environment that options describe; of the same, the very same."""
    return control.environment(
        options,
        n_parameters=4,
        reset=reset,
        observe=observe,
        step=step,
        n_observed=3,
        n_actions=1,
        is_discrete=False,
        n_start=2,
    )


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Draw the environments; no downloaded data is needed."""
    return control.splits(
        f"{NAME}/{split}",
        environment(options),
        options,
        lambda n, generator: control.draw_hidden(n, generator, math.pi),
        lambda one: f"{control.describe_hidden(one)}, {options.horizon} steps",
    )


DATASET = Dataset(
    name=NAME,
    summary="control: a pendulum is to be swung to an angle that is not shown, by a torque of which it is "
    "not said whether it is reversed; mass and length differ, too; the equations are those of gymnasium's "
    "Pendulum, about another angle; needs no download",
    size="24,000 environments",
    licence="made by this package",
    url="https://gymnasium.farama.org/environments/classic_control/pendulum/",
    citation="Towers et al. 2024, Gymnasium: A Standard Interface for Reinforcement Learning Environments",
    splits=("uniform",),
    options=Options,
    load=load,
    kind_of=lambda options: "control",
    has_pictures=False,
)
