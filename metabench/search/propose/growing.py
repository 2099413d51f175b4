"""Cells that grow: how many nodes those have that are proposed next, and which of them grow out of which.

A search whose networks have `grow` has as many stages, each an equal share of its budget. In a stage every
cell that is proposed has the same number of nodes; first come the best of the last stage with nodes more.
All of it follows from the trials, so that nothing is to be remembered.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metabench.core.config import NODES, OF_CELL, Choices, Range
from metabench.search.journal.ledger import DIVERGED, FAILED, INFEASIBLE, Trial, preference
from metabench.search.space import AlgorithmSpace, grid

MOST_DRAWN = 1_000
"""Cells that are drawn in search of one that was not tried and has as many nodes as it should."""

ROUNDING = 1e-9

Settings = Mapping[int, Mapping[str, Any]]
"""What was sampled of each trial that the space has, by its number."""


def stages(grow: Sequence[int], spent: float, sizes: Sequence[int]) -> Sequence[int]:
    """Return the nodes of the stage that has come, and of those that follow where it has nothing left.

    Args:
        spent: share of the budget.
        sizes: nodes of what was proposed: no stage comes back.
    """
    reached = max((grow.index(size) for size in sizes if size in grow), default=0)
    return grow[max(reached, min(int(len(grow) * spent + ROUNDING), len(grow) - 1)) :]


def to_grow(before: Sequence[Trial], now: Sequence[Trial], settings: Settings, most: int) -> Iterator[Trial]:
    """Yield those of the best trials of the last stage out of which nothing has grown yet, best first.

    Out of so many of them something grows that can be trained.
    """
    judged = [trial for trial in before if trial.score is not None and trial.status not in (FAILED, DIVERGED)]
    for trial in sorted(judged, key=preference):
        grown = [one for one in now if is_part(settings[trial.number], settings[one.number])]
        if not grown:
            yield trial
        most -= not grown or any(one.status != INFEASIBLE for one in grown)
        if most == 0:
            return


def is_part(small: Mapping[str, Any], large: Mapping[str, Any]) -> bool:
    """Tell whether a setting is another one with nodes more, but for what it has of fewer nodes alone."""
    return all(large[name] == small[name] for name in (small.keys() & large.keys()) - {NODES})


def drawn(
    its: AlgorithmSpace, sampled: Mapping[str, Any], fixed: Mapping[str, Any], rng: random.Random
) -> Iterator[dict[str, Any]]:
    """Draw other cells beside what is sampled, and in the end other settings altogether.

    Args:
        fixed: what all have alike.
    """
    for number in range(MOST_DRAWN):

        def value(name: str, parameter: Range | Choices, is_whole: bool = number >= MOST_DRAWN // 2) -> Any:
            if name in fixed:
                return fixed[name]
            if is_whole or name.startswith(OF_CELL):
                return grid.at_share(parameter, rng.random())
            return sampled.get(name, parameter.default)

        yield its.sample(value)
