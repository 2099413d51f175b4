"""How labels are asked for in a task, and what is wrong with that before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import Field

from metabench import acquisition, algorithms, data
from metabench.core import MetabenchError, Split
from metabench.core.config import MOST_DRAWN, MOST_TASKS, RunConfig, TaskConfig, attempt
from metabench.core.config.base import Model
from metabench.core.config.task import MOST_EXAMPLES

HEADS = {"linear": "linear head", "prototypes": "prototypes"}
"""What `Algorithm.head` may say, in words."""


SAME = ("dataset", "split", "options", "way", "labels", "domains")
"""Of tasks, what runs that are asked together must have in common."""


class LabelConfig(Model):
    """The pool of a task, and the rounds in which labels are asked for."""

    start: int = Field(
        1, ge=0, le=MOST_EXAMPLES, description="labelled examples a class before the first round"
    )
    pool: int = Field(10, ge=1, le=MOST_EXAMPLES, description="unlabelled examples a class")
    distractors: int = Field(
        0,
        ge=0,
        le=MOST_EXAMPLES,
        description="classes outside the task with as many; their labels are wasted",
    )
    skew: float = Field(
        1.0,
        ge=1,
        le=1e6,
        description="how many times as many a task's first class has in the pool as its last",
    )
    rounds: int = Field(5, ge=0, le=1_000, description="rounds, after each of which the learner adapts anew")
    batch: int = Field(1, ge=1, le=MOST_EXAMPLES, description="labels that are asked for in a round")
    query: int | None = Field(
        None,
        ge=1,
        le=MOST_EXAMPLES,
        description="query examples a class; else those of the run's `test_query` that a class has left",
    )
    tasks: int = Field(600, ge=2, le=MOST_DRAWN, description="frozen tasks, the same for all")
    part: Literal["meta_test", "meta_validation"] = Field(
        "meta_test", description="whose classes; meta_validation where an acquisition is still to be chosen"
    )
    learn_tasks: int = Field(
        2000, ge=1, le=MOST_TASKS, description="meta-train tasks that acquisition `learned` learns from"
    )
    learn_rate: float = Field(0.01, gt=0, le=1e3, description="its learning rate, Adam's")
    sets: int = Field(4, ge=2, le=1_000, description="times that it goes through a task, S")
    tau: float = Field(1.0, gt=0, le=1e6, description="what it divides diversity by, beside quality")

    @property
    def n_asked(self) -> int:
        """Return how many labels are asked for altogether."""
        return self.rounds * self.batch


def in_pool(config: LabelConfig, way: int) -> list[int]:
    """Return how many examples each class of a task has in its pool: fewer from the first to the last."""
    return [max(1, round(config.pool * config.skew ** (-k / max(1, way - 1)))) for k in range(way)]


def n_pool(config: LabelConfig, way: int) -> int:
    """Return how many examples a task's pool has."""
    return sum(in_pool(config, way)) + config.distractors * config.pool


def check(config: LabelConfig, acquire: Sequence[str], runs: Mapping[str, RunConfig]) -> None:
    """Refuse what cannot be asked for, before data are read.

    Args:
        runs: configurations by the folders that they are of.
    """
    wrong: list[str] = []
    for name in acquire:
        attempt(wrong, acquisition.get, name)
    first = next(iter(runs.values())).task
    for folder, run in runs.items():
        if any(getattr(run.task, key) != getattr(first, key) for key in SAME):
            wrong.append(
                f"{folder}: is of other data, ways, labels or domains than the first run; compare those of "
                "the same tasks"
            )
    if (kind := data.get(first.dataset).kind_of(first.options)) != "classification":
        wrong.append(f"{first.dataset}: is {kind}, where there are no labels to ask for; take other runs")
    elif first.labels == "fixed":
        wrong.append(
            "labels=fixed: outputs stand for classes, those without a label among them; take runs with "
            "shuffled labels"
        )
    elif first.ways[0] != first.ways[1]:
        wrong.append(f"way={first.way}: each run must have been trained for one number of ways")
    elif config.n_asked > (size := n_pool(config, first.ways[0])):
        wrong.append(
            f"rounds={config.rounds}, batch={config.batch}: {config.n_asked} labels, the pool has {size}; "
            "lower `rounds` or `batch`, or raise `pool`"
        )
    if not wrong:
        wrong += [line for name in acquire for line in _unfit(config, name, runs)]
    if wrong:
        raise MetabenchError("\n".join(wrong))


def _unfit(config: LabelConfig, name: str, runs: Mapping[str, RunConfig]) -> Iterator[str]:
    """Say what keeps an acquisition from asking."""
    about = acquisition.get(name)
    every = {one: acquisition.get(one) for one in acquisition.names() if one != "oracle"}
    if about.needs_labels and config.start == 0:
        able = " or ".join(one for one, its in every.items() if not its.needs_labels)
        yield f"acquire={name} with start=0: nothing to be unsure with; raise `start`, or take {able}"
    if about.learns is not None and config.rounds == 0:
        yield f"acquire={name} with rounds=0: nothing to learn; raise `rounds`"
    for folder, run in runs.items():
        if about.learns is not None and run.task.labelled < 1:
            yield (
                f"acquire={name}: learns by all labels of meta-train, of which {folder} sees a share, "
                f"labelled={run.task.labelled:g}; take other acquisitions, or runs with labelled=1"
            )
        head = algorithms.get(run.algorithm).head
        if about.heads and head not in about.heads:
            lacking = " or ".join(HEADS[one] for one in about.heads)
            able = ", ".join(one for one, its in every.items() if head in (its.heads or (head,)))
            yield f"acquire={name}: {run.algorithm} has no {lacking}; take one of {able}"


def task_of(config: LabelConfig, run: TaskConfig, split: Split, name: str) -> TaskConfig:
    """Describe the tasks that are drawn, or refuse a pool that is larger than a class."""
    if split.n_columns:
        raise MetabenchError(f"{name}: has tasks of its own, of which no pool can be drawn; take other runs")
    smallest = split.images.shape[1] if split.counts is None else int(split.counts.min())
    start = max(1, config.start)  # drawn in any case, so that tasks are the same from no label on
    query = config.query or min(run.test_query, max(1, smallest - start - config.pool))
    if start + config.pool + query > smallest:
        raise MetabenchError(
            f"pool={config.pool}: {name} has {smallest} examples a class; start={start}, query={query} leave "
            f"{max(0, smallest - start - query)}; lower it"
        )
    beside = {"unlabelled": config.pool, "distractors": config.distractors, "labelled": 1.0}
    usual = dict.fromkeys(("most_shots", "test_unlabelled", "test_distractors"))
    return run.model_copy(update={"shot": start, "test_query": query, **beside, **usual})
