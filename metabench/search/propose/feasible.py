"""Which settings are never trained: they do not go together, or their network cannot be or is too large."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch._subclasses.fake_tensor import FakeTensorMode

from metabench.core import MetabenchError, Splits, trees
from metabench.core.config import RunConfig, SearchSpace
from metabench.search import space as spaces
from metabench.training import features, inputs, loop
from metabench.training.inputs import Inputs


class Size(NamedTuple):
    """What a setting learns."""

    parameters: int | None = None  # numbers learnt across tasks; None where nobody counted
    infeasible: str | None = None  # why it is not to be trained


SizeOf = Callable[[str, Mapping[str, Any]], Size]
"""(algorithm, hyperparameters) -> what such a setting learns."""

MOST_INFEASIBLE = 50
"""Settings that cannot be trained to each trial, before an algorithm tries no more."""


def uncounted(algorithm: str, hyperparameters: Mapping[str, Any]) -> Size:
    """Count nothing, and leave out no setting."""
    return Size()


def of(space: SearchSpace, splits: Splits) -> SizeOf:
    """Return what says of a setting whether it can be trained on some data.

    Its numbers are counted where networks are searched or numbers limited.
    """
    about = inputs.of(splits)
    is_sampled = any(space.network_of(algorithm).parameters for algorithm in space.algorithms)

    def size(algorithm: str, hyperparameters: Mapping[str, Any]) -> Size:
        most = space.budget.max_parameters
        try:
            run = spaces.run_config(space, algorithm, hyperparameters, 0, [space.budget.tasks])
            if most is None and not is_sampled:
                loop.settings(run, about)
                return Size()
            n_parameters = count(run, about)
        except MetabenchError as error:
            return Size(infeasible=str(error))
        if most is None or n_parameters <= most:
            return Size(n_parameters)
        why = f"{n_parameters:,} parameters, more than max_parameters={most:,} allows"
        return Size(n_parameters, why)

    return size


def check(space: SearchSpace, splits: Splits) -> None:
    """Refuse a space whose published settings, which are trained whatever is tried, are not to be."""
    size, wrong = of(space, splits), []
    for algorithm in space.algorithms:
        its = spaces.of(space, algorithm)
        if problem := size(algorithm, its.resolve(its.published[0])).infeasible:
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
