"""What the results of rows say: intervals, comparisons of every pair on the same tasks, and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metabench import stats
from metabench.core.metrics import Metric
from metabench.leaderboard.folders import Record, Run

Row = dict[str, Any]

LEVEL = 1 - stats.CONFIDENCE

BETTER = "better"
WORSE = "worse"
ALIKE = "not distinguishable"
IDENTICAL = "identical"

SAYS = ("difference", "ci_low", "ci_high", "over", "p", "p_tasks", "higher")
"""What is said of a pair of rows."""

ONE_RESULT: Row = {
    **dict(zip(SAYS, (0.0, 0.0, 0.0, None, np.nan, np.nan, 0.5), strict=True)),
    "verdict": IDENTICAL,
}
"""What is to be said of two rows with the very same results."""


class Scored(NamedTuple):
    """The figures of a row, on the board's tasks."""

    figures: stats.Floats  # [seeds, T], accuracies or errors
    is_trained: bool = True  # False: what learns nothing, which training again would not change


class Entry(NamedTuple):
    """A row, and its results where there are any."""

    row: Row
    scored: Scored | None = None
    alone: Scored | None = None  # each query by itself


def figures_of(test: Record, metric: Metric) -> stats.Floats:
    """Return the figures of the tasks of a result; null becomes NaN."""
    return np.asarray(test[metric.name], dtype=np.float64)


def scored(runs: Sequence[Run], metric: Metric) -> Scored | None:
    """Gather the seeds that were tested, if there are any."""
    figures = [figures_of(run.test, metric) for run in runs if run.test is not None]
    return Scored(np.stack(figures)) if figures else None


def with_results(entries: Sequence[Entry]) -> list[tuple[Row, Scored]]:
    """List the rows that have results."""
    return [(entry.row, entry.scored) for entry in entries if entry.scored is not None]


def intervals(metric: Metric, scores: Scored, design: stats.Design | None) -> Row:
    """Describe a row's mean, and each of its intervals with what it speaks of."""
    x = scores.figures
    mean = stats.seeds_and_tasks(x) if scores.is_trained else stats.mean_interval(x[0])
    row: Row = {metric.name: mean.mean, "ci_low": mean.low, "ci_high": mean.high, "ci_over": mean.over}
    row["test_tasks"] = x.shape[1]
    if len(x) > 1:
        again = stats.seed_interval(x)
        row |= {"seed_low": again.low, "seed_high": again.high}
    if design is not None:
        row |= {**of_classes(stats.class_interval(x, design)), "classes": design.n_classes}
    return row


def of_classes(interval: stats.Interval | None) -> Row:
    """Name the bounds of an interval for other test classes; None where classes were not recorded."""
    low, high, over = (None, None, None) if interval is None else interval[1:]
    return {"class_low": low, "class_high": high, "class_over": over}


def versus(a: Scored, b: Scored) -> Row:
    """Compare the first with the second, on the same tasks."""
    pair = stats.paired(a.figures, b.figures, (a.is_trained, b.is_trained))
    figures = (pair.difference, pair.low, pair.high, pair.over, pair.p, pair.p_tasks, pair.higher)
    return dict(zip(SAYS, figures, strict=True))


def compare(entries: Sequence[Entry], metric: Metric) -> list[Record]:
    """Compare every pair of rows with results, the better first; p is adjusted for the number of tests.

    A published setting that was also chosen stands on the board twice with the same results: it is tested
    once, and the two are not compared.
    """
    tested = sorted(with_results(entries), key=lambda pair: _order(pair[1], metric))
    results = {
        row["name"]: (scores.is_trained, scores.figures.shape, scores.figures.tobytes())
        for row, scores in tested
    }
    pairs = [(better, worse) for place, better in enumerate(tested) for worse in tested[place + 1 :]]
    tests: dict[Any, Row] = {}
    for (a, better), (b, worse) in pairs:
        key = results[a["name"]], results[b["name"]]
        if key not in tests:
            tests[key] = dict(ONE_RESULT) if key[0] == key[1] else versus(better, worse)
    adjusted = stats.holm([test["p"] for test in tests.values()])
    for test, p in zip(tests.values(), adjusted, strict=True):
        test["p_holm"] = p
        test["verdict"] = test.get("verdict") or verdict(test["difference"], p, metric)
    names = [(a["name"], b["name"]) for (a, _), (b, _) in pairs]
    return [{"a": a, "b": b, **tests[results[a], results[b]]} for a, b in names]


def verdict(difference: float, p: float, metric: Metric) -> str | None:
    """Say in words what a difference of the first from the second amounts to; None where it is unknown."""
    if np.isnan(difference):
        return None
    if not p < LEVEL:  # NaN: all tasks are equal
        return ALIKE
    return BETTER if metric.sign * difference > 0 else WORSE


def rank(entries: Sequence[Entry], compared: Sequence[Mapping[str, Any]], metric: Metric) -> None:
    """Give rows their ranks, shared where they cannot be told apart, and their distance from the best."""
    ranked = [row for row, scores in with_results(entries) if np.isfinite(scores.figures).all()]
    ranked.sort(key=lambda row: -metric.sign * row[metric.name])
    place = {row["name"]: number for number, row in enumerate(ranked)}
    is_better = np.zeros((len(ranked), len(ranked)), bool)
    for pair in compared:
        if pair["a"] in place and pair["b"] in place:
            a, b = place[pair["a"]], place[pair["b"]]
            is_better[a, b], is_better[b, a] = pair["verdict"] == BETTER, pair["verdict"] == WORSE
            if a == 0:
                ranked[b]["vs_best"] = _turned(pair, metric)
    for row, (low, high) in zip(ranked, stats.rank_ranges(is_better), strict=True):
        row |= {"rank": low, "rank_worst": high}


def _turned(pair: Mapping[str, Any], metric: Metric) -> Row:
    """Look at a comparison from the second's side."""
    difference = -pair["difference"]
    is_same = pair["verdict"] == IDENTICAL
    return {
        "difference": difference,
        "ci_low": -pair["ci_high"],
        "ci_high": -pair["ci_low"],
        "higher": 1 - pair["higher"],
        **{key: pair[key] for key in ("over", "p", "p_tasks", "p_holm")},
        "verdict": IDENTICAL if is_same else verdict(difference, pair["p_holm"], metric),
    }


def _order(scores: Scored, metric: Metric) -> float:
    mean = float(scores.figures.mean())
    return -metric.sign * mean if np.isfinite(mean) else np.inf
