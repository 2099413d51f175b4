"""What the results of rows say: intervals, comparisons of every pair on the same tasks, and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metabench import stats
from metabench.core.metrics import SIGN
from metabench.leaderboard.folders import Record, Run, per_task

Row = dict[str, Any]

LEVEL = 1 - stats.CONFIDENCE

BEST = "best"
WORSE = "worse"
ALIKE = "not distinguishable"
IDENTICAL = "identical"

ONE_RESULT: Row = {
    **dict.fromkeys(("difference", "ci_low", "ci_high"), 0.0),
    "over": None,
    **dict.fromkeys(("p", "p_tasks"), float("nan")),
    "higher": 0.5,
    "verdict": IDENTICAL,
}
"""What is to be said of two rows with the very same results."""


class Scored(NamedTuple):
    """The figures of a row, on the board's tasks."""

    figures: stats.Floats  # [seeds, T], accuracies or errors
    is_trained: bool = True  # False: what learns nothing, which training again would not change


class Entry(NamedTuple):
    """A row, and its results where meta-test was opened."""

    row: Row
    scored: Scored | None = None


def array(test: Record) -> stats.Floats:
    """Return the figures of the tasks of a result; null becomes NaN."""
    return np.asarray(per_task(test), dtype=np.float64)


def scored(runs: Sequence[Run]) -> Scored | None:
    """Gather the seeds that were tested, if there are any."""
    tested = [run.test for run in runs if run.test is not None]
    return Scored(np.stack([array(test) for test in tested])) if tested else None


def classes_of(tests: Sequence[Record]) -> list[list[int]] | None:
    """Return the classes of each task, from whichever result recorded them; older ones did not."""
    found: list[str] | None = next((test["classes"] for test in tests if test.get("classes")), None)
    return None if found is None else [[int(name) for name in line.split()] for line in found]


def intervals(metric: str, found: Scored, design: stats.Design | None) -> Row:
    """Describe a row's mean, and each of its intervals with what it speaks of."""
    x = found.figures
    mean = stats.seeds_and_tasks(x) if found.is_trained else stats.mean_interval(x[0])
    row: Row = {metric: mean.mean, "ci_low": mean.low, "ci_high": mean.high, "ci_over": mean.over}
    row["test_tasks"] = x.shape[1]
    if len(x) > 1:
        again = stats.seed_interval(x)
        row |= {"seed_low": again.low, "seed_high": again.high}
    if design is not None:
        other = stats.class_interval(x, design)
        row |= {"class_low": other.low, "class_high": other.high, "class_over": other.over}
        row["classes"] = design.n_classes
    return row


def versus(a: Scored, b: Scored) -> Row:
    """Compare the first with the second, on the same tasks."""
    found = stats.paired(a.figures, b.figures, (a.is_trained, b.is_trained))
    return {
        "difference": found.difference,
        "ci_low": found.low,
        "ci_high": found.high,
        "over": found.over,
        "p": found.p,
        "p_tasks": found.p_tasks,
        "higher": found.higher,
    }


def compare(entries: Sequence[Entry], metric: str) -> list[Record]:
    """Compare every pair of rows with results, the better first; p is adjusted for the number of tests.

    A published setting that was also chosen stands on the board twice with the same results: it is tested
    once, and the two are not compared.
    """
    known = [entry for entry in entries if entry.scored is not None]
    known.sort(key=lambda entry: _order(entry, metric))
    results = {entry.row["name"]: _fingerprint(entry) for entry in known}
    tests: dict[tuple[bytes, bytes], Row] = {}
    pairs = [(better, worse) for place, better in enumerate(known) for worse in known[place + 1 :]]
    for better, worse in pairs:
        assert better.scored is not None, "or it is not known"
        assert worse.scored is not None, "or it is not known"
        key = results[better.row["name"]], results[worse.row["name"]]
        if key not in tests:
            tests[key] = dict(ONE_RESULT) if key[0] == key[1] else versus(better.scored, worse.scored)
    adjusted = stats.holm([test["p"] for test in tests.values()])
    for test, p in zip(tests.values(), adjusted, strict=True):
        test["p_holm"] = p
        test["verdict"] = test.get("verdict") or verdict(test["difference"], p, metric)
    names = [(better.row["name"], worse.row["name"]) for better, worse in pairs]
    return [{"a": a, "b": b, **tests[results[a], results[b]]} for a, b in names]


def _fingerprint(entry: Entry) -> bytes:
    assert entry.scored is not None, "or there is no result"
    return (
        repr((entry.scored.is_trained, entry.scored.figures.shape)).encode() + entry.scored.figures.tobytes()
    )


def verdict(difference: float, p: float, metric: str) -> str | None:
    """Say in words what a difference of the first from the second amounts to; None where it is unknown."""
    if np.isnan(difference):
        return None
    if not p < LEVEL:  # NaN: all tasks are equal
        return ALIKE
    return "better" if SIGN[metric] * difference > 0 else WORSE


def rank(entries: Sequence[Entry], compared: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Give rows their ranks, shared where they cannot be told apart, and their distance from the best."""
    known = [
        entry.row for entry in entries if entry.scored is not None and np.isfinite(entry.scored.figures).all()
    ]
    known.sort(key=lambda row: -SIGN[metric] * row[metric])
    place = {row["name"]: number for number, row in enumerate(known)}
    is_better = np.zeros((len(known), len(known)), bool)
    for pair in compared:
        if pair["a"] in place and pair["b"] in place:
            a, b = place[pair["a"]], place[pair["b"]]
            is_better[a, b] = pair["verdict"] == "better"
            is_better[b, a] = pair["verdict"] == WORSE
            if a == 0:
                known[b]["vs_best"] = _turned(pair, metric)
    for row, (low, high) in zip(known, stats.rank_ranges(is_better), strict=True):
        row |= {"rank": low, "rank_worst": high}


def _turned(pair: Mapping[str, Any], metric: str) -> Row:
    """Look at a comparison from the second's side."""
    turned = {"difference": -pair["difference"], "ci_low": -pair["ci_high"], "ci_high": -pair["ci_low"]}
    turned |= {"higher": 1 - pair["higher"]}
    kept = {key: pair[key] for key in ("over", "p", "p_tasks", "p_holm")}
    is_same = pair["verdict"] == IDENTICAL
    found = IDENTICAL if is_same else verdict(turned["difference"], pair["p_holm"], metric)
    return {**turned, **kept, "verdict": found}


def _order(entry: Entry, metric: str) -> float:
    assert entry.scored is not None, "or it has no mean"
    mean = float(entry.scored.figures.mean())
    return -SIGN[metric] * mean if np.isfinite(mean) else np.inf
