"""How a search stands: one summary for the live table, `metabench status`, TensorBoard and the report."""

from __future__ import annotations

import datetime
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from metabench.core import MetabenchError, metrics, utc_now
from metabench.core.config import SearchSpace, n_variants, rungs
from metabench.core.metrics import Metric
from metabench.search.journal.ledger import (
    COMPLETE,
    DIVERGED,
    FAILED,
    PRUNED,
    RUNNING,
    WAITING,
    Ledger,
    Trial,
    incumbent,
    look,
)
from metabench.storage import files, models, records

STATES = (RUNNING, WAITING, COMPLETE, PRUNED, DIVERGED, FAILED)
STAGES = ("search", "confirmation", "final runs", "meta-test", "finished")

FRESH_SECONDS = 300
"""How old the driver's snapshot may be while it still shows that a driver, perhaps elsewhere, is alive."""


def summarise(
    space: SearchSpace, ledger: Ledger, algorithm: str, metric: Metric, n_trials: int
) -> dict[str, Any]:
    """Count an algorithm's trials by state and by rung, and name its incumbent, its cost and its errors."""
    trials = ledger.of(algorithm)
    states = Counter(trial.state for trial in trials)
    reached = Counter(report["tasks_seen"] for trial in trials for report in trial.reports)
    best, gain = incumbent(trial for trial in trials if ledger.place(trial) is not None), None
    if _is_modelled(space):
        best, gain = _believed(space, ledger, algorithm)
    return {
        "planned": n_trials,
        "proposed": len(trials),
        **{state: states[state] for state in STATES},
        "rungs": {str(rung): reached[rung] for rung in rungs(space.budget)},
        "incumbent": best
        and {
            "trial": best.name,
            "hyperparameters": best.hyperparameters,
            "tasks_seen": best.tasks_seen,
            f"val_{metric}": metric.sign * (best.score or 0.0),
        },
        "hourly_gain": gain,
        "tasks_seen": sum(trial.tasks_seen for trial in trials),
        "seconds": sum(trial.seconds for trial in trials),
        "errors": {trial.name: trial.error.splitlines()[-1] for trial in trials if trial.error},
    }


def _is_modelled(space: SearchSpace) -> bool:
    return space.budget.scheduler == "freeze_thaw"


def _believed(space: SearchSpace, ledger: Ledger, algorithm: str) -> tuple[Trial | None, float | None]:
    """Return the leader by the model of an algorithm's curves, and what another hour is expected to gain."""
    # Only here, since they import torch, and status of any other search is quick.
    from metabench.search import space as spaces
    from metabench.search.journal import freeze
    from metabench.search.propose import points

    its = spaces.of(space, algorithm)
    gain = freeze.hourly_gain(ledger, its, space.budget, points.spread(its, 0))
    return freeze.incumbent(ledger, its, space.budget), gain


def _allowed(space: SearchSpace, algorithms: Iterable[Mapping[str, Any]]) -> float:
    """Return the tasks that algorithms with a model may still see."""
    from metabench.search.journal import freeze

    ahead = (freeze.allowance(space.budget, part["planned"]) - part["tasks_seen"] for part in algorithms)
    return sum(max(0.0, tasks) for tasks in ahead)


def outlook(metric: Metric, gain: float) -> str:
    """Say what is expected of more time."""
    return f"another hour of a worker is expected to gain {metrics.gap(metric, gain)}"


def table(algorithms: Mapping[str, Mapping[str, Any]], metric: Metric) -> Table:
    """Show the summaries of algorithms."""
    shown = Table(box=None, pad_edge=False, collapse_padding=True)  # fits into 80 columns
    shown.add_column("algorithm", no_wrap=True, overflow="fold")
    for name in ("trials", *STATES, "tasks", "seconds", "best"):
        shown.add_column(name, justify="right")
    for name, part in algorithms.items():
        best = part["incumbent"] and part["incumbent"][f"val_{metric}"]
        shown.add_row(
            name,
            f"{part['proposed']}/{part['planned']}",
            *(str(part[state]) for state in STATES),
            str(part["tasks_seen"]),
            f"{part['seconds']:.0f}",
            "-" if best is None else metrics.show(metric, best),
        )
    return shown


def planned(record: Mapping[str, Any], space: SearchSpace) -> dict[str, int]:
    """Return the trials of each algorithm, of which a space of few settings has fewer than its budget."""
    counts = record.get("planned", {})
    return {algorithm: counts.get(algorithm, space.budget.trials) for algorithm in space.algorithms}


def read(folder: Path) -> dict[str, Any]:
    """Return what a search folder says by now; touches no file."""
    if (record := records.optional(folder / files.SEARCH, models.SEARCH)) is None:
        raise MetabenchError(f"{folder}: holds no search; give the folder of one, such as runs/demo")
    space, metric = SearchSpace.model_validate(record["space"]), metrics.recorded(record)
    snapshot = records.optional(folder / files.RUNNING, models.SNAPSHOT) or {}
    ledger, final = look(folder, record.get("outside", [])), _final(folder, space)
    algorithms = {
        name: summarise(space, ledger, name, metric, n_trials)
        for name, n_trials in planned(record, space).items()
    }
    meta_test = records.optional(folder / files.META_TEST, models.META_TEST)
    summary = {
        "folder": str(folder),
        "stage": _stage(folder, meta_test, algorithms, _is_modelled(space)),
        "is_driven": files.is_locked(folder) or _is_fresh(snapshot),
        "metric": metric.name,
        "rungs": rungs(space.budget),
        "algorithms": algorithms,
        "final_runs": final,
        "spent": {
            key: sum(part[name] for part in (*algorithms.values(), final))
            for key, name in (("tasks", "tasks_seen"), ("seconds", "seconds"))
        },
        "nodes": snapshot.get("nodes", []),
        "slots": snapshot.get("slots"),
        "changes": len(record.get("changes", [])),
        "meta_test": meta_test,
    }
    return {**summary, "expected": _expected(summary, _tasks_left(space, ledger, summary))}


def _final(folder: Path, space: SearchSpace) -> dict[str, Any]:
    runs = [path for path in sorted((folder / files.FINAL).glob("*")) if (path / files.CONFIG).exists()]
    last = [(records.lines(path / files.REPORTS, models.REPORT) or [{}])[-1] for path in runs]
    ended = [line.get("tasks_seen", 0) >= space.budget.tasks or not line.get("finite", True) for line in last]
    return {
        "planned": n_variants(space.budget)
        * space.budget.seeds
        * len(space.algorithms),  # at most: a default may be the choice too
        "started": len(runs),
        "ended": sum(ended),
        "tasks_seen": sum(line.get("tasks_seen", 0) for line in last),
        "seconds": sum(line.get("seconds", 0.0) for line in last),
    }


def _stage(
    folder: Path,
    meta_test: Mapping[str, Any] | None,
    algorithms: Mapping[str, Mapping[str, Any]],
    is_modelled: bool,
) -> str:
    if meta_test is not None:
        return STAGES[4 if meta_test["finished"] else 3]
    if (folder / files.CHOSEN).exists():
        return STAGES[2]
    ended = sum(part["proposed"] - part[RUNNING] - part[WAITING] for part in algorithms.values())
    # A model may try fewer than planned; who waits is stopped in the end, and in no other way.
    is_over = is_modelled and ended and not any(part[RUNNING] + part[WAITING] for part in algorithms.values())
    return STAGES[1 if is_over or ended >= sum(part["planned"] for part in algorithms.values()) else 0]


def _tasks_left(space: SearchSpace, ledger: Ledger, summary: Mapping[str, Any]) -> float:
    """Guess the meta-train tasks that are left, from what ended trials took on average."""
    trials = ledger.trials.values()
    ended = [trial.tasks_seen for trial in trials if trial.state != RUNNING]
    usual = statistics.fmean(ended) if ended else space.budget.grace
    running = sum(max(0.0, usual - trial.tasks_seen) for trial in trials if trial.state == RUNNING)
    final = summary["final_runs"]
    runs = final["planned"] * space.budget.tasks - final["tasks_seen"]
    parts = summary["algorithms"].values()
    ahead = (sum(part["planned"] for part in parts) - len(trials)) * usual + running
    if _is_modelled(space) and space.budget.seconds is None:
        ahead = _allowed(space, parts) if summary["stage"] == STAGES[0] else 0.0
    return float(ahead + max(0, runs))


def _expected(summary: Mapping[str, Any], tasks_left: float) -> dict[str, Any] | None:
    """Say how much is left and when it may end; None where that cannot be told or nothing is left."""
    spent, slots = summary["spent"], summary["slots"]
    if summary["stage"] in STAGES[3:] or not spent["tasks"] or not spent["seconds"]:
        return None
    seconds = tasks_left * spent["seconds"] / spent["tasks"]
    end = utc_now() + datetime.timedelta(seconds=seconds / slots) if slots else None
    return {
        "tasks_left": round(tasks_left),
        "accelerator_seconds_left": seconds,
        "end": end and end.isoformat(timespec="minutes"),
    }


def _is_fresh(snapshot: Mapping[str, Any]) -> bool:
    """Tell whether the driver, perhaps of another machine, wrote a short while ago."""
    if "updated" not in snapshot:
        return False
    age = utc_now() - datetime.datetime.fromisoformat(snapshot["updated"])
    return age.total_seconds() < FRESH_SECONDS
