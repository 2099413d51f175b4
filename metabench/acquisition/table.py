"""What asking for labels came to: figures at each number of labels, and gains over asking at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metabench import stats
from metabench.acquisition import REFERENCE
from metabench.core import MetabenchError

Line = Mapping[str, Any]
"""Of one run and one acquisition: `accuracy`, `classes` and `wasted`, [tasks][rounds + 1]."""


def rows(lines: Sequence[Line], labels: Sequence[int], reach: float) -> list[dict[str, Any]]:
    """Summarise each run with each acquisition, the highest area under the curve first.

    Args:
        labels: that a task has had, before the first round and after each.
        reach: accuracy whose number of labels is looked for.

    Returns:
        `accuracy` at each number of labels, each with its interval; `gain`, over random on the same tasks;
        `area`, the mean accuracy over the labels asked for, and its gain, with a p adjusted for all of a run;
        labels to reach the accuracy; the share of labels wasted; classes with a label at the end.
    """
    summarised = []
    for run in dict.fromkeys(line["run"] for line in lines):
        its = [line for line in lines if line["run"] == run]
        reference = next(line for line in its if line["acquire"] == REFERENCE)
        _refuse_other_start(its, reference)
        group = [_row(line, reference, labels, reach) for line in its]
        others = [row for row in group if row["acquire"] != REFERENCE]
        for row, p in zip(others, stats.holm([row["area_gain"].p for row in others]), strict=True):
            row["p_holm"] = p
        summarised += sorted(group, key=lambda row: -row["area"].mean)
    return summarised


def _refuse_other_start(lines: Sequence[Line], reference: Line) -> None:
    """Refuse lines that differ before a label was asked for: they are of other numbers."""
    for line in lines:
        if [row[0] for row in line["accuracy"]] != [row[0] for row in reference["accuracy"]]:
            raise MetabenchError(
                f"{line['run']}, {line['acquire']}: differs from {REFERENCE} before the first label: made on "
                "another machine or by another version; choose another folder"
            )


def area(accuracy: Any) -> Any:
    """Return the mean height of each task's curve [T, R + 1] by trapezia: [T]; of one point, itself."""
    y = np.asarray(accuracy, dtype=np.float64)
    return y.mean(1) if y.shape[1] == 1 else ((y[:, 1:] + y[:, :-1]) / 2).mean(1)


def _row(line: Line, reference: Line, labels: Sequence[int], reach: float) -> dict[str, Any]:
    accuracy, base = (np.asarray(one["accuracy"], dtype=np.float64) for one in (line, reference))
    wasted, classes = (np.asarray(line[key], dtype=np.float64) for key in ("wasted", "classes"))
    asked = max(1, labels[-1] - labels[0])
    gains = [_gain(one, other) for one, other in zip(accuracy.T, base.T, strict=True)]
    gains[0] = gains[0]._replace(low=0.0, high=0.0)  # of the very same learner
    reached = (n for n, mean in zip(labels, accuracy.mean(0), strict=True) if mean >= reach)
    return {
        "run": line["run"],
        "algorithm": line["algorithm"],
        "acquire": line["acquire"],
        "labels": list(labels),
        "accuracy": [stats.mean_interval(one, "share") for one in accuracy.T],
        "gain": gains,
        "area": stats.mean_interval(area(accuracy), "share"),
        "area_gain": _gain(area(accuracy), area(base)),
        "p_holm": None,
        "labels_to_reach": next(reached, None),
        "wasted": float(wasted[:, -1].mean() / asked),
        "classes": [float(one) for one in classes.mean(0)],
    }


def _gain(a: Any, b: Any) -> stats.Paired:
    """Compare two of the same network on the same tasks."""
    return stats.paired(a[None], b[None], (False, False), scale="share")


def is_sure(row: Mapping[str, Any]) -> bool:
    """Tell whether a row is surely ahead of random, or behind, over the whole curve, all rows considered."""
    return row["p_holm"] is not None and row["p_holm"] < 1 - stats.CONFIDENCE


def shown_p(p: float) -> str:
    """Show a p with three digits."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as cells of a table."""
    cells = {key: row[key] for key in ("run", "algorithm", "acquire")}
    for n_labels, one, gain in zip(row["labels"], row["accuracy"], row["gain"], strict=True):
        cells |= {f"accuracy_{n_labels}": one.mean, f"low_{n_labels}": one.low, f"high_{n_labels}": one.high}
        cells |= {f"gain_{n_labels}": gain.difference}
        cells |= {f"gain_low_{n_labels}": gain.low, f"gain_high_{n_labels}": gain.high}
    gain = row["area_gain"]
    cells |= {"area": row["area"].mean, "area_gain": gain.difference}
    cells |= {"area_gain_low": gain.low, "area_gain_high": gain.high, "p_holm": row["p_holm"]}
    return cells | {
        "labels_to_reach": row["labels_to_reach"],
        "wasted": row["wasted"],
        "classes": row["classes"][-1],
    }
