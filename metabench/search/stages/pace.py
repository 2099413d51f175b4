"""How fast a learner is here: some meta-steps and evaluations, timed in this process."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from metabench.core import Splits
from metabench.core.config import SearchSpace
from metabench.core.control import ENVIRONMENT_STEPS
from metabench.data.tasks import frozen, sampling
from metabench.search import space as spaces
from metabench.training import evaluate, features, loop

VALIDATED = 20
"""Tasks that are adapted to and predicted to measure what evaluation takes."""


class Timed(NamedTuple):
    """What a task takes: seconds of meta-training and of evaluation, and steps in environments."""

    training: float
    evaluation: float
    environment_steps: float


def time_one(
    space: SearchSpace, algorithm: str, values: dict[str, Any], splits: Splits, device: str, seconds: float
) -> Timed:
    """Train and evaluate a setting for a while.

    Args:
        seconds: for how long to train, beyond the first step.
    """
    run = spaces.run_config(space, algorithm, values, 0, spaces.rungs(space.budget))
    splits = features.embedded(splits, run.task, run.network)
    learner = loop.build(run, splits)
    # In the middle of a run, as what schedules leave out at its ends takes less.
    state = loop.start(run, learner, device)._replace(tasks_seen=run.tasks // 2)
    split = splits.meta_train._replace(images=splits.meta_train.images.to(device))
    source = sampling.training_pool(split, run.task, run.seed)
    training = steps = 0.0
    if learner.algorithm.is_trained:
        batch = learner.h.task_batch_size
        state, logs = loop.meta_step(run, learner, source, state, batch)
        float(logs["loss"])  # waits for the device
        begun, seen = time.perf_counter(), state.tasks_seen
        while time.perf_counter() - begun < seconds or state.tasks_seen == seen:
            state, logs = loop.meta_step(run, learner, source, state, batch)
            float(logs["loss"])
        training = (time.perf_counter() - begun) / (state.tasks_seen - seen)
        steps = float(logs.get(ENVIRONMENT_STEPS, 0)) / state.tasks_seen
    n_tasks = min(VALIDATED, space.budget.validation_tasks)
    tasks = frozen.frozen(splits, "meta_validation", run.task, n_tasks, "search")
    images = splits.meta_validation.images.to(device)
    begun = time.perf_counter()
    evaluate.evaluate(loop.model(learner, state), images, tasks)
    return Timed(training, (time.perf_counter() - begun) / n_tasks, steps)
