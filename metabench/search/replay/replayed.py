"""The study of one algorithm, confined to settings whose learning curves were recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from metabench.core.config import Choices, Range
from metabench.search.journal.ledger import Trial
from metabench.search.propose import samplers
from metabench.search.propose.study import Study
from metabench.search.replay.curves import Curve
from metabench.search.space import grid


class RecordedStudy(Study):
    """A study whose proposals are played by the nearest recorded setting that was not played yet.

    The sampler is told the setting that was played, not the one that it proposed.
    """

    def __init__(self, *args: Any, curves: Sequence[Curve], is_in_order: bool) -> None:
        """Play some curves, by what the sampler proposes or in the recorded order."""
        super().__init__(*args)
        self.waiting = list(curves)
        self.played: list[Curve] = []  # by number of the trial
        self.distances: list[float] = []  # from each proposal to what played it
        self.is_in_order = is_in_order

    def propose(self, spent: float = 0.0, trials: Sequence[Trial] = ()) -> dict[str, Any]:
        """Propose the recorded setting nearest to the sampler's proposal, or in the recorded order."""
        number, away = len(self.asked), [0.0]
        if not self.is_in_order:
            proposed = self.first[number] if number < len(self.first) else self._proposal(number)
            away = [distance(self.its.parameters, proposed, curve.sampled) for curve in self.waiting]
        nearest = min(range(len(away)), key=away.__getitem__)
        self.distances.append(away[nearest])
        self.played.append(self.waiting.pop(nearest))
        return self.repeat(self.played[-1].sampled)

    def options(self, leader: Mapping[str, Any], spent: float = 0.0) -> list[dict[str, Any]]:
        """List the recorded settings that were not played yet."""
        return [curve.sampled for curve in self.waiting]

    def take(self, sampled: dict[str, Any]) -> dict[str, Any]:
        """Play one of the options."""
        self.distances.append(0.0)
        place = next(k for k, curve in enumerate(self.waiting) if curve.sampled == sampled)
        self.played.append(self.waiting.pop(place))
        return self.repeat(sampled)

    @property
    def n_tried(self) -> int:
        """Count what was played: a setting that was recorded twice is played twice."""
        return len(self.asked)

    def _proposal(self, number: int) -> dict[str, Any]:
        """Ask a copy what the sampler would try: the study itself is asked for what is played."""
        _, copy = samplers.start_study(self.space.budget.sampler)
        copy.sampler = self._sampler(number)
        copy.add_trials(self.study.get_trials(deepcopy=False))
        return self.sample(copy.ask())


def distance(parameters: Mapping[str, Any], a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """Return how far two settings are apart: Euclidean, each parameter scaled to [0, 1], its log where `log`.

    Choices that differ are 1 apart, and so is a parameter that only one of the two has.
    """
    squares = []
    for name, parameter in parameters.items():
        if (name in a) != (name in b):
            squares.append(1.0)
        elif name in a and isinstance(parameter, Range):
            squares.append((grid.share_of(parameter, a[name]) - grid.share_of(parameter, b[name])) ** 2)
        elif name in a and isinstance(parameter, Choices):
            squares.append(float(a[name] != b[name]))
    return math.sqrt(sum(squares))
