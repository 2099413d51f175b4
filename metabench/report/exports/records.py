"""Searches and runs as any other tool takes them: settings, figures by tasks seen, and how each ended.

Written from the folders, during or after a search; nothing here is needed while one runs.
"""

from __future__ import annotations

import datetime
import importlib.util
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from metabench import stats
from metabench.core import MetabenchError
from metabench.core.metrics import Metric
from metabench.leaderboard.folders import Record, Run, Search
from metabench.search.journal.ledger import COMPLETE, DIVERGED, FAILED, Trial, look
from metabench.storage import files

TRIAL = "trial"
FINAL = "final"
RUN = "run"
RUNS = "runs"
"""Experiment of run folders that were given by themselves."""

FACTS = ("protocol", "version", "code", "commit", "data_fingerprint")
LONGEST = 4000
"""Characters of an error's end that are kept."""


class RunRecord(NamedTuple):
    """A trial, a final run or a run."""

    name: str
    kind: str
    algorithm: str
    status: str  # as the journal says, or running or waiting
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]  # where it comes from
    points: Mapping[int, Mapping[str, float]]  # tasks seen to figures that are finite, in order
    seconds: float
    trial: Trial | None = None


class Experiment(NamedTuple):
    """A search, or all runs that were given by themselves."""

    name: str
    search: Search | None
    facts: Mapping[str, Any]
    began: datetime.datetime | None
    records: Sequence[RunRecord]


def check(name: str) -> None:
    """Raise MetabenchError where a tracker's package is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:  # a folder of that name, such as W&B leaves, is no package
        raise MetabenchError(f"{name} is not installed; do: pip install 'metabench[{name}]'")


def experiments(sources: Sequence[Search | Run]) -> Iterator[Experiment]:
    """Describe searches, named by their folders or by whole paths where several have one name; then runs."""
    searches = [source for source in sources if isinstance(source, Search)]
    names = [search.folder.resolve().name for search in searches]
    for name, search in zip(names, searches, strict=True):
        is_unique = names.count(name) == 1 and name != RUNS
        yield _experiment(name if is_unique else str(search.folder.resolve()), search)
    runs = [_run(source, RUN, str(source.folder), {}) for source in sources if isinstance(source, Run)]
    if runs:
        yield Experiment(RUNS, None, {}, None, runs)


def _experiment(name: str, search: Search) -> Experiment:
    metric = search.metric
    facts = {"search": str(search.folder), **_facts(search.config)}
    records = [_trial(trial, metric, facts) for trial in look(search.folder).trials.values()]
    for (_, variant), runs in search.runs.items():
        records += [_run(run, FINAL, run.folder.name, {**facts, "variant": variant}) for run in runs]
    created = search.config.get("created")
    began = None if created is None else datetime.datetime.fromisoformat(created)
    return Experiment(name, search, facts, began, records)


def _trial(trial: Trial, metric: Metric, facts: Mapping[str, Any]) -> RunRecord:
    error = {} if trial.error is None else {"error": trial.error[-LONGEST:]}
    return RunRecord(
        name=trial.name,
        kind=TRIAL,
        algorithm=trial.algorithm,
        status=trial.state,
        settings=trial.hyperparameters,
        facts={**facts, "seed": trial.seed, "is_default": trial.is_default, **error},
        points=_points(trial.reports, metric),
        seconds=trial.seconds,
        trial=trial,
    )


def _run(run: Run, kind: str, name: str, facts: Mapping[str, Any]) -> RunRecord:
    described, metric, status = run.config["run"], run.metric, "running"
    facts = {**facts, **_facts(run.config), "seed": described["seed"]}
    if run.is_trained:
        status = COMPLETE if run.reports[-1]["finite"] else DIVERGED
    elif (run.folder / files.ERROR).is_file():
        status = FAILED
        facts["error"] = (run.folder / files.ERROR).read_text(encoding="utf-8", errors="replace")[-LONGEST:]
    points = _points(run.reports, metric)
    if run.test is not None:
        last = run.reports[-1]["tasks_seen"] if run.reports else 0
        seen = int(float(run.test.get("weights", {}).get("tasks_seen", last)))
        points[seen] = {**points.get(seen, {}), **_tested(run.test, metric)}
        facts["tasks_hash"] = run.test["tasks_hash"]
    return RunRecord(
        name=name,
        kind=kind,
        algorithm=described["algorithm"],
        status=status,
        settings=described["hyperparameters"],
        facts=facts,
        points=dict(sorted(points.items())),
        seconds=float(run.reports[-1].get("seconds") or 0.0) if run.reports else 0.0,
    )


def _points(reports: Iterable[Record], metric: Metric) -> dict[int, dict[str, float]]:
    """Name figures as TensorBoard does; a later report at the same tasks replaces an earlier one."""
    points = {}
    for report in reports:
        score, ci = (math.nan if report.get(key) is None else report[key] for key in ("val_score", "val_ci"))
        figure = metric.sign * score
        low, high = stats.bounds(figure, ci, metric.scale)
        values = {
            f"meta_validation/{metric}": figure,
            f"meta_validation/{metric}/low": low,
            f"meta_validation/{metric}/high": high,
            "meta_validation/loss": report.get("val_loss"),
            f"meta_train/{metric}": report.get("train_accuracy"),
            "meta_train/loss": report.get("train_loss"),
            "system/seconds": report.get("seconds"),
            "system/peak_memory_bytes": report.get("peak_memory"),
        }
        points[int(report["tasks_seen"])] = _finite(values)
    return points


def _tested(test: Record, metric: Metric) -> dict[str, float]:
    """Return means over the meta-test tasks, which there are where every task has its figure."""
    keys = (metric.name, f"{metric}_one_at_a_time", "loss")
    figures = {f"meta_test/{key}": test.get(key) or [None] for key in keys}
    means = {key: statistics.fmean(values) for key, values in figures.items() if None not in values}
    return _finite({**means, "meta_test/tasks": len(test[metric.name])})


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if value is not None and math.isfinite(value)}


def _facts(config: Record) -> dict[str, Any]:
    return {key: config[key] for key in FACTS if config.get(key) is not None}
