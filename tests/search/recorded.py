"""Recordings made up for tests: what each setting scores where, and how long that takes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metabench.core.config import SearchSpace
from metabench.core.objectives import OBJECTIVES
from metabench.search.journal.ledger import COMPLETE
from metabench.search.replay import simulate
from metabench.search.replay.curves import FORMAT, Curve, Point, Recording, pack
from metabench.search.replay.scenario import Scenario
from metabench.search.replay.simulate import Event, Incumbent
from metabench.storage import files

RUNGS = (100, 300, 900)

N_TASKS = 10
"""Validation tasks of a made-up recording; ten queries each."""


class Played(NamedTuple):
    """What became of one algorithm in a replay."""

    events: list[Event]
    incumbents: list[Incumbent]
    curves: list[str]  # that played its trials, by number
    endings: list[str]  # of its trials, by number
    tasks: int
    seconds: float


class Search(NamedTuple):
    """One simulated search."""

    played: dict[str, Played]  # by algorithm
    time: float


def play(recording: Recording, scenario: Scenario, seed: int) -> Search:
    """Replay a search, and return all of what it tells, which can be compared."""
    replay, played = simulate.play(recording, scenario, seed), {}
    for algorithm in scenario.space.algorithms:
        trials = replay.ledger.of(algorithm)
        played[algorithm] = Played(
            replay.events[algorithm],
            replay.incumbents[algorithm],
            [replay.curve_of(trial).name for trial in trials],
            [replay.ending_of(trial) for trial in trials],
            replay.ledger.tasks(algorithm),
            replay.seconds[algorithm],
        )
    return Search(played, replay.time)


def only_maml(space: SearchSpace, **budget: Any) -> SearchSpace:
    """Return the space with MAML alone and another budget."""
    changed = space.budget.model_copy(update=budget)
    return space.model_copy(update={"budget": changed, "algorithms": {"maml": {}}})


def curve(
    name: str, scores: Sequence[float | None], status: str | None = COMPLETE, *, inner_lr: float = 0.1
) -> Curve:
    """Make a setting that takes 1 second to 100 tasks, 3 to 300 and 9 to 900."""
    points = [
        Point(tasks_seen, tasks_seen / 100, 0.0, score)
        for tasks_seen, score in zip(RUNGS, scores, strict=False)
    ]
    return Curve(name, {"inner_lr": inner_lr, "inner_steps": 1}, tuple(points), status)


def recording(space: SearchSpace, curves: Sequence[Curve], points: Sequence[int] = RUNGS) -> Recording:
    """Put settings of MAML together."""
    accuracy = OBJECTIVES["classification"]
    return Recording(space, accuracy, {"maml": tuple(curves)}, tuple(points), N_TASKS, False, "0", {})


def many(n_curves: int, seed: int) -> list[Curve]:
    """Draw settings whose scores rise on the whole, in any order, each at a speed of its own."""
    rng = random.Random(seed)
    curves = []
    for number in range(n_curves):
        last, speed = rng.random(), rng.uniform(50, 200)
        scores = [last * share + rng.uniform(0, 0.2) for share in (0.5, 0.8, 1.0)]
        made = curve(f"maml-{number:03d}", scores, inner_lr=0.01 * 100 ** rng.random())
        points = tuple(point._replace(seconds=point.tasks_seen / speed) for point in made.points)
        curves.append(made._replace(points=points))
    return curves


def write(path: Path, space: SearchSpace, curves: Sequence[Curve], **header: Any) -> None:
    """Write settings as `benchmarks/curves.py` does; every task scores as the mean, to a tenth."""
    first: Mapping[str, Any] = {
        "curves": FORMAT,
        "algorithm": "maml",
        "space": space.model_dump(mode="json"),
        "kind": "classification",
        "points": RUNGS,
        "validation_tasks": N_TASKS,
        "queries": 10,
        "data_fingerprint": "0",
        **header,
    }
    lines = [
        {
            "number": number,
            "sampled": one.sampled,
            "reports": [
                {
                    "tasks_seen": point.tasks_seen,
                    "finite": point.score is not None,
                    "seconds": point.seconds,
                    "val_seconds": point.val_seconds,
                    "scores": None if point.score is None else pack([point.score] * N_TASKS, 10),
                }
                for point in one.points
            ],
        }
        for number, one in enumerate(curves)
    ]
    files.write_lines(path, [first, *lines])
