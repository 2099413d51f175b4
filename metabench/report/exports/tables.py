"""Tidy tables of everything: rows, comparisons, accuracies of every task and seed, and all trials."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metabench.leaderboard import build, trials
from metabench.leaderboard import folders as reading
from metabench.leaderboard.folders import Record, Run, Search
from metabench.leaderboard.rows import BASELINE, RUN
from metabench.leaderboard.table import VERSUS
from metabench.storage import files

if TYPE_CHECKING:
    from pandas import DataFrame

Lines = list[dict[str, Any]]

TRIAL_KEYS = ("trial", "algorithm", "status", "is_default", "seed", "tasks_seen", "seconds", "peak_memory")


def tables(sources: Sequence[Search | Run], board: Record) -> dict[str, Lines]:
    """Gather what is to be written: names of tables to their lines, in [0, 1] and seconds and bytes."""
    return {
        "rows": [_flat(row) for row in board["rows"]],
        "comparisons": list(board["comparisons"]),
        "tasks": [line for source in sources for line in _tasks(source)],
        "trials": [line for source in sources if isinstance(source, Search) for line in _trials(source)],
    }


def write(out: Path, found: dict[str, Lines]) -> list[Path]:
    """Write each table as CSV and as Parquet, and return their paths."""
    paths = []
    for name, lines in found.items():
        frame = _frame(lines)
        parquet = io.BytesIO()
        frame.to_parquet(parquet, index=False)
        for suffix, data in (("csv", frame.to_csv(index=False).encode()), ("parquet", parquet.getvalue())):
            paths.append(out / f"{name}.{suffix}")
            files.write_bytes(paths[-1], data)
    return paths


def _flat(row: Record) -> dict[str, Any]:
    flat = {
        key: value for key, value in row.items() if key not in ("vs_default", "vs_best", "hyperparameters")
    }
    flat["hyperparameters"] = None if row["hyperparameters"] is None else json.dumps(row["hyperparameters"])
    for key in ("vs_default", "vs_best"):
        found = row.get(key) or {}
        flat |= {f"{key}_{part}": found.get(part) for part in VERSUS}
    return flat


def _tasks(source: Search | Run) -> Lines:
    """Return one line a task and seed."""
    metric = reading.metric_of(reading.task_of(source))
    if isinstance(source, Run):
        return _of_run(source, RUN, metric)
    lines = []
    for (_, variant), runs in source.runs.items():
        for run in runs:
            lines += _of_run(run, variant, metric)
    classes = _classes(next(iter(build.tests([source])), {}))
    for name, baseline in source.baselines.items():
        known = {"folder": str(source.folder), "algorithm": name, "variant": BASELINE, "seed": None}
        figures = reading.per_task(baseline)
        lines += [
            {
                **known,
                "task": task,
                metric: figure,
                "loss": None,
                "classes": classes[task] if classes else None,
            }
            for task, figure in enumerate(figures)
        ]
    return lines


def _of_run(run: Run, variant: str, metric: str) -> Lines:
    if run.test is None:
        return []
    described = run.config["run"]
    known = {"folder": str(run.folder), "algorithm": described["algorithm"], "variant": variant}
    figures, classes = reading.per_task(run.test), _classes(run.test)
    losses = run.test.get("loss") or [None] * len(figures)
    return [
        {
            **known,
            "seed": described["seed"],
            "task": task,
            metric: figure,
            "loss": losses[task],
            "classes": classes[task] if classes else None,
        }
        for task, figure in enumerate(figures)
    ]


def _classes(test: Record) -> list[str] | None:
    """Return the names of each task's classes; None where the result is older than they are recorded."""
    if not test.get("classes"):
        return None
    names = test["class_names"]
    return ["; ".join(names[int(row)] for row in line.split()) for line in test["classes"]]


def _trials(search: Search) -> Lines:
    metric = reading.metric_of(reading.task_of(search))
    lines = []
    for trial in search.trials:
        known = {"folder": str(search.folder), **{key: trial.get(key) for key in TRIAL_KEYS}}
        known |= {"accelerator_seconds": trials.cost([trial])["accelerator_seconds"]}
        known |= {f"val_{metric}": trials.figure(trial, metric), "error": trial.get("error")}
        settings = trial.get("hyperparameters") or {}
        lines.append({**known, **{f"setting.{key}": value for key, value in settings.items()}})
    return lines


def _frame(lines: Lines) -> DataFrame:
    """Make a table of one type a column: where values differ in kind, as settings do, they become JSON."""
    import pandas as pd

    names = list(dict.fromkeys(key for line in lines for key in line))
    columns = {}
    for name in names:
        values = [line.get(name) for line in lines]
        kinds = {_kind(value) for value in values if value is not None}
        if kinds == {"count", "number"}:
            kinds = {"number"}
        elif len(kinds) > 1 or kinds & {"other"}:
            values = [None if value is None else json.dumps(value) for value in values]
            kinds = {"text"}
        columns[name] = pd.Series(values, dtype=_DTYPES[next(iter(kinds), "number")])
    return pd.DataFrame(columns)


_DTYPES = {"text": "string", "switch": "boolean", "count": "Int64", "number": "Float64"}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "switch"
    for kind, name in ((int, "count"), (float, "number"), (str, "text")):
        if isinstance(value, kind):
            return name
    return "other"
