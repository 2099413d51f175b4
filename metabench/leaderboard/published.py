"""Published figures that stand beside measured ones: reference rows, not measured here.

Their tasks, and often their seeds and their choice of weights, are not known, so they have no rank and are
compared with nothing. "Second hand" says that a figure was seen quoted by others, not in the paper itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from metabench.leaderboard.folders import metric_of
from metabench.leaderboard.rows import PUBLISHED, make_row
from metabench.leaderboard.scores import Entry

SECOND_HAND = "second hand"
FINN = f"Finn et al. 2017, {SECOND_HAND}"
NICHOL = f"Nichol et al. 2018, {SECOND_HAND}"
ANTONIOU = f"Antoniou et al. 2019, {SECOND_HAND}"
RAGHU = f"Raghu et al. 2020, {SECOND_HAND}"
SNELL = f"Snell et al. 2017, {SECOND_HAND}"
VINYALS = f"Vinyals et al. 2016, {SECOND_HAND}"
META_SGD = f"Li et al. 2017, {SECOND_HAND}"
ENSEMBLE = "ensemble of 5"


class Figure(NamedTuple):
    """One published accuracy in percent, with the half-width of its interval as it was published."""

    algorithm: str
    percent: float
    half_width: float | None
    source: str
    model: str = "single"
    batch_norm: str | None = "transductive"  # the literature's habit, where the source says no other


OMNIGLOT: Mapping[tuple[int, int], tuple[Figure, ...]] = {
    (5, 1): (
        Figure("maml", 98.7, 0.4, FINN),
        Figure("fomaml", 98.3, 0.5, NICHOL),
        Figure("reptile", 97.68, 0.04, NICHOL),
        Figure("maml_pp", 99.47, None, ANTONIOU, ENSEMBLE, None),
        Figure("protonet", 98.8, None, SNELL, batch_norm=None),
        Figure("matching", 98.1, None, VINYALS, batch_norm=None),
    ),
    (5, 5): (
        Figure("maml", 99.9, 0.1, FINN),
        Figure("fomaml", 99.2, 0.2, NICHOL),
        Figure("reptile", 99.48, 0.06, NICHOL),
        Figure("protonet", 99.7, None, SNELL, batch_norm=None),
        Figure("matching", 98.9, None, VINYALS, batch_norm=None),
    ),
    (20, 1): (
        Figure("maml", 95.8, 0.3, FINN),
        Figure("fomaml", 89.4, 0.5, NICHOL),
        Figure("reptile", 89.43, 0.14, NICHOL),
        Figure("maml_pp", 97.65, 0.05, ANTONIOU, ENSEMBLE, None),
        Figure("anil", 96.2, 0.5, RAGHU),
        Figure("protonet", 96.0, None, SNELL, batch_norm=None),
        Figure("matching", 93.8, None, VINYALS, batch_norm=None),
    ),
    (20, 5): (
        Figure("maml", 98.9, 0.2, FINN),
        Figure("fomaml", 97.9, 0.1, NICHOL),
        Figure("reptile", 97.12, 0.32, NICHOL),
        Figure("maml_pp", 99.33, 0.03, ANTONIOU, ENSEMBLE, None),
        Figure("anil", 98.0, 0.3, RAGHU),
        Figure("protonet", 98.9, None, SNELL, batch_norm=None),
        Figure("matching", 98.5, None, VINYALS, batch_norm=None),
    ),
}
"""Ways and shots to figures on Omniglot."""

MINI_IMAGENET: Mapping[tuple[int, int], tuple[Figure, ...]] = {
    (5, 1): (
        Figure("maml", 48.70, 1.84, FINN),
        Figure("fomaml", 48.07, 1.75, FINN),
        Figure("reptile", 49.97, 0.32, NICHOL),
        Figure("meta_sgd", 50.47, 1.87, META_SGD),
        Figure("maml_pp", 52.15, 0.26, ANTONIOU, ENSEMBLE, None),
        Figure("anil", 46.7, 0.4, RAGHU),
        Figure("protonet", 49.42, 0.78, SNELL, batch_norm=None),
    ),
    (5, 5): (
        Figure("maml", 63.11, 0.92, FINN),
        Figure("fomaml", 63.15, 0.91, FINN),
        Figure("reptile", 65.99, 0.58, NICHOL),
        Figure("meta_sgd", 64.03, 0.94, META_SGD),
        Figure("maml_pp", 68.32, 0.44, ANTONIOU, ENSEMBLE, None),
        Figure("anil", 61.5, 0.5, RAGHU),
        Figure("protonet", 68.20, 0.66, SNELL, batch_norm=None),
    ),
}

CLOUDERA_SOURCE = "Cloudera Fast Forward, learning-to-learn, results.json"
CLOUDERA: Mapping[tuple[int, int, int], float] = {
    (100, 5, 1): 68.32,
    (100, 5, 5): 82.57,
    (100, 5, 10): 85.12,
    (100, 10, 1): 50.69,
    (100, 10, 5): 70.48,
    (100, 10, 10): 74.91,
    (20, 5, 1): 59.36,
    (20, 5, 5): 76.95,
    (20, 5, 10): 77.29,
    (20, 10, 1): 42.58,
    (20, 10, 5): 58.23,
    (20, 10, 10): 60.60,
}
"""Drawings of a class, ways and shots to the accuracy of MAML on Quick, Draw!, in percent."""


def figures(task: Mapping[str, Any]) -> tuple[Figure, ...]:
    """List what was published for a task: the same data, ways and shots, and nothing special about it."""
    special = ("most_shots", "unlabelled", "distractors")
    if any(task.get(key) for key in special) or task.get("domains", "any") != "any":
        return ()
    way, shot, split = task["way"], task["shot"], task.get("split")
    if isinstance(way, dict) or isinstance(shot, dict):
        return ()
    if task["dataset"] == "omniglot" and split in (None, "vinyals", "maml"):
        return OMNIGLOT.get((way, shot), ())
    if task["dataset"] == "mini_imagenet":
        return MINI_IMAGENET.get((way, shot), ())
    pool = (task.get("options") or {}).get("examples_per_class", 100)
    if task["dataset"] == "quickdraw" and split in (None, "cloudera") and (pool, way, shot) in CLOUDERA:
        return (Figure("maml", CLOUDERA[pool, way, shot], None, CLOUDERA_SOURCE),)
    return ()


def entries(task: Mapping[str, Any]) -> list[Entry]:
    """Make the reference rows of a task."""
    found = []
    for one in figures(task):
        half = one.half_width
        row = make_row(
            metric_of(dict(task)),
            algorithm=one.algorithm,
            variant=PUBLISHED,
            status=PUBLISHED,
            accuracy=one.percent / 100,
            ci_low=None if half is None else (one.percent - half) / 100,
            ci_high=None if half is None else (one.percent + half) / 100,
            ci_over=None if half is None else "as published",
            model=one.model,
            batch_norm=one.batch_norm,
            source=one.source,
        )
        found.append(Entry(row))
    return found
