"""Rows of the leaderboard: one a setting, from what the folders hold by now."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from metabench.core import MetabenchError
from metabench.core.metrics import ERROR, Metric
from metabench.leaderboard.folders import (
    Record,
    Run,
    Search,
    accelerator_seconds,
    best,
    n_parameters,
    short_path,
    validation,
)
from metabench.leaderboard.scores import Entry, Row, Scored, figures_of, scored, versus

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
    *("rank", "rank_worst"),  # that it may have, by tests that are adjusted for their number
    *("accuracy", "ci_low", "ci_high"),
    "ci_over",  # what the interval speaks of: "seeds and tasks", or "tasks" where there is one seed
    *("seed_low", "seed_high"),  # t interval of the seeds' means: training again, these very tasks
    *("class_low", "class_high", "class_over"),  # of other test classes
    "classes",  # that the test tasks have
    *("seeds", "seeds_planned"),  # tested; fewer than planned where a run diverged
    "test_tasks",
    "model",  # single, or an ensemble of how many
    *("batch_norm", "hyperparameters"),
    *("trials", "tasks_seen", "seconds"),  # tuned: of the whole search, as the next two; else its own
    "accelerator_seconds",  # seconds times the share of a GPU; of a process where there is none
    "peak_memory",
    "parameters",  # numbers learnt across tasks
    *("val_accuracy", "confirm_accuracy"),
    *("val_optimism", "confirm_optimism"),  # by how much the validation looked better than the test
    *("vs_default", "vs_best"),
    *("times_opened", "opened"),  # how often meta-test was, at most, and when for the last time
    *("config_hash", "tasks_hash", "code", "commit"),
    "folder",
    "source",  # of a published figure
)

ERROR_KEYS = ("error", "val_error", "confirm_error")
"""What rows of regression have besides; there, what is called accuracy is None."""


def keys(metric: Metric) -> tuple[str, ...]:
    """List the keys of a row where tasks are judged by a metric."""
    return (*KEYS, *ERROR_KEYS) if metric == ERROR else KEYS


def make_row(metric: Metric, **values: Any) -> Row:
    """Make a row of what is there to say; the rest is None."""
    return {**dict.fromkeys(keys(metric)), **values}


def search_entries(search: Search) -> list[Entry]:
    """Make the tuned and the default row of each algorithm, and those of what learns nothing."""
    metric = search.metric
    entries = []
    for algorithm in search.config["space"]["algorithms"]:
        for variant, describe in ((TUNED, _tuned), (DEFAULT, _default)):
            runs = search.runs.get((algorithm, variant), [])
            if described := describe(search, algorithm, runs, metric):
                row = _search_row(search, algorithm, variant, runs, metric) | described
                entries.append(Entry(row, scored(runs, metric)))
    for name, baseline in search.baselines.items():
        row = make_row(metric, algorithm=name, variant=BASELINE, status="finished")
        row["tasks_hash"] = baseline["tasks_hash"]
        entries.append(Entry(row, Scored(figures_of(baseline, metric)[None], is_trained=False)))
    return entries


def group_seeds(runs: Iterable[Run]) -> list[list[Run]]:
    """Group run folders that differ in their seed only."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        described = {key: value for key, value in run.config["run"].items() if key != "seed"}
        groups.setdefault(json.dumps(described, sort_keys=True), []).append(run)
    return list(groups.values())


def chance(metric: Metric, task: Record) -> list[Entry]:
    """Make the row of guessing, where there are classes to guess."""
    if not metric.has_chance:
        return []
    way = task["way"]
    ways = range(way["low"], way["high"] + 1) if isinstance(way, dict) else [way]
    row = make_row(metric, algorithm="chance", variant=BASELINE, status="finished")
    row["accuracy"] = statistics.fmean(1 / one for one in ways)  # each as likely
    return [Entry(row)]


def short_name(row: Row) -> str:
    """Name a row by algorithm and variant."""
    return f"{row['algorithm']}:{row['variant']}"


def name_all(entries: Sequence[Entry]) -> None:
    """Name rows by algorithm and variant, and by folder where that is not enough."""
    count = Counter(short_name(entry.row) for entry in entries)
    for entry in entries:
        name, where = short_name(entry.row), entry.row["folder"] or entry.row["source"]
        entry.row["name"] = f"{name}@{where}" if count[name] > 1 and where else name


def order(row: Row, metric: Metric) -> float:
    """Order rows best first; a row that is not tested yet stands where its meta-validation puts it."""
    figure = row[f"val_{metric}"] if row[metric.name] is None else row[metric.name]
    return math.inf if figure is None else -metric.sign * float(figure)


def _tuned(search: Search, algorithm: str, runs: list[Run], metric: Metric) -> Row:
    entries = search.reported(algorithm)
    chosen = search.chosen.get(algorithm) or best(entries, metric)
    return {
        "hyperparameters": chosen.get("hyperparameters"),
        "trials": sum(trial["algorithm"] == algorithm for trial in search.trials),
        **_cost(entries),
        f"val_{metric}": validation(chosen, metric),
        f"confirm_{metric}": chosen.get(f"confirm_{metric}"),
        "vs_default": _versus_default(search, algorithm, metric),
    }


def _default(search: Search, algorithm: str, runs: list[Run], metric: Metric) -> Row:
    """Describe the published setting, or return nothing while nothing is known of it."""
    # The space may have got another default since.
    published = runs[0].config["run"]["hyperparameters"] if runs else None
    trials = [
        trial
        for trial in search.trials
        if trial["algorithm"] == algorithm
        and (trial["is_default"] if published is None else trial["hyperparameters"] == published)
    ][:1]
    if not runs and not trials:
        return {}
    gpus = (search.opened or {}).get("gpus")
    spent = [{**run.reports[-1], "gpus": gpus} for run in runs if run.reports] or trials or [{}]
    return {
        "hyperparameters": (runs[0].config["run"] if runs else trials[0])["hyperparameters"],
        "trials": 1,
        **_cost(spent),
        f"val_{metric}": validation(best(trials, metric), metric),
    }


def _search_row(search: Search, algorithm: str, variant: str, runs: list[Run], metric: Metric) -> Row:
    space, opened = search.config["space"], search.opened or {}
    row = make_row(
        metric,
        algorithm=algorithm,
        variant=variant,
        status="finished" if opened.get("finished") else "running",
        seeds_planned=space["budget"]["seeds"],
        batch_norm=_batch_norm(space["network"]),
        folder=short_path(search.folder),
    )
    row |= _tested(runs)
    if row["times_opened"]:
        row["times_opened"] = max(row["times_opened"], search.times_opened)
        row["config_hash"] = (opened or row)["config_hash"]
    return row


def run_entry(runs: list[Run]) -> Entry:
    """Make one row of run folders that differ in their seed only."""
    described = runs[0].config["run"]
    if len({run.config["run"]["seed"] for run in runs}) < len(runs):
        listed = ", ".join(str(run.folder) for run in runs)
        raise MetabenchError(f"{listed}: the same run twice (same settings and seed); give it once")
    is_tested, is_trained = all(run.test is not None for run in runs), all(run.is_trained for run in runs)
    metric = runs[0].metric
    looked = [validation(best(run.reports, metric), metric) for run in runs]
    figures = [figure for figure in looked if figure is not None]
    row = make_row(
        metric,
        algorithm=described["algorithm"],
        variant=RUN,
        status="finished" if is_tested else "untested" if is_trained else "running",
        seeds_planned=len(runs),
        hyperparameters=described["hyperparameters"],
        trials=1,
        **_cost([{**run.reports[-1], "gpus": 0} for run in runs if run.reports]),  # a device of its own
        folder=", ".join(short_path(run.folder) for run in runs),
        batch_norm=_batch_norm(described["network"]),
    )
    row |= {f"val_{metric}": float(np.mean(figures)) if figures else None, **_tested(runs)}
    return Entry(row, scored(runs, metric))


def _cost(entries: Sequence[Record]) -> Row:
    """Add up last reports; one that is not there yet cost nothing that is known."""
    weighed = [seconds for entry in entries if (seconds := accelerator_seconds(entry)) is not None]
    return {
        "tasks_seen": sum(entry.get("tasks_seen") or 0 for entry in entries),
        "seconds": sum(entry.get("seconds") or 0.0 for entry in entries),
        "accelerator_seconds": sum(weighed) if len(weighed) == len(entries) else None,
        "peak_memory": max((entry.get("peak_memory") or 0 for entry in entries), default=0),
    }


def _tested(runs: Sequence[Run]) -> Row:
    """Say what is recorded of the tested runs of a row, and of their opening of meta-test."""
    counts = (n_parameters(run) for run in runs)
    parameters = next((count for count in counts if count is not None), None)
    tested = [run.test for run in runs if run.test is not None]
    if not tested:
        return {"parameters": parameters, "seeds": 0}
    first = tested[0]
    return {
        "parameters": parameters,
        "seeds": len(tested),
        "model": "single",
        "times_opened": max(test["times_opened"] for test in tested),
        "opened": max(test["opened"] for test in tested),
        "batch_norm": first["batch_norm"],  # an algorithm may bring moments of its own
        **{key: first[key] for key in ("config_hash", "tasks_hash", "code", "commit")},
    }


def _batch_norm(network: Record) -> str | None:
    return str(network["batch_norm"]) if network["norm"] == "batch" else None


def _versus_default(search: Search, algorithm: str, metric: Metric) -> Row | None:
    """Compare tuned with default; where the default itself was chosen they are the same runs."""
    pair = [search.runs.get((algorithm, variant), []) for variant in (TUNED, DEFAULT)]
    a, b = (scored(runs, metric) for runs in pair)
    if a is None or b is None:
        return None
    tuned, default = (runs[0].config["run"]["hyperparameters"] for runs in pair)
    return None if tuned == default else versus(a, b)
