"""More validation tasks for trials whose decision is within the noise, before it is made.

Tune's `report` answers nothing but stop, so the driver leaves its answer with an actor before it lets a
trial go on, and the trial asks there. A crash loses nothing: that a trial is borderline stands in the
journal, and whoever sends the same report again gets the same answer.
"""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from metabench.core import Splits
from metabench.core.config import RunConfig
from metabench.data.tasks import frozen
from metabench.training import evaluate, loop
from metabench.training.graphs.trace import TraceCache


class Answers:
    """What the driver answered to each trial's last report: whether to validate again."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, bool]] = {}

    def answer(self, trial: str, tasks_seen: int, is_wanted: bool) -> None:
        """Leave the answer to a report."""
        self._last[trial] = tasks_seen, is_wanted

    def ask(self, trial: str, tasks_seen: int) -> bool:
        """Return the answer to a report."""
        seen, is_wanted = self._last[trial]
        assert seen == tasks_seen, f"{trial} asks for {tasks_seen} tasks and was answered for {seen}"
        return is_wanted


class ReevaluationActor:
    """The answers, where driver and workers reach them."""

    def __init__(self) -> None:
        """Start the actor beside the driver: without that node there would be nobody to answer."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._actor: Any = ray.remote(Answers).options(num_cpus=0, scheduling_strategy=here).remote()

    def answer(self, trial: str, tasks_seen: int, is_wanted: bool) -> None:
        """Leave the answer to a report; it is there when this returns."""
        ray.get(self._actor.answer.remote(trial, tasks_seen, is_wanted))

    def ask(self, trial: str, tasks_seen: int) -> bool:
        """Return the answer to a report."""
        return bool(ray.get(self._actor.ask.remote(trial, tasks_seen)))

    def close(self) -> None:
        """End the actor."""
        ray.kill(self._actor)


def reevaluate(
    run: RunConfig,
    splits: Splits,
    device: str,
    n_tasks: int,
    traces: TraceCache,
    state: loop.State,
    line: dict[str, Any],
) -> dict[str, Any]:
    """Return a report with the scores of more tasks of its pool beside those that it has.

    Its `val_score` stays the mean over the tasks that every trial is validated on, since a mean over others
    could be better for easier tasks; `borderline_score` is the mean over all.

    Args:
        n_tasks: in all, those of the report among them.
    """
    begun = time.perf_counter()
    model = loop.model(loop.build(run, splits), state)
    tasks = frozen.frozen(splits, "meta_validation", run.task, n_tasks, "search")
    images = splits.meta_validation.images.to(torch.device(device))
    rest = frozen.between(tasks, run.validation_tasks)
    evaluated = evaluate.evaluate(model, images, rest, traces)
    scores = [*line["val_scores"], *(model.net.objective.metric.sign * evaluated.score).round(6).tolist()]
    mean, seconds = statistics.fmean(scores), time.perf_counter() - begun
    return {
        **line,
        "finite": math.isfinite(mean),
        "val_scores": scores,
        "borderline_score": mean,
        "borderline_seconds": seconds,
        "seconds": line["seconds"] + seconds,
    }
