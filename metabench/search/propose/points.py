"""Settings among which a model chooses: spread over a whole space, and around one of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from scipy.stats.qmc import Sobol

from metabench.core.config import Choices
from metabench.search.space import AlgorithmSpace, grid

SPREAD = 256
"""Points of a whole space; a power of 2, as Sobol's are balanced by."""

NEAR = 32
"""Points around a setting."""

WIDTH = 0.25
"""Share of each range that those lie in."""

LAST = 1.0 - 1e-12
"""Share of the highest value."""


def spread(its: AlgorithmSpace, seed: int, fixed: Mapping[str, Any] = {}) -> list[dict[str, Any]]:
    """Return scrambled Sobol points of a space; what conditions exclude is left out of each.

    Args:
        fixed: what all have alike.
    """

    def at(place: Mapping[str, float]) -> dict[str, Any]:
        return its.sample(
            lambda name, parameter: fixed[name] if name in fixed else grid.at_share(parameter, place[name])
        )

    return [at(place) for place in _cube(its, SPREAD, seed)]


def around(its: AlgorithmSpace, centre: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return settings near one: with one choice of it changed, and with all its ranges moved a little."""

    def changed(changes: Mapping[str, Any]) -> dict[str, Any]:
        values = {**centre, **changes}
        return its.sample(lambda name, parameter: values.get(name, parameter.default))

    def moved(name: str, place: float) -> Any:
        parameter = its.sampled[name]
        value = centre.get(name, parameter.default)
        if isinstance(parameter, Choices):
            return value
        share = grid.share_of(parameter, value) + WIDTH * (place - 0.5)
        return grid.at_share(parameter, min(max(share, 0.0), LAST))

    choices = [(name, one) for name, one in its.sampled.items() if isinstance(one, Choices)]
    one_choice = [changed({name: value}) for name, parameter in choices for value in parameter.choices]
    places = _cube(its, NEAR, 0)
    return [*one_choice, *(changed({name: moved(name, at) for name, at in one.items()}) for one in places)]


def _cube(its: AlgorithmSpace, n_points: int, seed: int) -> list[dict[str, float]]:
    names = list(its.sampled)
    return [dict(zip(names, point, strict=True)) for point in _sobol(len(names), n_points, seed)]


@lru_cache(maxsize=64)
def _sobol(n_dimensions: int, n_points: int, seed: int) -> list[list[float]]:
    """Draw scrambled Sobol points, which are the same each time; one where there is nothing to choose."""
    if not n_dimensions:
        return [[]]
    points: list[list[float]] = Sobol(n_dimensions, scramble=True, rng=seed).random(n_points).tolist()
    return points
