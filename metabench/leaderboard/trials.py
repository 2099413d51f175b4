"""What trials and runs reached on meta-validation, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable

from metabench.core.metrics import SIGN
from metabench.leaderboard.folders import Record
from metabench.leaderboard.scores import Row


def figure(entry: Record, metric: str) -> float | None:
    """Return a trial's or report's meta-validation figure; a report holds an error as its score."""
    known: float | None = entry.get(f"val_{metric}")
    score = entry.get("val_score")
    return SIGN[metric] * score if known is None and score is not None else known


def best(reported: Iterable[Record], metric: str) -> Record | None:
    """Return the trial or report of the best meta-validation; one that diverged has none."""
    judged = [
        (SIGN[metric] * known, entry)
        for entry in reported
        if (known := figure(entry, metric)) is not None
        and entry.get("finite", True)
        and entry.get("status") not in ("diverged", "failed")
    ]
    return max(judged, key=lambda pair: pair[0], default=(0.0, None))[1]


def cost(reported: Iterable[Record]) -> Row:
    """Add up last reports; one that is not there yet cost nothing that is known."""
    entries = list(reported)
    accelerators = [_accelerator_seconds(entry) for entry in entries]
    known = [seconds for seconds in accelerators if seconds is not None]
    return {
        "tasks_seen": sum(entry.get("tasks_seen") or 0 for entry in entries),
        "seconds": sum(entry.get("seconds") or 0.0 for entry in entries),
        "accelerator_seconds": sum(known) if len(known) == len(entries) else None,
        "peak_memory": max((entry.get("peak_memory") or 0 for entry in entries), default=0),
    }


def _accelerator_seconds(entry: Record) -> float | None:
    """Weigh the seconds before each report by the share of a GPU that it had; None where it is not known."""
    spent, before = 0.0, 0.0
    for report in entry.get("reports") or [entry]:
        if report.get("gpus") is None and report.get("seconds"):
            return None
        spent += ((report.get("seconds") or 0.0) - before) * (report.get("gpus") or 1.0)
        before = report.get("seconds") or 0.0
    return spent
