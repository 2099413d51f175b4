"""Bandits: arms that pay one or nothing, each with a chance of its own that a learner has to find out."""

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

NAME = "bandit"


@dataclass(frozen=True)
class Options(control.Settings):
    """How many arms there are; a trajectory is one pull."""

    arms: int = setting(5, "arms of a bandit", minimum=2, maximum=1_000)
    baseline: str = setting(
        "time",
        "what is subtracted of the pulls' rewards: their mean, or zero; none: nor are they standardised",
        choices=("time", "zero", "none"),
    )


def reset(chances: Tensor, chance: Tensor) -> Tensor:
    """Begin; there is nothing that a pull could change."""
    return chances.new_zeros(1)


def observe(chances: Tensor, state: Tensor) -> Tensor:
    """See the same at each pull."""
    return torch.ones_like(state)


def step(chances: Tensor, state: Tensor, arm: Tensor, chance: Tensor) -> tuple[Tensor, ...]:
    """Pull an arm, which pays 1 with its chance."""
    reward = (chance[0] < chances.gather(0, arm[None])[0]).to(chances.dtype)
    return state, reward, torch.ones_like(reward)


def best(chances: Tensor) -> Tensor:
    """Return what the best arm pays."""
    return chances.max()


@cache
def environment(options: Options) -> Environment:
    """Return the environment that options describe; of the same, the very same."""
    return control.environment(
        options,
        n_parameters=options.arms,
        n_observed=1,
        reset=reset,
        observe=observe,
        step=step,
        horizon=1,
        n_actions=options.arms,
        is_discrete=True,
        n_world=1,
        best=best,
    )


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Draw the arms' chances; no downloaded data is needed."""

    def draw(n: int, generator: Generator) -> Tensor:
        return torch.rand(n, options.arms, generator=generator, dtype=torch.float64)

    def describe(chances: list[float]) -> str:
        return f"arms that pay {', '.join(f'{one:.3f}' for one in chances)}"

    return control.splits(f"{NAME}/{split}", environment(options), options, draw, describe)


DATASET = Dataset(
    name=NAME,
    summary="control: bandits whose arms pay 1 with a chance that is uniform in [0, 1]; a trajectory is one "
    "pull, so that a return is the mean reward of a pull; needs no download",
    size="24,000 bandits of 5 arms",
    licence="made by this package",
    url="https://arxiv.org/abs/1707.03141",
    citation="Mishra et al. 2018, A Simple Neural Attentive Meta-Learner, section 5.2.1",
    splits=("uniform",),
    options=Options,
    load=load,
    kind_of=lambda options: "control",
    has_pictures=False,
)
