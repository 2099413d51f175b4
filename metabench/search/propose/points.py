"""Settings among which a model chooses: spread over a whole space, and around one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scipy.stats.qmc import Sobol

from metabench.core.config import Choices, Range
from metabench.search.space import AlgorithmSpace, grid

SPREAD = 256
"""Points of a whole space; a power of 2, as Sobol's are balanced by."""

NEAR = 32
"""Points around a setting."""

WIDTH = 0.25
"""Share of each range that those lie in."""


def spread(its: AlgorithmSpace, seed: int) -> list[dict[str, Any]]:
    """Return scrambled Sobol points of a space; what conditions exclude is left out of each."""
    return [
        its.sample(lambda name, parameter, place=place: grid.at_share(parameter, place[name]))
        for place in _cube(its, SPREAD, seed)
    ]


def around(its: AlgorithmSpace, centre: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return settings near one: with one choice of it changed, and with all its ranges moved a little."""
    changed = [
        its.sample(
            lambda name, parameter, key=key, value=value: (
                value if name == key else _at(centre, name, parameter)
            )
        )
        for key, parameter in its.sampled.items()
        if isinstance(parameter, Choices)
        for value in parameter.choices
    ]
    moved = [
        its.sample(
            lambda name, parameter, place=place: _moved(parameter, _at(centre, name, parameter), place[name])
        )
        for place in _cube(its, NEAR, 0)
    ]
    return [*changed, *moved]


def _cube(its: AlgorithmSpace, n_points: int, seed: int) -> list[dict[str, float]]:
    names = list(its.sampled)
    points = Sobol(len(names), scramble=True, rng=seed).random(n_points)
    return [dict(zip(names, point, strict=True)) for point in points.tolist()]


def _at(centre: Mapping[str, Any], name: str, parameter: Range | Choices) -> Any:
    return centre.get(name, parameter.default)


def _moved(parameter: Range | Choices, value: Any, share: float) -> Any:
    if isinstance(parameter, Choices):
        return value
    place = grid.share_of(parameter, value) + WIDTH * (share - 0.5)
    return grid.at_share(parameter, min(max(place, 0.0), 1.0 - 1e-12))
