"""Which search to replay: the recorded budget with some changes, checked against what was recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from metabench.cli.flags import validated
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
        changes: fields of the budget to change; None leaves one as it was recorded. The grace keeps its share
            of the tasks, as it does in a search; `seconds` make seconds the unit.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    is_in_order = given.get("sampler") == RECORDED
    notes = []
    budget = recording.space.budget
    values = {**budget.model_dump(), **_implied(recording, given)}
    if is_in_order:
        values["sampler"] = "random"  # is never asked
    more = budget.borderline_tasks
    if more is not None and "borderline_tasks" not in given:
        if not recording.is_per_task or more > recording.n_tasks:
            notes.append(f"no second look at {more} tasks: not every trial's were recorded")
            values["borderline_tasks"] = None
        elif values["scheduler"] != "asha":
            values["borderline_tasks"] = None
    wanted = validated(BudgetConfig, values)
    _check(recording, wanted, workers, is_in_order)
    moved = [(rung, _nearest(recording.points, rung)) for rung in spaces.rungs(wanted)]
    rungs = sorted({point for _, point in moved})
    wanted = wanted.model_copy(update={"rungs": rungs, "tasks": rungs[-1]})
    space = recording.space.model_copy(update={"budget": wanted})
    elsewhere = tuple((asked, used) for asked, used in moved if asked != used)
    return Scenario(space, elsewhere, workers, is_in_order, tuple(notes))


def _implied(recording: Recording, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what changes with what was given."""
    budget = recording.space.budget
    values = dict(given)
    if values.keys() & {"tasks", "grace", "reduction_factor", "scheduler"}:
        values["rungs"] = None
    if "tasks" in values and "grace" not in values:
        values["grace"] = max(1, round(budget.grace * values["tasks"] / budget.tasks))
    if "seconds" in values:
        values["unit"] = "seconds"
    recorded = min(len(own) for own in recording.curves.values())
    values.setdefault("trials", min(budget.trials, recorded))
    values.setdefault("validation_tasks", min(budget.validation_tasks, recording.n_tasks))
    return values


def _check(recording: Recording, wanted: BudgetConfig, workers: int, is_in_order: bool) -> None:
    wrong = []
    if workers < 1:
        wrong.append(f"--workers {workers}: must be >= 1")
    if wanted.sampler in samplers.KEEPS_NOTES and not is_in_order:
        wrong.append(
            f"--sampler {wanted.sampler}: keeps notes on its own proposals, which recorded settings cannot "
            f"play; take tpe, random, gp or {RECORDED}"
        )
    for algorithm, curves in recording.curves.items():
        if wanted.trials > len(curves) and spaces.n_trials(recording.space, algorithm) > 1:
            wrong.append(
                f"--trials {wanted.trials}: only {len(curves)} settings of {algorithm} were recorded; "
                "ask for fewer, or record more"
            )
    if wanted.tasks > recording.points[-1]:
        wrong.append(f"--tasks {wanted.tasks}: must be <= {recording.points[-1]}, the budget recorded")
    asked = {"validation-tasks": wanted.validation_tasks, "borderline-tasks": wanted.borderline_tasks}
    for flag, n_tasks in asked.items():
        if n_tasks is not None and n_tasks != recording.n_tasks and not recording.is_per_task:
            wrong.append(
                f"--{flag} {n_tasks}: the scores of single tasks were not kept, so only means over "
                f"{recording.n_tasks} can be simulated; leave it out, or record with benchmarks/curves.py"
            )
        elif n_tasks is not None and n_tasks > recording.n_tasks:
            wrong.append(f"--{flag} {n_tasks}: must be <= {recording.n_tasks}, those recorded")
    if wrong:
        raise MetabenchError("\n".join(wrong))


def _nearest(points: tuple[int, ...], rung: int) -> int:
    return min(points, key=lambda point: abs(math.log(point / rung)))
