"""Tabular processes: a few states and actions, whose transitions and rewards a learner has to find out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from metabench.core import Splits, setting
from metabench.core.control import Environment
from metabench.data import Dataset
from metabench.data.sets import _control as control

NAME = "tabular"


@dataclass(frozen=True)
class Options(control.Settings):
    """How large a process is, and how long it goes on."""

    environments: int = setting(
        2_000, "processes in meta-train; a tenth of that in each of the other splits", minimum=control.SHARE
    )
    states: int = setting(10, "states of a process", minimum=1, maximum=100)
    actions: int = setting(5, "actions in each state", minimum=2, maximum=100)
    horizon: int = setting(10, "steps of a trajectory", minimum=1, maximum=1_000)


def reset(parameters: Tensor, chance: Tensor) -> Tensor:
    """Begin in the first state."""
    return chance.new_zeros((), dtype=torch.int64)


def observe(n_states: int, parameters: Tensor, state: Tensor) -> Tensor:
    """See which state it is."""
    return (torch.arange(n_states, device=state.device) == state).to(parameters.dtype)


def step(
    n_states: int, n_actions: int, parameters: Tensor, state: Tensor, action: Tensor, chance: Tensor
) -> tuple[Tensor, ...]:
    """Get a reward that is normal about the pair's mean, and go to a state that the pair makes likely."""
    transitions, means = table(parameters, n_states, n_actions)
    pair = (state * n_actions + action)[None]
    likely = transitions.gather(0, pair[:, None].expand(1, n_states))[0]
    following = (chance[0] > likely.cumsum(0)[:-1]).sum()  # the last takes what rounding leaves
    reward = means.gather(0, pair)[0] + torch.special.ndtri(chance[1])
    return following, reward, torch.zeros_like(reward)


def table(parameters: Tensor, n_states: int, n_actions: int) -> tuple[Tensor, Tensor]:
    """Take parameters apart: chances [pair of state and action, state], mean rewards [pair]."""
    n_pairs = n_states * n_actions
    transitions, means = parameters.split([n_pairs * n_states, n_pairs])
    return transitions.view(n_pairs, n_states), means


def best(n_states: int, n_actions: int, horizon: int, parameters: Tensor) -> Tensor:
    """Return the largest expected return from the first state, by backward induction."""
    transitions, means = table(parameters, n_states, n_actions)
    value = parameters.new_zeros(n_states)
    for _ in range(horizon):
        value = (means + transitions @ value).view(n_states, n_actions).amax(1)
    return value[0]


def draw(n_states: int, n_actions: int, n: int, generator: Generator) -> Tensor:
    """Draw transitions, Dirichlet of ones, and mean rewards, normal about 1: [n, D]."""
    n_pairs = n_states * n_actions
    # One row a process; as many exponentials, over their sum, are uniform among all distributions.
    numbers = torch.empty(n, n_pairs * (n_states + 1), dtype=torch.float64).uniform_(generator=generator)
    numbers = numbers.clamp(min=2.0**-53)
    exponentials = -numbers[:, : n_pairs * n_states].log().view(n, n_pairs, n_states)
    transitions = exponentials / exponentials.sum(-1, keepdim=True)
    means = 1 + torch.special.ndtri(numbers[:, n_pairs * n_states :])
    return torch.cat([transitions.flatten(1), means], 1)


@cache
def environment(options: Options) -> Environment:
    """Return the environment that options describe; of the same, the very same."""
    return control.environment(
        options,
        n_parameters=options.states * options.actions * (options.states + 1),
        n_observed=options.states,
        reset=reset,
        observe=partial(observe, options.states),
        step=partial(step, options.states, options.actions),
        n_actions=options.actions,
        is_discrete=True,
        n_world=2,
        best=partial(best, options.states, options.actions, options.horizon),
    )


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Draw the processes; no downloaded data is needed."""
    return control.splits(
        f"{NAME}/{split}",
        environment(options),
        options,
        partial(draw, options.states, options.actions),
        lambda _: f"{options.states} states, {options.actions} actions, {options.horizon} steps",
    )


DATASET = Dataset(
    name=NAME,
    summary="control: Markov decision processes of a few states and actions, with random transitions and "
    "normal rewards; needs no download",
    size="2,400 processes of 10 states and 5 actions",
    licence="made by this package",
    url="https://arxiv.org/abs/1611.02779",
    citation="Duan et al. 2016, RL2: Fast Reinforcement Learning via Slow Reinforcement Learning, sec. 3.2",
    splits=("uniform",),
    options=Options,
    load=load,
    kind_of=lambda options: "control",
    has_pictures=False,
)
