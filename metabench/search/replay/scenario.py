"""Which search to replay: the recorded budget with some changes, checked against what was recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from metabench.core import MetabenchError
from metabench.core.config import BudgetConfig, SearchSpace
from metabench.search import space as spaces
from metabench.search.propose import samplers
from metabench.search.replay.curves import Recording

RECORDED = "recorded"
"""In place of a sampler: settings as they stand in the recording."""


class Scenario(NamedTuple):
    """The search to replay."""

    space: SearchSpace  # with the budget to simulate, whose rungs are recorded points
    moved: tuple[tuple[int, int], ...]  # rungs that were asked for to the points that stand for them
    workers: int
    is_in_order: bool  # settings are not proposed, but taken as they stand in the recording
    notes: tuple[str, ...]  # what is otherwise than in the recorded search without being asked for

    @property
    def rungs(self) -> list[int]:
        """Return the tasks seen at which a trial may be stopped; the last is the full budget."""
        return spaces.rungs(self.space.budget)


def describe(recording: Recording, changes: Mapping[str, Any], workers: int = 1) -> Scenario:
    """Describe the search to replay.

    Args:
        changes: settings of the budget by name; None leaves one as it was recorded. The grace keeps its share
            of the tasks, as it does in a search; `seconds` make seconds the unit.
    """
    changed = {name: value for name, value in changes.items() if value is not None}
    is_in_order = changed.get("sampler") == RECORDED
    if is_in_order:
        changed["sampler"] = "random"  # is never asked
    if "seconds" in changed:
        changed["unit"] = "seconds"
    recorded, notes = _recorded_budget(recording, changed)
    budget = spaces.override(recording.space.model_copy(update={"budget": recorded}), **changed).budget
    wrong = _problems(recording, budget, workers, is_in_order)
    if wrong:
        raise MetabenchError("\n".join(wrong))
    nearest = {rung: _nearest(recording.points, rung) for rung in spaces.rungs(budget)}
    rungs = sorted(set(nearest.values()))
    budget = budget.model_copy(update={"rungs": rungs, "tasks": rungs[-1]})
    space = recording.space.model_copy(update={"budget": budget})
    moved = tuple((rung, point) for rung, point in nearest.items() if rung != point)
    return Scenario(space, moved, workers, is_in_order, notes)


def _recorded_budget(
    recording: Recording, changed: Mapping[str, Any]
) -> tuple[BudgetConfig, tuple[str, ...]]:
    """Return the recorded budget without what some changes, or too few scores, make meaningless."""
    budget, notes = recording.space.budget, []
    values: dict[str, Any] = {
        "trials": min(budget.trials, *map(len, recording.curves.values())),
        "validation_tasks": min(budget.validation_tasks, recording.n_tasks),
    }
    if "seconds" in changed:
        values["environment_steps"] = None
    if changed.keys() & {"tasks", "grace", "reduction_factor", "scheduler"}:
        values["rungs"] = None
    more = budget.borderline_tasks
    if more is not None and (not recording.is_per_task or more > recording.n_tasks):
        values["borderline_tasks"] = None
        if "borderline_tasks" not in changed:
            notes.append(f"no second look at {more} tasks: not every trial's were recorded")
    elif changed.get("scheduler", budget.scheduler) != "asha":
        values["borderline_tasks"] = None
    return budget.model_copy(update=values), tuple(notes)


def _problems(recording: Recording, budget: BudgetConfig, workers: int, is_in_order: bool) -> list[str]:
    """List what of a budget cannot be played."""
    wrong = []
    if workers < 1:
        wrong.append(f"workers={workers}: must be >= 1")
    if budget.sampler in samplers.KEEPS_NOTES and not is_in_order:
        wrong.append(
            f"sampler={budget.sampler}: keeps notes on its own proposals, which recorded settings cannot "
            f"play; take tpe, random, gp or {RECORDED}"
        )
    for algorithm, curves in recording.curves.items():
        if min(budget.trials, spaces.of(recording.space, algorithm).n_settings) > len(curves):
            wrong.append(
                f"trials={budget.trials}: only {len(curves)} settings of {algorithm} were recorded; "
                "ask for fewer, or record more"
            )
    if budget.tasks > recording.points[-1]:
        wrong.append(f"tasks={budget.tasks}: must be <= {recording.points[-1]}, the budget recorded")
    trained = [point for curves in recording.curves.values() for one in curves for point in one.points]
    if budget.unit == "environment_steps" and not any(point.steps for point in trained):
        wrong.append(
            "unit=environment_steps: nothing recorded says what its training took of them; take seconds"
        )
    for name in ("validation_tasks", "borderline_tasks"):
        n_tasks = getattr(budget, name)
        if n_tasks is not None and n_tasks != recording.n_tasks and not recording.is_per_task:
            wrong.append(
                f"{name}={n_tasks}: the scores of single tasks were not kept, so only means over "
                f"{recording.n_tasks} can be simulated; leave it out, or record with benchmarks/curves.py"
            )
        elif n_tasks is not None and n_tasks > recording.n_tasks:
            wrong.append(f"{name}={n_tasks}: must be <= {recording.n_tasks}, those recorded")
    return wrong


def _nearest(points: tuple[int, ...], rung: int) -> int:
    return min(points, key=lambda point: abs(math.log(point / rung)))
