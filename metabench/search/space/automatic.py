"""What a search within a time is to be: a space, from what is known of the data and measured speeds.

Numbers in, a space out: reading the data and measuring is `search/stages/automatic.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from metabench.core import MetabenchError
from metabench.core.config import (
    BudgetConfig,
    NetworkConfig,
    SearchSpace,
    TaskConfig,
    n_variants,
    rungs,
    validated,
)
from metabench.data import n_folds

SIZES = (28, 32, 64, 84)
"""Sides in pixels that pictures of a user may be resized to; no network here takes fewer than 16."""

WIDTHS = (16, 32, 64)
"""Filters of a layer that there may be, the fewest first."""

ENOUGH_FOR_WIDTH, ENOUGH_FOR_SIZE = 2000, 10_000
"""Tasks that a full run must still come to, for wider layers and for larger pictures."""

LEAST_TASKS = 100
"""Of a full run: of fewer nothing is learnt."""

FEWEST_TASKS, ENOUGH, MOST_TASKS = 1000, 10_000, 100_000
"""Tasks of a full run: a further learner is taken in where the first, and half of those without it, are left,
or the second; beyond the third none learns much."""

MOST_TRIALS = 10_000
"""Of a learner: no time is long enough for more to tell more."""

SEEDS = {5: 60_000, 3: 15_000, 2: 4000, 1: 0}
"""Seeds to the tasks that a full run must still come to with them."""

FOLDS = 3
"""Of the pictures of few classes."""

AFTER = 0.4
"""Share of the time for confirmation, full runs and meta-test; what is left of the rest is searched."""

STARTING, ENDING, JOB = 15.0, 12.0, 1.0
"""Seconds in which no learner learns: until the first trial, before and after the full runs, in each."""

DIAGNOSED = 500
"""Tasks that all looking closely at a full run at its end, calibration among it, takes the time of."""

REPORTS = 10
"""Meta-validations of a full run, evenly spaced; the weights of the best one are tested."""

SLACK = 1.25
"""The seconds of an algorithm, over what is planned: who searches within a time is stopped by the clock."""

LEARNERS: Mapping[str, Mapping[str, Any]] = {
    "protonet": {"distance_scale": {"low": 0.03, "high": 3.0, "log": True, "default": 1.0}},
    "r2d2": {
        "ridge": {"low": 0.1, "high": 100.0, "log": True, "default": 1.0},
        "output_scale": {"low": 1.0, "high": 30.0, "log": True, "default": 10.0},
    },
    "maml_pp": {
        "inner_steps": 3,
        "inner_lr": {"low": 0.05, "high": 2.0, "log": True, "default": 0.4},
        "outer_lr": {"low": 3.0e-4, "high": 1.0e-2, "log": True, "default": 1.0e-3},
    },
    "finetune": {
        "classifier": {"choices": ["linear", "prototype"], "default": "linear"},
        "inner_lr": {
            "low": 5.0e-3,
            "high": 1.0,
            "log": True,
            "default": 1.0e-2,
            "when": {"classifier": "linear"},
        },
    },
}
"""Learners and what is searched of each, those first that a short time is for."""

BACKBONE = "backbone"
"""The label of rows on a frozen backbone's features."""

ON_FEATURES: Mapping[str, Mapping[str, Any]] = {
    f"simpleshot.{BACKBONE}": {},
    f"logistic.{BACKBONE}": {"penalty": {"choices": [0.01, 0.1, 1.0], "default": 1.0}},
}
"""What needs no meta-training on them, and takes seconds."""

SHARED: Mapping[str, Any] = {
    "outer_lr": {"low": 5.0e-4, "high": 2.0e-2, "log": True, "default": 3.0e-3},
    "augment": {"choices": ["none", "both"], "default": "none"},
    "cosine": True,
}


class Pace(NamedTuple):
    """Seconds that one process takes for a task, and steps in its environment, averaged over settings."""

    training: float
    evaluation: float
    slowest: float  # training, of the slowest of the settings
    environment_steps: float = 0.0  # of training


class Time(NamedTuple):
    """What there is to be spent."""

    seconds: float  # of it all
    spent: float  # until the space is chosen
    slots: int  # trials at once
    busy: float = 1.0  # times as long as on a machine that has nothing else to do

    @property
    def ending(self) -> float:
        """Return the seconds after the trials in which no learner learns, but for those of each job."""
        return ENDING * self.busy

    @property
    def over(self) -> float:
        """Return the seconds in which no learner learns."""
        return self.spent + STARTING * self.busy + self.ending

    @property
    def left(self) -> float:
        """Return the seconds in which learners learn."""
        return max(0.0, self.seconds - self.over)


class Timing(NamedTuple):
    """What a search within a time keeps to."""

    seconds: float
    paces: Mapping[str, Sequence[float]]  # seconds a task of training and of evaluation, by algorithm
    begun: float  # as time.monotonic tells
    busy: float = 1.0  # as of Time

    @property
    def record(self) -> dict[str, Any]:
        """Return what whoever goes on with the search has to know."""
        paces = {name: list(pace) for name, pace in self.paces.items()}
        return {"seconds": self.seconds, "paces": paces, "busy": self.busy}


def fit_task(task: TaskConfig, n_classes: Sequence[int], n_examples: int, chosen: set[str]) -> TaskConfig:
    """Return the task with as many ways and queries as there are classes and examples for.

    Args:
        n_classes: of meta-train, meta-validation and meta-test.
        n_examples: of the smallest class.
        chosen: settings that a user has chosen, and that stay as they are.
    """
    left = n_examples - task.shots[1]
    fitted = {"way": min(5, *n_classes), "query": min(5, left), "test_query": min(15, left)}
    if left < 1 or (fitted["way"] < 2 and "way" not in chosen):
        least = f"2 classes in each split and {task.shots[1] + 1} examples a class"
        raise MetabenchError(
            f"{task.dataset}: is too small: {', '.join(map(str, n_classes))} classes in meta-train, "
            f"meta-validation and meta-test, the smallest with {n_examples} examples; a search needs {least}"
        )
    kept = {key: value for key, value in fitted.items() if key not in chosen}
    return task.model_copy(update=kept)


def shares(name: str, n_classes: int) -> dict[str, Any]:
    """Return the options that leave two classes or more to each split of a folder of few; none of many.

    Of fewer than six classes each split has other pictures, in folds, and nothing is said of new classes.
    """
    if n_classes < 2:
        raise MetabenchError(
            f"{name}: has {n_classes} classes, and a search needs 2 or more; add folders of classes"
        )
    if n_classes < 6:  # too few for 2 to learn from, 2 to choose by and 2 to be judged on
        return {"split_by": "pictures", "meta_validation": 0.25, "folds": FOLDS}
    n_val = max(2, round(0.16 * n_classes))
    n_test = max(2, round(0.2 * n_classes))
    if n_classes >= 13:
        return {}
    return {"meta_train": (n_classes - n_val - n_test) / n_classes, "meta_validation": n_val / n_classes}


def look(time: Time, side: int, training: float) -> tuple[int, int]:
    """Choose the side of pictures, and the width of layers, that leave time for tasks enough.

    Args:
        side: the median of the pictures' shorter sides.
        training: seconds a task of the fastest learner, of pictures of 28 pixels with the fewest filters.
    """
    n_tasks = AFTER * time.seconds * time.slots / (2 * len(LEARNERS) * training)
    sizes = [size for size in SIZES if size <= side and n_tasks * (SIZES[0] / size) ** 2 >= ENOUGH_FOR_SIZE]
    size = max(sizes, default=SIZES[0])
    n_tasks *= (SIZES[0] / size) ** 2
    wide = [width for width in WIDTHS if n_tasks * WIDTHS[0] / width >= ENOUGH_FOR_WIDTH]
    return size, max(wide, default=WIDTHS[0])


def after(budget: BudgetConfig, pace: Pace, runs: float) -> float:
    """Return the seconds of one process that an algorithm takes once its trials have ended."""
    validated = REPORTS * budget.validation_tasks + budget.test_tasks + DIAGNOSED
    run = budget.tasks * pace.training + validated * pace.evaluation + 2 * JOB
    return runs * run + budget.confirm_top * (budget.confirm_tasks * pace.evaluation + JOB)


def choose(task: TaskConfig, network: NetworkConfig, time: Time, paces: Mapping[str, Pace]) -> SearchSpace:
    """Choose learners and budgets by speeds measured of that task and network; refuse too short a time."""
    names: list[str] = []
    for name in paces:
        before, with_it = (_tasks(some, time, paces, 2) for some in (names, [*names, name]))
        if not names or with_it >= min(max(FEWEST_TASKS, before // 2), ENOUGH):
            names.append(name)
    allowed = SEEDS if n_folds(task) == 1 else {n_folds(task): 0}  # full runs take the folds in turn
    n_tasks = {seeds: _tasks(names, time, paces, 2 * seeds) for seeds in allowed}
    seeds = next(seeds for seeds, fewest in allowed.items() if n_tasks[seeds] >= fewest)
    has_defaults = n_tasks[seeds] >= ENOUGH
    tasks = min(_tasks(names, time, paces, (1 + has_defaults) * seeds), MOST_TASKS)
    if tasks < LEAST_TASKS:
        least = _least(names[0], time, paces, min(allowed))
        raise MetabenchError(
            f"time={time.seconds:.0f}s: is too short here, where {names[0]} trains on "
            f"{_speed(paces[names[0]])} tasks a second; give at least {least}m"
        )
    budget = _budget(tasks, seeds, has_defaults, paces[names[0]])
    slowest_first = sorted(names, key=lambda name: -paces[name].training)
    last = sum(after(budget, paces[name], n_variants(budget) * seeds) for name in names) / time.slots
    seconds = SLACK * max(time.left - last, 0.2 * time.left) * time.slots / len(names)
    first = min(_first_rung(budget, paces[name]) for name in names)
    budget = budget.model_copy(
        update={"seconds": round(seconds, 1), "trials": int(min(max(2, seconds / first), MOST_TRIALS))}
    )
    shared = {**SHARED, "task_batch_size": 5 if tasks < 20_000 else 10}
    described = {"task": task, "network": network, "budget": budget, "shared": shared}
    return validated(
        SearchSpace, {**described, "algorithms": {name: LEARNERS[name] for name in slowest_first}}
    )


def _least(name: str, time: Time, paces: Mapping[str, Pace], n_seeds: int) -> int:
    """Return minutes that are enough for one learner, whose measuring takes a share of them, too."""
    much = time._replace(seconds=time.over + 1e6)
    seconds = time.over + LEAST_TASKS * 1e6 / max(1, _tasks([name], much, paces, n_seeds))
    return math.ceil(1.3 * seconds / 60)


def with_backbone(space: SearchSpace, network: NetworkConfig) -> SearchSpace:
    """Return a space with rows on a frozen backbone's features beside those that it has."""
    described = space.model_dump()
    described["networks"] = {BACKBONE: network.model_dump()}
    described["algorithms"] |= ON_FEATURES
    return validated(SearchSpace, described)


def draft(task: TaskConfig, network: NetworkConfig, names: Sequence[str]) -> SearchSpace:
    """Return a space to measure learners in, before there is a budget."""
    budget = BudgetConfig(tasks=10_000, trials=1, grace=10_000)
    algorithms = {name: LEARNERS[name] for name in names}
    described = {
        "task": task,
        "network": network,
        "budget": budget,
        "shared": {**SHARED, "task_batch_size": 5},
    }
    return validated(SearchSpace, {**described, "algorithms": algorithms})


def describe(
    space: SearchSpace,
    about: str,
    time: Time,
    paces: Mapping[str, Pace],
    learners: Sequence[str],
    frozen: NetworkConfig | None = None,
) -> list[str]:
    """Say in lines what a search is going to do."""
    task, budget, names = space.task, space.budget, list(space.algorithms)
    speeds = ", ".join(f"{name} ({_speed(paces[name])} tasks a second)" for name in names)
    left_out = [name for name in learners if name not in names]
    name = "" if frozen is None else frozen.module or frozen.name
    beside = f", and {' and '.join(ON_FEATURES)} of {name}, frozen" if name else ""
    without = f"; no time for {', '.join(left_out)}" if left_out else ""
    n_runs = n_variants(budget) * budget.seeds
    last = sum(after(budget, paces[name], n_runs) for name in names) / time.slots
    searched = max(0.0, time.left - last)
    which = "tuned and published settings" if budget.default_runs else "tuned settings"
    seeds = "1 seed" if budget.seeds == 1 else f"{budget.seeds} seeds"
    return [
        about,
        f"task: {task.way}-way {task.shot}-shot; network: conv4, {space.network.width} filters",
        f"learners: {speeds}{without}; nearest_mean stands beside them{beside}",
        f"time: {minutes(time.seconds)} min, of which {time.spent:.0f} s are over; about "
        f"{searched / 60:,.1f} min of trials, {time.slots} at once; the rest for confirmation, full runs and "
        "meta-test",
        f"full runs: {budget.tasks:,} tasks, {which}, {seeds} each; {budget.test_tasks} meta-test tasks",
    ]


def minutes(seconds: float) -> str:
    """Write minutes, as short as they can be."""
    return f"{round(seconds / 60, 1):,g}"


def _speed(pace: Pace) -> str:
    rate = 1 / pace.training
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _tasks(names: Sequence[str], time: Time, paces: Mapping[str, Pace], n_runs: int) -> int:
    """Return the tasks of a full run for which there is time, for some learners and so many runs of each.

    Evaluation takes a part of the time after the trials, which the budget bounds. No full run is longer than
    half of what is left for the trials, one of which is as long.
    """
    if not names:
        return 0
    of_learning = 0.7 * AFTER * time.left
    together = of_learning * time.slots / (n_runs * sum(paces[name].training for name in names))
    longest = min(of_learning, 0.5 * (1 - AFTER) * time.left) / max(paces[n].training for n in names)
    return int(min(together, longest))


def _budget(tasks: int, seeds: int, has_defaults: bool, pace: Pace) -> BudgetConfig:
    """Return a budget whose evaluations take a small part of the time of training."""
    n_evaluated = tasks * pace.training / pace.evaluation
    validated = int(min(200, max(20, 0.15 * n_evaluated / REPORTS)))
    return BudgetConfig(
        tasks=tasks,
        trials=2,
        grace=max(1, tasks // 27),
        validation_tasks=validated,
        confirm_top=3,
        confirm_tasks=2 * validated,
        seeds=seeds,
        default_runs=has_defaults,
        test_tasks=int(min(1000, max(200, 0.15 * n_evaluated))),
        unit="seconds",
        seconds=1.0,
    )


def _first_rung(budget: BudgetConfig, pace: Pace) -> float:
    return rungs(budget)[0] * pace.training + budget.validation_tasks * pace.evaluation
