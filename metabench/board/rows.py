"""Rows of the leaderboard: one a setting, from what the folders hold by now."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metabench import stats, store
from metabench.board.folders import Record, Run, Search, metric_of, per_task, task_of
from metabench.core import MetabenchError
from metabench.figures import SIGN

Row = dict[str, Any]

TUNED = "tuned"
DEFAULT = "default"
RUN = "run"
BASELINE = "baseline"

KEYS = (
    "algorithm",
    "variant",  # tuned and default of a search; run: a bare run folder; baseline
    "status",  # finished, running, or untested: a bare run whose meta-test was not opened
    "accuracy",
    "ci_low",
    "ci_high",
    "ci_over",  # what the interval speaks of: "seeds and tasks", or "tasks" where there is one seed
    "seeds",  # tested; fewer than planned where a run diverged
    "seeds_planned",
    "test_tasks",
    "batch_norm",
    "hyperparameters",
    "trials",  # tuned: of the algorithm's whole search, as the next two; else what the row itself took
    "tasks_seen",
    "seconds",
    "peak_memory",
    "val_accuracy",
    "confirm_accuracy",
    "vs_default",
    "times_opened",  # how often meta-test was, at most
    "folder",
)

ERROR_KEYS = ("error", "val_error", "confirm_error")
"""What rows of regression have besides; there, what is called accuracy is None."""


def keys(metric: str) -> tuple[str, ...]:
    """List the keys of a row where tasks are judged by a metric."""
    return (*KEYS, *ERROR_KEYS) if metric == "error" else KEYS


def search_rows(search: Search) -> list[Row]:
    """Make the tuned and the default row of each algorithm, and those of what learns nothing."""
    rows = []
    metric = metric_of(task_of(search))
    for algorithm in search.config["space"]["algorithms"]:
        rows.append(_tuned_row(search, algorithm))
        rows += _default_row(search, algorithm)
    for name, baseline in search.baselines.items():
        figures = _array(baseline)
        scored = _interval_keys(metric, stats.mean_interval(figures), len(figures))
        rows.append(_row(metric, algorithm=name, variant=BASELINE, status="finished", **scored))
    return rows


def run_rows(runs: Sequence[Run]) -> list[Row]:
    """Make one row of the run folders that differ in their seed only."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        described = {key: value for key, value in run.config["run"].items() if key != "seed"}
        groups.setdefault(json.dumps(described, sort_keys=True), []).append(run)
    return [_run_row(group) for group in groups.values()]


def chance_rows(task: Record) -> list[Row]:
    """Make the row of guessing, where there are classes to guess."""
    metric = metric_of(task)
    if metric != "accuracy":
        return []
    way = task["way"]
    ways = range(way["low"], way["high"] + 1) if isinstance(way, dict) else [way]
    chance = statistics.fmean(1 / one for one in ways)  # each as likely
    guessed = {"algorithm": "chance", "variant": BASELINE, "status": "finished", "accuracy": chance}
    return [_row(metric, **guessed)]


def order(row: Row, metric: str) -> float:
    """Order rows best first; a row that is not tested yet stands where its meta-validation puts it."""
    known = (value for value in (row[metric], row[f"val_{metric}"]) if value is not None)
    return -SIGN[metric] * float(next(known, -SIGN[metric] * math.inf))


def _tuned_row(search: Search, algorithm: str) -> Row:
    ended = [trial for trial in search.trials if trial["algorithm"] == algorithm]
    live = [trial for trial in search.running if trial["algorithm"] == algorithm]
    runs = search.runs.get((algorithm, TUNED), [])
    metric = metric_of(task_of(search))
    chosen = search.chosen.get(algorithm) or _best([*ended, *live], metric) or {}
    return _search_row(search, algorithm, TUNED) | {
        **_scores(runs, metric),
        "hyperparameters": chosen.get("hyperparameters"),
        "trials": len(ended),
        **_cost([*ended, *live]),
        f"val_{metric}": _figure(chosen, metric),
        f"confirm_{metric}": chosen.get(f"confirm_{metric}"),
        "vs_default": _versus(search, algorithm),
    }


def _default_row(search: Search, algorithm: str) -> list[Row]:
    """Return the row of the published setting, or nothing while nothing is known of it."""
    runs = search.runs.get((algorithm, DEFAULT), [])
    trial = next((t for t in search.trials if t["algorithm"] == algorithm and t["is_default"]), None)
    if not runs and trial is None:
        return []
    known, metric = trial or {}, metric_of(task_of(search))
    hyperparameters = runs[0].config["run"]["hyperparameters"] if runs else known["hyperparameters"]
    spent = [run.reports[-1] for run in runs if run.reports] or [known]
    return [
        _search_row(search, algorithm, DEFAULT)
        | {
            **_scores(runs, metric),
            "hyperparameters": hyperparameters,
            "trials": 1,
            **_cost(spent),
            f"val_{metric}": _figure(_best([known], metric) or {}, metric),
        }
    ]


def _search_row(search: Search, algorithm: str, variant: str) -> Row:
    return _row(
        metric_of(task_of(search)),
        algorithm=algorithm,
        variant=variant,
        status="finished" if search.is_finished else "running",
        seeds_planned=search.config["space"]["budget"]["seeds"],
        batch_norm=_batch_norm(search.config["space"]["network"]),
        folder=told_folder(search.folder),
    )


def _run_row(runs: list[Run]) -> Row:
    described = runs[0].config["run"]
    seeds = [run.config["run"]["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        listed = ", ".join(str(run.folder) for run in runs)
        raise MetabenchError(f"{listed}: the same run twice (same settings and seed); give it once")
    tested = all(run.test is not None for run in runs)
    trained = all(run.is_trained for run in runs)
    metric = metric_of(described["task"])
    best = [_best(run.reports, metric) for run in runs]
    figures = [figure for report in best if (figure := _figure(report or {}, metric)) is not None]
    return _row(
        metric,
        algorithm=described["algorithm"],
        variant=RUN,
        status="finished" if tested else "untested" if trained else "running",
        seeds_planned=len(runs),
        hyperparameters=described["hyperparameters"],
        trials=1,
        **_cost(run.reports[-1] for run in runs if run.reports),
        folder=", ".join(told_folder(run.folder) for run in runs),
        **{
            "batch_norm": _batch_norm(described["network"]),
            f"val_{metric}": float(np.mean(figures)) if figures else None,
            **_scores(runs, metric),
        },
    )


def _row(metric: str, **known: Any) -> Row:
    row = dict.fromkeys(keys(metric))
    return {**row, **known}


def _batch_norm(network: Record) -> str | None:
    return str(network["batch_norm"]) if network["norm"] == "batch" else None


def told_folder(folder: Path) -> str:
    """Name a folder as rows do."""
    # A leaderboard is published; where its author's home lies is nobody's business.
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def _scores(runs: Sequence[Run], metric: str) -> Row:
    tested = [run.test for run in runs if run.test is not None]
    if not tested:
        return {"seeds": 0}
    figures = np.stack([_array(test) for test in tested])
    scored = _interval_keys(metric, stats.seeds_and_tasks(figures), figures.shape[1])
    times_opened = max(test["times_opened"] for test in tested)
    return {
        **scored,
        "seeds": len(tested),
        "times_opened": times_opened,
        "batch_norm": tested[0]["batch_norm"],  # an algorithm may bring moments of its own
    }


def _interval_keys(metric: str, interval: stats.Interval, n_tasks: int) -> Row:
    bounds = {"ci_low": interval.low, "ci_high": interval.high, "ci_over": interval.over}
    return {metric: interval.mean, **bounds, "test_tasks": n_tasks}


def _versus(search: Search, algorithm: str) -> Row | None:
    """Compare tuned with default; where the default itself was chosen they are the same runs."""
    pair = [
        [run for run in search.runs.get((algorithm, variant), []) if run.test is not None]
        for variant in (TUNED, DEFAULT)
    ]
    if not all(pair):
        return None
    tuned, default = (runs[0].config["run"]["hyperparameters"] for runs in pair)
    if tuned == default:
        return None
    a, b = (np.stack([_array(run.test or {}) for run in runs]) for runs in pair)
    compared = stats.paired(a, b)
    bounds = {"ci_low": compared.low, "ci_high": compared.high}
    return {"difference": compared.difference, **bounds, "p": compared.p}


def _figure(entry: Record, metric: str) -> float | None:
    """Return a trial's or report's meta-validation figure; a report holds an error as its score."""
    known: float | None = entry.get(f"val_{metric}")
    score = entry.get("val_score")
    return SIGN[metric] * score if known is None and score is not None else known


def _best(reported: Iterable[Record], metric: str) -> Record | None:
    """Return the trial or report of the best meta-validation; one that diverged has none."""
    judged = [
        (SIGN[metric] * figure, entry)
        for entry in reported
        if (figure := _figure(entry, metric)) is not None
        and entry.get("finite", True)
        and entry.get("status") not in ("diverged", "failed")
    ]
    return max(judged, key=lambda pair: pair[0], default=(0.0, None))[1]


def _cost(reported: Iterable[Record]) -> Row:
    """Add up last reports; one that is not there yet cost nothing that is known."""
    entries = list(reported)
    return {
        "tasks_seen": sum(entry.get("tasks_seen") or 0 for entry in entries),
        "seconds": sum(entry.get("seconds") or 0.0 for entry in entries),
        "peak_memory": max((entry.get("peak_memory") or 0 for entry in entries), default=0),
    }


def _array(test: Record) -> stats.Floats:
    return np.asarray(per_task(test), dtype=np.float64)  # null becomes NaN


def task_and_rows(sources: Sequence[Search | Run]) -> tuple[Record, list[Row]]:
    """Return the task that all folders share, and their rows, best first."""
    task = task_of(sources[0])
    rows = [row for source in sources if isinstance(source, Search) for row in search_rows(source)]
    rows += run_rows([source for source in sources if isinstance(source, Run)])
    rows += chance_rows(task)
    rows = store.plain(rows)  # NaN would have no place in an order
    # Several searches of the same tasks repeat the same baselines.
    distinct = {
        (row["algorithm"] if row["variant"] == BASELINE else index): row for index, row in enumerate(rows)
    }
    return task, sorted(distinct.values(), key=lambda row: order(row, metric_of(task)))
