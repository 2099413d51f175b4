"""Decks: some of the recorded settings, on which searches are replayed, and what is true of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metabench.search.replay.curves import Curve, Point, Recording
from metabench.search.replay.scenario import describe
from metabench.search.replay.simulate import Incumbent, legs


class Search(NamedTuple):
    """What one replayed search named, when, and what it cost as a whole."""

    incumbents: Sequence[Incumbent]
    tasks: int
    seconds: float


class Deck(NamedTuple):
    """Some of the recorded settings, searched once in each way."""

    searches: dict[str, Search]
    true: dict[str, float]  # on tasks that no search sees
    run: float  # seconds of a full run


def cut(recording: Recording, number: int, n_tasks: int) -> tuple[Recording, Deck]:
    """Draw a deck: three quarters of the settings, with the tasks in another order, not searched yet.

    Of a setting that was trained more than once a search sees one training; the truth is the mean of all.
    """
    ((algorithm, recorded),) = recording.curves.items()
    size, rng = 3 * len(recorded) // 4, np.random.default_rng(number)
    picks, order = rng.permutation(len(recorded))[:size], rng.permutation(recording.n_tasks)
    drawn = [reordered(recorded[i], order) for i in sorted(picks)]
    cards = [one._replace(points=trainings(one)[rng.integers(1 + len(one.again))]) for one in drawn]
    once = {"scheduler": "none", "grace": recording.points[-1], "validation_tasks": n_tasks, "trials": size}
    some = recording._replace(curves={algorithm: tuple(cards)})
    full = describe(some, once).space.budget  # validated once, at the end
    run = sum(leg.seconds for one in cards for leg in legs(one, full, some.n_tasks)) / size
    return some, Deck({}, unseen_scores(drawn, n_tasks), run)


def trainings(curve: Curve) -> tuple[tuple[Point, ...], ...]:
    """List the points of each training of a setting."""
    return (curve.points, *curve.again)


def reordered(curve: Curve, order: np.ndarray) -> Curve:
    """Return a curve with its validation tasks in another order."""
    first, *again = (
        tuple(
            one._replace(per_task=tuple(np.array(one.per_task)[order])) if one.per_task else one
            for one in points
        )
        for points in trainings(curve)
    )
    return curve._replace(points=first, again=tuple(again))


def unseen_scores(curves: Sequence[Curve], n_seen: int) -> dict[str, float]:
    """Return each setting's score at the full budget on recorded tasks beyond those that a search sees.

    It is the mean over trainings. One that diverged is as bad as the worst; where all tasks are seen, or none
    were kept apart, all count.
    """
    last = {one.name: [points[-1] for points in trainings(one)] for one in curves}
    worst = min(point.score for each in last.values() for point in each if point.score is not None)
    return {
        name: float(
            np.mean(
                [
                    np.mean(point.per_task[n_seen:] or (worst if point.score is None else point.score,))
                    for point in each
                ]
            )
        )
        for name, each in last.items()
    }
