"""Tidy tables of everything: rows, comparisons, accuracies of every task and seed, and all trials."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import metabench.leaderboard as results
from metabench.core.metrics import Metric
from metabench.leaderboard.folders import Record, Run, Search, accelerator_seconds, validation
from metabench.leaderboard.rows import BASELINE, RUN
from metabench.leaderboard.table import flat
from metabench.storage import files

if TYPE_CHECKING:
    from pandas import DataFrame

Lines = list[dict[str, Any]]

TRIAL_KEYS = (
    *("trial", "algorithm", "status", "is_default", "seed", "parameters", "tasks_seen", "seconds"),
    "peak_memory",
)

DTYPES = {
    "string": "string",
    "boolean": "boolean",
    "integer": "Int64",
    **dict.fromkeys(("floating", "mixed-integer-float", "empty"), "Float64"),
}
"""Kinds of values, as pandas tells them, to the type of their column; all others become JSON."""


def tables(sources: Sequence[Search | Run], board: Record) -> dict[str, Lines]:
    """Gather what is to be written: names of tables to their lines, in [0, 1] and seconds and bytes."""
    return {
        "rows": [flat(row) for row in board["rows"]],
        "comparisons": list(board["comparisons"]),
        "tasks": [line for source in sources for line in _tasks(source)],
        "trials": [line for source in sources if isinstance(source, Search) for line in _trials(source)],
    }


def write(out: Path, tables: dict[str, Lines]) -> list[Path]:
    """Write each table as CSV and as Parquet, and return their paths."""
    paths = []
    for name, lines in tables.items():
        frame, parquet = _frame(lines), io.BytesIO()
        frame.to_parquet(parquet, index=False)
        text = frame.map(files.as_cell).to_csv(index=False)
        for suffix, data in (("csv", text.encode()), ("parquet", parquet.getvalue())):
            paths.append(out / f"{name}.{suffix}")
            files.write_bytes(paths[-1], data)
    return paths


def _tasks(source: Search | Run) -> Iterator[dict[str, Any]]:
    """Yield one line a task and seed."""
    groups = {("", RUN): [source]} if isinstance(source, Run) else source.runs
    for (_, variant), runs in groups.items():
        for run in runs:
            if run.test is not None:
                described = run.config["run"]
                who = {"folder": str(run.folder), "algorithm": described["algorithm"], "variant": variant}
                yield from _of_test({**who, "seed": described["seed"]}, run.test, source.metric, run.test)
    if isinstance(source, Search):
        tested = next(iter(results.tests([source])), {})
        for name, baseline in source.baselines.items():
            who = {"folder": str(source.folder), "algorithm": name, "variant": BASELINE, "seed": None}
            same = {f"{source.metric}_one_at_a_time": baseline[source.metric.name]}  # it has no batch norm
            yield from _of_test(who, {**baseline, **same}, source.metric, tested)


def _of_test(who: Record, test: Record, metric: Metric, named: Record) -> Iterator[dict[str, Any]]:
    """Yield the lines of a result; another on the same tasks, where there is one, names their classes."""
    nothing, names = [None] * len(test[metric.name]), named.get("class_names", [])
    classes = ["; ".join(names[int(row)] for row in line.split()) for line in named.get("classes", [])]
    keys = (metric.name, f"{metric}_one_at_a_time", "loss")
    columns = [*(test.get(key) or nothing for key in keys), classes or nothing]
    for task, line in enumerate(zip(*columns, strict=True)):
        yield {**who, "task": task, **dict(zip((*keys, "classes"), line, strict=True))}


def _trials(search: Search) -> Lines:
    metric = search.metric
    return [
        {
            "folder": str(search.folder),
            **{key: trial.get(key) for key in TRIAL_KEYS},
            "accelerator_seconds": accelerator_seconds(trial),
            f"val_{metric}": validation(trial, metric),
            "error": trial.get("error"),
            **{f"setting.{key}": value for key, value in (trial.get("hyperparameters") or {}).items()},
        }
        for trial in search.trials
    ]


def _frame(lines: Lines) -> DataFrame:
    """Make a table of one type a column: where values differ in kind, as settings do, they become JSON."""
    import pandas as pd

    columns = {}
    for name in dict.fromkeys(key for line in lines for key in line):
        values = [line.get(name) for line in lines]
        dtype = DTYPES.get(pd.api.types.infer_dtype(values))
        if dtype is None:
            values = [None if value is None else json.dumps(value) for value in values]
        columns[name] = pd.Series(values, dtype=dtype or "string")
    return pd.DataFrame(columns)
