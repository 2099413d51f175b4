"""What data sets of control share: settings of learning by trajectories, and splits of drawn parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from metabench.core import Split, Splits, seeds, setting
from metabench.core.control import BASELINES, SURROGATES, Environment
from metabench.data.reading.splits import make_splits

SHARE = 10
"""How many times fewer environments meta-validation and meta-test have than meta-train."""


@dataclass(frozen=True)
class Settings:
    """How many environments there are, and how returns become a loss: alike for all that are compared."""

    environments: int = setting(
        20_000, "environments in meta-train; a tenth of that in each of the other splits", minimum=SHARE
    )
    seed: int = setting(0, "draws the environments", minimum=0, maximum=2**63 - 1)
    gamma: float = setting(
        0.99, "discount of rewards in learning; returns are reported without", minimum=0, maximum=1
    )
    gae: float = setting(1.0, "lambda of generalised advantages; 1: returns to go", minimum=0, maximum=1)
    baseline: str = setting(
        "linear",
        "what is subtracted of returns: a linear fit by observation and time, their mean at each time, zero; "
        "none: nor are they standardised",
        choices=BASELINES,
    )
    surrogate: str = setting(
        "likelihood_ratio",
        "loss of a policy: all have the same gradient, and other second derivatives",
        choices=tuple(SURROGATES),
    )
    log_std: float = setting(
        0.0,
        "logarithm of a policy's first standard deviation, where actions are numbers",
        minimum=-10,
        maximum=5,
    )
    oracle: bool = setting(
        False, "show an environment's parameters beside the observation: who sees them need not adapt"
    )


def environment(options: Settings, n_parameters: int, n_observed: int, **about: Any) -> Environment:
    """Make an environment of what it is and of how options have it learnt."""
    names = {one.name for one in fields(options)} & {*Environment._fields}
    learnt = {name: getattr(options, name) for name in names}
    if options.oracle:
        about["observe"] = partial(_observe_all, about["observe"])
        n_observed += n_parameters
    return Environment(n_observed=n_observed, **about, **learnt)


def _observe_all(observe: Callable[[Tensor, Tensor], Tensor], parameters: Tensor, state: Tensor) -> Tensor:
    return torch.cat([observe(parameters, state), parameters])


def draw_hidden(n: int, generator: Generator, furthest: float) -> Tensor:
    """Draw what machines of n environments hide: [n, 4].

    In columns: whether actions are reversed (-1 or 1), a target within `furthest` of 0, and factors of mass
    and length.
    """
    u = torch.rand(n, 4, generator=generator, dtype=torch.float64)
    sign = torch.where(u[:, 0] < 0.5, -1.0, 1.0)
    return torch.stack([sign, (u[:, 1] * 2 - 1) * furthest, u[:, 2] + 0.5, u[:, 3] + 0.5], 1)


def describe_hidden(parameters: list[float]) -> str:
    """Say what a machine hides."""
    sign, target, mass, length = parameters
    steering = "reversed" if sign < 0 else "plain"
    return f"{steering}, target {target:.3f}, mass {mass:.2f}, length {length:.2f}"


def splits(
    name: str,
    environment: Environment,
    options: Settings,
    draw: Callable[[int, Generator], Tensor],
    describe: Callable[[list[float]], str],
    meta_test: Tensor | None = None,
) -> Splits:
    """Draw the parameters of all environments; environment i does not depend on how many there are.

    Args:
        draw: how many, by which generator -> float64 [n, D].
        describe: parameters -> words, which say all that differs between environments of other options.
        meta_test: others in place of drawn ones.
    """
    few, family = options.environments // SHARE, name.partition("/")[0]
    counts = {"meta_train": options.environments, "meta_validation": few, "meta_test": few}
    tables = {part: draw(n, seeds.generator(family, options.seed, part)) for part, n in counts.items()}
    if meta_test is not None:
        tables["meta_test"] = meta_test
    parts = {}
    for part, table in tables.items():
        names = (f"{part} {row}: {describe(one)}" for row, one in enumerate(table.tolist()))
        parts[part] = Split(table.float(), tuple(names), (family,) * len(table))
    return make_splits(name, **parts, kind="control", environment=environment)
