"""What any tracker is told of searches and runs: settings, figures by tasks seen, and how each ended."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from metabench import leaderboard
from metabench.core.metrics import SIGN
from metabench.leaderboard.folders import Record, Run, Search, metric_of, per_task, task_of
from metabench.search.journal.ledger import COMPLETE, DIVERGED, FAILED, Trial, look
from metabench.storage import files

TRIAL = "trial"
FINAL = "final"
RUN = "run"
RUNS = "runs"
"""Experiment of run folders that were given by themselves."""

FACTS = ("protocol", "version", "code", "commit", "data_fingerprint")
LONGEST = 4000
"""Characters of an error's end that are told."""


class Told(NamedTuple):
    """A trial, a final run or a run."""

    name: str
    kind: str
    algorithm: str
    status: str  # as the journal says, or running or waiting
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]  # where it comes from
    points: Mapping[int, Mapping[str, float]]  # tasks seen to figures that are known, in order
    seconds: float


class Experiment(NamedTuple):
    """A search, or all runs that were given by themselves."""

    name: str
    facts: Mapping[str, Any]
    began: datetime.datetime | None
    told: Sequence[Told]
    board: Record | None


def experiments(sources: Sequence[Search | Run]) -> Iterator[Experiment]:
    """Tell of sources: of each search, and of the runs together."""
    for name, search in named(sources).items():
        yield _search(name, search)
    runs = [source for source in sources if isinstance(source, Run)]
    if runs:
        yield Experiment(RUNS, {}, None, [_run(run, RUN, str(run.folder), {}) for run in runs], None)


def named(sources: Iterable[Search | Run]) -> dict[str, Search]:
    """Name searches by their folders, by whole paths where several folders have one name."""
    searches = [source for source in sources if isinstance(source, Search)]
    short = [search.folder.resolve().name for search in searches]
    return {
        name if short.count(name) == 1 and name != RUNS else str(search.folder.resolve()): search
        for name, search in zip(short, searches, strict=True)
    }


def _search(name: str, search: Search) -> Experiment:
    metric = metric_of(task_of(search))
    facts = {"search": str(search.folder), **_facts(search.config)}
    created = search.config.get("created")
    trials = look(search.folder).trials.values()
    told = [_trial(trial, metric, facts) for trial in trials]
    for (_, variant), runs in search.runs.items():
        told += [_run(run, FINAL, run.folder.name, {**facts, "variant": variant}) for run in runs]
    began = None if created is None else datetime.datetime.fromisoformat(created)
    return Experiment(name, facts, began, told, leaderboard.leaderboard([search.folder]))


def _trial(trial: Trial, metric: str, facts: Mapping[str, Any]) -> Told:
    known = {**facts, "seed": trial.seed, "is_default": trial.is_default}
    if trial.error is not None:
        known["error"] = trial.error[-LONGEST:]
    return Told(
        trial.name,
        TRIAL,
        trial.algorithm,
        trial.state,
        trial.hyperparameters,
        known,
        _points(trial.reports, metric),
        _seconds(trial.reports),
    )


def _run(run: Run, kind: str, name: str, facts: Mapping[str, Any]) -> Told:
    described, metric = run.config["run"], metric_of(task_of(run))
    known = {**facts, **_facts(run.config), "seed": described["seed"]}
    status, error = _status(run), run.folder / files.ERROR
    if status == FAILED:
        known["error"] = error.read_text(encoding="utf-8")[-LONGEST:]
    points = _points(run.reports, metric)
    if run.test is not None:
        last = run.reports[-1]["tasks_seen"] if run.reports else 0
        seen = int(float(run.test.get("weights", {}).get("tasks_seen", last)))
        points[seen] = {**points.get(seen, {}), **_tested(run.test, metric)}
        known |= {"tasks_hash": run.test["tasks_hash"]}
    return Told(
        name,
        kind,
        described["algorithm"],
        status,
        described["hyperparameters"],
        known,
        dict(sorted(points.items())),
        _seconds(run.reports),
    )


def _status(run: Run) -> str:
    if run.is_trained:
        return COMPLETE if run.reports[-1]["finite"] else DIVERGED
    return FAILED if (run.folder / files.ERROR).is_file() else "running"


def _points(reports: Iterable[Record], metric: str) -> dict[int, dict[str, float]]:
    """Name figures as TensorBoard does; a later report at the same tasks replaces an earlier one."""
    points = {}
    for report in reports:
        score = math.nan if report["val_score"] is None else report["val_score"]
        figure, ci = SIGN[metric] * score, math.nan if report.get("val_ci") is None else report["val_ci"]
        values = {
            f"meta_validation/{metric}": figure,
            f"meta_validation/{metric}/low": figure - ci,
            f"meta_validation/{metric}/high": figure + ci,
            "meta_validation/loss": report.get("val_loss"),
            f"meta_train/{metric}": report.get("train_accuracy"),
            "meta_train/loss": report.get("train_loss"),
            "system/seconds": report.get("seconds"),
            "system/peak_memory_bytes": report.get("peak_memory"),
        }
        points[int(report["tasks_seen"])] = _known(values)
    return points


def _tested(test: Record, metric: str) -> dict[str, float]:
    """Return means over the meta-test tasks, which are known where every task's figure is."""
    figures = per_task(test)
    means = {f"meta_test/{metric}": _mean(figures), "meta_test/loss": _mean(test.get("loss") or [None])}
    return _known({**means, "meta_test/tasks": len(figures)})


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def _known(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if value is not None and math.isfinite(value)}


def _seconds(reports: Sequence[Record]) -> float:
    return float(reports[-1].get("seconds") or 0.0) if reports else 0.0


def _facts(config: Record) -> dict[str, Any]:
    return {key: config[key] for key in FACTS if config.get(key) is not None}
