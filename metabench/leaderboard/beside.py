"""What a row says of unlabelled images: how many examples had a label, and what the others were for."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from metabench import stats
from metabench.leaderboard.folders import Run
from metabench.leaderboard.scores import Row, gathered, scored

KEYS = (
    "labelled",  # share of meta-train's examples that had a label; None: all
    # On the same tasks without unlabelled images, and with those of the task's classes alone.
    *("accuracy_without_unlabelled", "accuracy_without_distractors"),
    *("gain", "gain_low", "gain_high"),  # by unlabelled images, the same networks on the same tasks
    # How far images of the task's classes, and distractors, counted as theirs; how well it tells them.
    *("taken", "taken_distractors", "taken_auroc"),
)


def unlabelled(runs: Sequence[Run]) -> Row:
    """Describe tested runs whose tasks have unlabelled images, or whose training had few labelled ones."""
    metric, results = runs[0].metric, scored(runs, runs[0].metric)
    row: Row = {"labelled": runs[0].task.get("labelled")}
    parts = {
        part: gathered(runs, f"{metric}_without_{part}", "moved") for part in ("unlabelled", "distractors")
    }
    row |= {
        f"{metric}_without_{part}": float(scores.figures.mean())
        for part, scores in parts.items()
        if scores is not None
    }
    if results is not None and (without := parts["unlabelled"]) is not None:
        gain = stats.seeds_and_tasks(results.figures - without.figures)
        row |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
    seen = [run.test["unlabelled"] for run in runs if run.test is not None and "unlabelled" in run.test]
    for key, name in (
        ("taken", "taken"),
        ("taken_distractors", "taken_distractors"),
        ("auroc", "taken_auroc"),
    ):
        figures = [one[key] for one in seen if one[key] is not None]
        row[name] = statistics.fmean(figures) if figures else None
    return row
