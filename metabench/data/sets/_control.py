"""What data sets of control share: settings of learning by trajectories, and splits of drawn parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from metabench.core import Split, Splits, seeds, setting
from metabench.core.control import BASELINES, SURROGATES, Environment
from metabench.data.reading.splits import make_splits

SHARE = 10
"""How many times fewer environments meta-validation and meta-test have than meta-train."""


@dataclass(frozen=True)
class Settings:
    """How returns become a loss, the same for all algorithms that are compared."""

    environments: int = setting(
        20_000, "environments in meta-train; a tenth of that in each of the other splits", minimum=SHARE
    )
    seed: int = setting(0, "draws the environments", minimum=0, maximum=2**63 - 1)
    horizon: int = setting(100, "steps of a trajectory", minimum=1, maximum=1_000)
    gamma: float = setting(
        0.99, "discount of rewards in learning; returns are reported without", minimum=0, maximum=1
    )
    gae: float = setting(1.0, "lambda of generalised advantages; 1: returns to go", minimum=0, maximum=1)
    baseline: str = setting(
        "linear",
        "what is subtracted of returns: a linear fit by observation and time, their mean at each time, zero",
        choices=BASELINES,
    )
    surrogate: str = setting(
        "likelihood_ratio",
        "loss of a policy: all have the same gradient, and other second derivatives",
        choices=tuple(SURROGATES),
    )
    log_std: float = setting(
        0.0, "logarithm of a policy's first standard deviation, where actions are numbers", maximum=5
    )


def learning(options: Settings) -> dict[str, Any]:
    """Return the fields of `Environment` that are settings."""
    names = {one.name for one in fields(Settings)} & {*Environment._fields}
    return {name: getattr(options, name) for name in names}


def splits(
    name: str,
    environment: Environment,
    options: Settings,
    draw: Callable[[int, Any], Tensor],
    describe: Callable[[list[float]], str],
    meta_test: Tensor | None = None,
) -> Splits:
    """Draw the parameters of all environments; environment i does not depend on how many there are.

    Args:
        draw: how many, by which generator -> float64 [n, D].
        describe: parameters -> words.
        meta_test: others in place of drawn ones.
    """
    few = options.environments // SHARE
    counts = {"meta_train": options.environments, "meta_validation": few, "meta_test": few}
    family = name.partition("/")[0]
    parts = {}
    for part, n in counts.items():
        table = draw(n, seeds.generator(family, options.seed, part)) if part != "meta_test" or meta_test is None else meta_test
        names = tuple(f"{part} {row}: {describe(one)}" for row, one in enumerate(table.tolist()))
        parts[part] = Split(table.float(), names, (family,) * len(table))
    return make_splits(name, **parts, kind="control", environment=environment)
