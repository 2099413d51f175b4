"""Rows of the leaderboard: one a setting, from what the folders hold by now."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metabench.core import MetabenchError
from metabench.core.metrics import SIGN
from metabench.leaderboard.folders import Record, Run, Search, metric_of, task_of
from metabench.leaderboard.scores import Entry, Row, Scored, array, scored, versus
from metabench.leaderboard.trials import best, cost, figure

TUNED = "tuned"
DEFAULT = "default"
RUN = "run"
BASELINE = "baseline"
PUBLISHED = "published"

KEYS = (
    "name",  # algorithm:variant, and @folder where several rows would have the same
    "algorithm",
    "variant",  # tuned and default of a search; run: a bare run folder; baseline; published: by others
    "status",  # finished, running, or untested: a bare run whose meta-test was not opened
    "rank",  # the best that it may have, by tests that are adjusted for their number
    "rank_worst",
    "accuracy",
    "ci_low",
    "ci_high",
    "ci_over",  # what the interval speaks of: "seeds and tasks", or "tasks" where there is one seed
    "seed_low",  # t interval of the seeds' means: training again, these very tasks
    "seed_high",
    "class_low",  # of other test classes
    "class_high",
    "class_over",
    "classes",  # that the test tasks have
    "seeds",  # tested; fewer than planned where a run diverged
    "seeds_planned",
    "test_tasks",
    "model",  # single, or an ensemble of how many
    "batch_norm",
    "hyperparameters",
    "trials",  # tuned: of the algorithm's whole search, as the next four; else what the row itself took
    "tasks_seen",
    "seconds",
    "accelerator_seconds",  # seconds times the share of a GPU; of a process where there is none
    "peak_memory",
    "parameters",  # numbers learnt across tasks
    "val_accuracy",
    "confirm_accuracy",
    "val_optimism",  # by how much the validation looked better than the test
    "confirm_optimism",
    "vs_default",
    "vs_best",
    "times_opened",  # how often meta-test was, at most
    "opened",  # when it was, for the last time
    "config_hash",
    "tasks_hash",
    "code",
    "commit",
    "folder",
    "source",  # of a published figure
)

ERROR_KEYS = ("error", "val_error", "confirm_error")
"""What rows of regression have besides; there, what is called accuracy is None."""


def keys(metric: str) -> tuple[str, ...]:
    """List the keys of a row where tasks are judged by a metric."""
    return (*KEYS, *ERROR_KEYS) if metric == "error" else KEYS


def search_entries(search: Search) -> list[Entry]:
    """Make the tuned and the default row of each algorithm, and those of what learns nothing."""
    entries = []
    metric = metric_of(task_of(search))
    for algorithm in search.config["space"]["algorithms"]:
        entries.append(_tuned(search, algorithm))
        entries += _default(search, algorithm)
    for name, baseline in search.baselines.items():
        known = {"algorithm": name, "variant": BASELINE, "status": "finished"}
        row = make_row(metric, **known, tasks_hash=baseline["tasks_hash"])
        entries.append(Entry(row, Scored(array(baseline)[None], is_trained=False)))
    return entries


def run_entries(runs: Sequence[Run]) -> list[Entry]:
    """Make one row of the run folders that differ in their seed only."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        described = {key: value for key, value in run.config["run"].items() if key != "seed"}
        groups.setdefault(json.dumps(described, sort_keys=True), []).append(run)
    return [_run(group) for group in groups.values()]


def chance(task: Record) -> list[Entry]:
    """Make the row of guessing, where there are classes to guess."""
    metric = metric_of(task)
    if metric != "accuracy":
        return []
    way = task["way"]
    ways = range(way["low"], way["high"] + 1) if isinstance(way, dict) else [way]
    guessed = statistics.fmean(1 / one for one in ways)  # each as likely
    row = make_row(metric, algorithm="chance", variant=BASELINE, status="finished", accuracy=guessed)
    return [Entry(row)]


def make_row(metric: str, **known: Any) -> Row:
    """Make a row of what is known; the rest is None."""
    row = dict.fromkeys(keys(metric))
    return {**row, **known}


def name_all(entries: Sequence[Entry]) -> None:
    """Name rows by algorithm and variant, and by folder where that is not enough."""
    short = [f"{entry.row['algorithm']}:{entry.row['variant']}" for entry in entries]
    count = Counter(short)
    for entry, name in zip(entries, short, strict=True):
        where = entry.row["folder"] or entry.row["source"]
        entry.row["name"] = f"{name}@{where}" if count[name] > 1 and where else name


def order(row: Row, metric: str) -> float:
    """Order rows best first; a row that is not tested yet stands where its meta-validation puts it."""
    known = (value for value in (row[metric], row[f"val_{metric}"]) if value is not None)
    return -SIGN[metric] * float(next(known, -SIGN[metric] * math.inf))


def _tuned(search: Search, algorithm: str) -> Entry:
    ended = [trial for trial in search.trials if trial["algorithm"] == algorithm]
    live = [trial for trial in search.running if trial["algorithm"] == algorithm]
    runs = search.runs.get((algorithm, TUNED), [])
    metric = metric_of(task_of(search))
    chosen = search.chosen.get(algorithm) or best([*ended, *live], metric) or {}
    row = _search_row(search, algorithm, TUNED, runs) | {
        "hyperparameters": chosen.get("hyperparameters"),
        "trials": len(ended),
        **cost([*ended, *live]),
        f"val_{metric}": figure(chosen, metric),
        f"confirm_{metric}": chosen.get(f"confirm_{metric}"),
        "vs_default": _versus(search, algorithm),
    }
    return Entry(row, scored(runs))


def _default(search: Search, algorithm: str) -> list[Entry]:
    """Return the row of the published setting, or nothing while nothing is known of it."""
    runs = search.runs.get((algorithm, DEFAULT), [])
    trial = next((t for t in search.trials if t["algorithm"] == algorithm and t["is_default"]), None)
    if not runs and trial is None:
        return []
    known, metric = trial or {}, metric_of(task_of(search))
    gpus = (search.opened or {}).get("gpus")
    spent = [{**run.reports[-1], "gpus": gpus} for run in runs if run.reports] or [known]
    row = _search_row(search, algorithm, DEFAULT, runs) | {
        "hyperparameters": runs[0].config["run"]["hyperparameters"] if runs else known["hyperparameters"],
        "trials": 1,
        **cost(spent),
        f"val_{metric}": figure(best([known], metric) or {}, metric),
    }
    return [Entry(row, scored(runs))]


def _search_row(search: Search, algorithm: str, variant: str, runs: Sequence[Run]) -> Row:
    row = make_row(
        metric_of(task_of(search)),
        algorithm=algorithm,
        variant=variant,
        status="finished" if search.is_finished else "running",
        seeds_planned=search.config["space"]["budget"]["seeds"],
        batch_norm=_batch_norm(search.config["space"]["network"]),
        folder=told_folder(search.folder),
    )
    row |= _tested(runs)
    if row["times_opened"]:
        row["times_opened"] = max(row["times_opened"], search.times_opened)
        row["config_hash"] = (search.opened or {}).get("config_hash", row["config_hash"])
    return row


def _run(runs: list[Run]) -> Entry:
    described = runs[0].config["run"]
    seeds = [run.config["run"]["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        listed = ", ".join(str(run.folder) for run in runs)
        raise MetabenchError(f"{listed}: the same run twice (same settings and seed); give it once")
    tested = all(run.test is not None for run in runs)
    trained = all(run.is_trained for run in runs)
    metric = metric_of(described["task"])
    looked = [figure(best(run.reports, metric) or {}, metric) for run in runs]
    figures = [one for one in looked if one is not None]
    row = make_row(
        metric,
        algorithm=described["algorithm"],
        variant=RUN,
        status="finished" if tested else "untested" if trained else "running",
        seeds_planned=len(runs),
        hyperparameters=described["hyperparameters"],
        trials=1,
        **cost([{**run.reports[-1], "gpus": 0} for run in runs if run.reports]),  # a device of its own
        folder=", ".join(told_folder(run.folder) for run in runs),
        batch_norm=_batch_norm(described["network"]),
    )
    row |= {f"val_{metric}": float(np.mean(figures)) if figures else None, **_tested(runs)}
    return Entry(row, scored(runs))


def _tested(runs: Sequence[Run]) -> Row:
    """Say what is recorded of the tested runs of a row, and of their opening of meta-test."""
    known = {"parameters": next((run.parameters for run in runs if run.parameters is not None), None)}
    tested = [run.test for run in runs if run.test is not None]
    if not tested:
        return {**known, "seeds": 0}
    first = tested[0]
    return {
        **known,
        "seeds": len(tested),
        "model": first.get("model", "single"),
        "times_opened": max(test["times_opened"] for test in tested),
        "opened": max(test.get("opened") or "" for test in tested) or None,
        "batch_norm": first["batch_norm"],  # an algorithm may bring moments of its own
        **{key: first.get(key) for key in ("config_hash", "tasks_hash", "code", "commit")},
    }


def _batch_norm(network: Record) -> str | None:
    return str(network["batch_norm"]) if network["norm"] == "batch" else None


def told_folder(folder: Path) -> str:
    """Name a folder as rows do."""
    # A leaderboard is published; where its author's home lies is nobody's business.
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def _versus(search: Search, algorithm: str) -> Row | None:
    """Compare tuned with default; where the default itself was chosen they are the same runs."""
    pair = [
        [run for run in search.runs.get((algorithm, variant), []) if run.test is not None]
        for variant in (TUNED, DEFAULT)
    ]
    if not all(pair):
        return None
    tuned, default = (runs[0].config["run"]["hyperparameters"] for runs in pair)
    a, b = (scored(runs) for runs in pair)
    return None if tuned == default or a is None or b is None else versus(a, b)
