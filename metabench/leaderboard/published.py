"""Published figures that stand beside measured ones: reference rows, not measured here.

Their tasks, and often their seeds and their choice of weights, are not known, so they have no rank and are
compared with nothing. `published.yaml` beside this file holds them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from metabench.core.metrics import ACCURACY
from metabench.leaderboard.rows import PUBLISHED, make_row
from metabench.leaderboard.scores import Entry

USUAL_EXAMPLES = 100
"""Drawings of a class in Quick, Draw!'s tasks that do not say how many."""


class Figure(NamedTuple):
    """One published accuracy in percent, with the half-width of its interval as it was published."""

    algorithm: str
    percent: float
    source: str
    half_width: float | None = None
    model: str = "single"
    batch_norm: str | None = "transductive"
    test_query: int | None = None  # queries a class that it was tested with, where that is known


@functools.cache
def cells() -> dict[str, Any]:
    """Read what was published: data sets to their splits, and to figures by ways and shots."""
    loaded: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return loaded


def figures(task: Mapping[str, Any]) -> tuple[Figure, ...]:
    """List what was published for a task: the same data, ways and shots, and nothing special about it."""
    special = ("most_shots", "unlabelled", "distractors", "test_unlabelled", "labelled")
    published = cells().get(task["dataset"])
    if published is None or any(task.get(key) for key in special) or task.get("domains", "any") != "any":
        return ()
    if task.get("split") not in published.get("splits", [task.get("split")]):
        return ()
    options = task.get("options") or {}
    asked = {"examples_per_class": options.get("examples_per_class", USUAL_EXAMPLES), **task}
    for cell in published["cells"]:
        if all(asked[key] == value for key, value in cell.items() if key != "figures"):
            return tuple(Figure(**one) for one in cell["figures"])
    return ()


def has_other_queries(one: Figure, task: Mapping[str, Any]) -> bool:
    """Tell whether a figure is known to be of tasks with more or fewer queries."""
    return one.test_query not in (None, task["test_query"])


def entries(task: Mapping[str, Any]) -> list[Entry]:
    """Make the reference rows of a task."""
    made = []
    for one in figures(task):
        described = one._asdict()
        percent, half, n_queries = (described.pop(key) for key in ("percent", "half_width", "test_query"))
        row = make_row(ACCURACY, **described, variant=PUBLISHED, status=PUBLISHED)
        row |= dict.fromkeys(("accuracy", "accuracy_together"), percent / 100)
        if has_other_queries(one, task):
            queries = f"{n_queries} {'query' if n_queries == 1 else 'queries'} a class"
            row["source"] += f"; tested with {queries}, here {task['test_query']}"
        if half is not None:
            row |= {"ci_low": (percent - half) / 100, "ci_high": (percent + half) / 100}
            row["ci_over"] = "as published"
        made.append(Entry(row))
    return made
