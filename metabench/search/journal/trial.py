"""A trial as the driver remembers it: what was tried, what it reported, what was decided and why."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from metabench.core import Objective

CONTINUE = "continue"
WAIT = "wait"  # until all of the algorithm's trials have arrived
COMPLETE = "complete"
PRUNED = "pruned"
DIVERGED = "diverged"
FAILED = "failed"


class Arrival(NamedTuple):
    """A trial's score at a rung, higher is better."""

    trial: str
    score: float  # over the tasks that every trial is validated on
    more: float | None = None  # over more of them, where it was looked at again


@dataclass
class Trial:
    """One setting that is or was tried."""

    name: str
    algorithm: str
    number: int  # among the trials of its algorithm
    sampled: dict[str, Any]  # what the study chose
    hyperparameters: dict[str, Any]  # every setting of the algorithm
    is_default: bool
    seed: int
    reports: list[dict[str, Any]] = field(default_factory=list)
    decisions: dict[int, str] = field(default_factory=dict)  # tasks seen -> decision
    doubts: dict[int, int] = field(default_factory=dict)  # tasks seen -> how many had arrived there before
    bases: dict[int, dict[str, Any]] = field(default_factory=dict)  # tasks seen -> what it rests on
    status: str | None = None  # None while it is unfinished
    error: str | None = None
    checkpoint: str | None = None  # its state, relative to the search folder

    @property
    def tasks_seen(self) -> int:
        """Return the tasks seen at the last report."""
        return int(self.reports[-1]["tasks_seen"]) if self.reports else 0

    @property
    def score(self) -> float | None:
        """Return the meta-validation score of the last report, higher is better; None where there is none."""
        return self.reports[-1]["val_score"] if self.reports else None

    @property
    def is_waiting(self) -> bool:
        """Tell whether it stands still until all of its algorithm's trials have arrived at its rung."""
        return self.decisions.get(self.tasks_seen) == WAIT

    @property
    def state(self) -> str:
        """Return the status, or what a trial without one does."""
        return self.status or ("waiting" if self.is_waiting else "running")

    @property
    def is_doubtful(self) -> bool:
        """Tell whether it was stopped within the noise of its validation tasks."""
        return self.status == PRUNED and bool(self.bases[self.tasks_seen].get("doubtful"))

    def line(self, objective: Objective) -> dict[str, Any]:
        """Return the line of trials.jsonl."""
        last = self.reports[-1] if self.reports else {}
        figure = None if self.score is None else objective.sign * self.score
        return {
            "trial": self.name,
            "algorithm": self.algorithm,
            "status": self.status,
            "hyperparameters": self.hyperparameters,
            "sampled": self.sampled,
            "is_default": self.is_default,
            "seed": self.seed,
            "tasks_seen": self.tasks_seen,
            "seconds": last.get("seconds", 0.0),
            "peak_memory": max((report["peak_memory"] for report in self.reports), default=0),
            "validation_tasks": sum(report.get("val_tasks", 0) for report in self.reports),
            f"val_{objective.metric}": figure,
            "val_ci": last.get("val_ci"),
            "reports": self.reports,
            "decisions": [
                {"tasks_seen": seen, "decision": decision, **self.bases[seen]}
                for seen, decision in self.decisions.items()
            ],
            "checkpoint": self.checkpoint,
            "error": self.error,
        }


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Sort trials that were judged by the highest rung they reached, then by meta-validation score."""
    judged = [trial for trial in trials if trial.status in (COMPLETE, PRUNED)]
    return sorted(
        judged,
        key=lambda trial: (
            -trial.tasks_seen,
            -(-math.inf if trial.score is None else trial.score),
            trial.number,
        ),
    )
