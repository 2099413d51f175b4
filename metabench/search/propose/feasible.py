"""Which settings are never trained: their network cannot be built, or would learn too many numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from metabench.core import MetabenchError, Splits, trees
from metabench.core.config import RunConfig, SearchSpace
from metabench.search import space as spaces
from metabench.training import features, inputs, loop
from metabench.training.inputs import Inputs

WhyInfeasible = Callable[[str, Mapping[str, Any]], str | None]
"""(algorithm, hyperparameters) -> why such a setting is not to be trained; None where it is."""

MOST_INFEASIBLE = 50
"""Settings that cannot be trained to each trial, before an algorithm tries no more."""


def all_are(algorithm: str, hyperparameters: Mapping[str, Any]) -> None:
    """Say of no setting why it is not to be trained."""


def of(space: SearchSpace, splits: Splits) -> WhyInfeasible:
    """Return what tells of a setting why it is not to be trained on some data."""
    about = inputs.of(splits)

    def why(algorithm: str, hyperparameters: Mapping[str, Any]) -> str | None:
        most = space.budget.max_parameters
        if most is None and not space.network_of(algorithm).parameters:
            return None
        try:
            run = spaces.run_config(space, algorithm, hyperparameters, 0, [space.budget.tasks])
            n_parameters = count(run, about)
        except MetabenchError as error:
            return str(error)
        if most is None or n_parameters <= most:
            return None
        return f"{n_parameters:,} parameters, more than max_parameters={most:,} allows"

    return why


def check(space: SearchSpace, splits: Splits) -> None:
    """Refuse a space whose published settings, which are trained whatever is tried, are not to be."""
    why, wrong = of(space, splits), []
    for algorithm in space.algorithms:
        its = spaces.of(space, algorithm)
        if problem := why(algorithm, its.resolve(its.published[0])):
            wrong.append(f"algorithms.{algorithm}: its default, which is trained first: {problem}")
    if wrong:
        raise MetabenchError("\n".join(wrong))


def count(run: RunConfig, about: Inputs) -> int:
    """Count the numbers that a run learns across tasks, as leaderboards do."""
    if run.network.freeze == "all":
        about = about._replace(shape=(features.backbone_of(run.network).features,))
    learner = loop.build_for(run, about)
    with FakeTensorMode(allow_non_fake_inputs=True):  # which draws nothing: what is too large may not fit
        state = loop.start(run, learner)
    return sum(leaf.numel() for leaf in trees.leaves(state.meta))
