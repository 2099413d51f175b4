"""What rows say of two groups, where it is known who is protected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from metabench import stats
from metabench.leaderboard.folders import Record
from metabench.leaderboard.scores import Entry, Row, Scored

KEYS = (
    "balanced_accuracy",
    *("dp_gap", "dp_low", "dp_high"),  # how far apart the groups' rates of the wanted outcome are
    *("dp_class_low", "dp_class_high"),  # the same over other tasks' places, such as states
    "dp_ratio",  # the smaller of these rates over the larger
    *("eo_gap", "eo_low", "eo_high"),  # of those who deserve the outcome alone
    *("gap_tasks", "eo_tasks"),  # of which tasks a gap is known
    "by_place",  # [place, queries, protected ones, accuracy, gap], of all seeds
)
"""Of a row, beside its accuracy; pooled over tasks."""

AT_THRESHOLDS = " at thresholds"
"""Behind the name of a row that guesses by a threshold for each group, and so asks for queries' groups."""


def described(groups: Scored | None, classes: stats.Design | None) -> Row:
    """Return a row's measures with their intervals, over seeds and tasks and over places of tasks."""
    if groups is None:
        return {}
    figures = stats.measures(groups.figures)
    row: Row = {name: None if x is None else float(x.mean()) for name, x in figures.items()}
    del row["accuracy"]  # which is a mean over tasks, and not pooled
    for name in ("dp", "eo"):
        if (x := figures[f"{name}_gap"]) is not None:
            row |= _bounds(name, stats.seeds_and_tasks(x))
            if name == "dp" and classes is not None:
                row |= _bounds("dp_class", stats.class_interval(x, classes))
    row["gap_tasks"], row["eo_tasks"] = stats.n_defined(groups.figures[0])
    return row


def _bounds(name: str, around: stats.Interval) -> Row:
    """Name the bounds of a gap's interval: of the difference it is the size of, or of seeds' mean size."""
    return {f"{name}_low": max(0.0, around.low), f"{name}_high": min(1.0, around.high)}


def by_place(tests: Sequence[Record]) -> Row:
    """Say how each place that tasks are draws of fares; nothing where groups are not known."""
    if any("groups" not in test for test in tests):
        return {}
    counts: dict[str, list[list[int]]] = {}
    for test in tests:
        for line, of_task in zip(test["classes"], test["groups"], strict=True):
            counts.setdefault(test["class_names"][int(line)], []).append(of_task)
    return {"by_place": [_place(name, np.array(counts[name])) for name in sorted(counts)]}


def _place(name: str, counts: np.ndarray) -> list[Any]:
    measured = stats.measures(counts)
    accuracy, gap = (
        None if (x := measured[key]) is None else float(x.mean()) for key in ("accuracy", "dp_gap")
    )
    return [name, int(counts.sum()), int(counts[:, 4:].sum()), accuracy, gap]


def at_thresholds(entries: Sequence[Entry], classes: stats.Design | None) -> list[Entry]:
    """Return a row of each that learns, by thresholds that grant as many of both on meta-validation."""
    made = []
    for row, *_, adjusted in entries:
        if adjusted is None:
            continue
        right = np.take(adjusted.figures, (0, 3, 4, 7), axis=-1).sum(-1) / adjusted.figures.sum(-1)
        mean = stats.seeds_and_tasks(right, "share")
        label = f" ({row['label']})" if row["label"] else ""
        said = {
            **{key: row[key] for key in ("status", "hyperparameters", "folder")},
            "algorithm": f"{row['algorithm']} {row['variant']}{label}{AT_THRESHOLDS}",
            "variant": "baseline",
            "accuracy": mean.mean,
            "accuracy_together": mean.mean,
            **dict(zip(("ci_low", "ci_high", "ci_over"), mean[1:], strict=True)),
            "test_tasks": right.shape[1],
        }
        if classes is not None:
            bounds = stats.class_interval(right, classes, "share")[1:]
            said |= dict(zip(("class_low", "class_high", "class_over"), bounds, strict=True))
        made.append(Entry({**dict.fromkeys(row), **said, **described(adjusted, classes)}))
    return made
