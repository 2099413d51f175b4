"""The leaderboard: rows from search and run folders, every pair compared, as a table and as files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metabench import CalledPackage, stats
from metabench.core import MetabenchError
from metabench.core.metrics import Metric
from metabench.leaderboard import fairness, notes, rows, scores
from metabench.leaderboard import folders as reading
from metabench.leaderboard import published as references
from metabench.leaderboard.folders import Record, Run, Search, all_runs
from metabench.leaderboard.scores import Entry, Scored
from metabench.leaderboard.table import as_csv, as_json, as_latex, as_markdown, as_table
from metabench.storage import files

__all__ = [
    "FORMATS",
    "as_csv",
    "as_json",
    "as_latex",
    "as_markdown",
    "as_table",
    "assemble",
    "design",
    "entries",
    "leaderboard",
    "read",
    "tests",
    "write",
]

sys.modules[__name__].__class__ = CalledPackage

MOST_CLASSES = 10**9
"""Of a fold, of whose classes none is another's."""

FORMATS = {"table": as_table, "json": as_json, "csv": as_csv, "md": as_markdown, "latex": as_latex}


def read(folders: Sequence[Path]) -> list[Search | Run]:
    """Read search and run folders, each once."""
    distinct = {folder.resolve(): folder for folder in folders}
    return [reading.read(folder) for folder in distinct.values()]


def leaderboard(folders: Sequence[Path], published: bool = False) -> dict[str, Any]:
    """Rank what search and run folders hold by now, or refuse what cannot be compared.

    Args:
        published: show published figures of the same setting beside what was measured.

    Returns:
        what leaderboard.json holds: accuracies in [0, 1] or errors, rows best first, comparisons of all
        pairs, None for what is not known.
    """
    if not folders:
        raise MetabenchError("a leaderboard needs at least one folder of a search or a run")
    return assemble(read(folders), published)


def assemble(sources: Sequence[Search | Run], published: bool = False) -> dict[str, Any]:
    """Rank what was read of folders; see `leaderboard`."""
    task, metric = sources[0].task, sources[0].metric
    measured = entries(sources)
    compared = scores.compare(measured, metric)
    scores.rank(measured, compared, metric)
    others = design(sources)
    beside = (
        rows.chance(metric, task)
        + fairness.at_thresholds(measured, others if isinstance(others, stats.Design) else None)
        + (references.entries(task) if published else [])
    )
    rows.name_all(beside)
    plain = files.plain([entry.row for entry in measured + beside])  # NaN would have no place in an order
    statuses = {row["status"] for row in plain}
    hashes = [test["tasks_hash"] for test in tests(sources)]
    board = {
        "protocol": sources[0].config["protocol"],
        "task": task,
        "metric": {"name": metric.name, "better": "higher" if metric.sign > 0 else "lower"},
        "status": next((one for one in ("running", "untested") if one in statuses), "finished"),
        "tasks_hash": next(iter(hashes), None),
        "left_out": [line for one in sources if isinstance(one, Search) for line in one.left_out],
        "rows": sorted(plain, key=lambda row: rows.order(row, metric)),
        "comparisons": files.plain(compared),
    }
    return {"answer": notes.answer(board), **board}


def write(folder: Path) -> dict[str, Any]:
    """Write leaderboard.json, .csv and .md into a folder and return the leaderboard."""
    board = leaderboard([folder])
    for suffix, text in (("json", as_json), ("csv", as_csv), ("md", as_markdown)):
        files.write_text(folder / f"{files.LEADERBOARD}.{suffix}", text(board))
    return board


def tests(sources: Sequence[Search | Run]) -> list[Record]:
    """List the results of all runs."""
    return [run.test for source in sources for run in all_runs(source) if run.test is not None]


def design(sources: Sequence[Search | Run]) -> scores.Others | None:
    """Describe the test tasks, of all folds beside each other, by classes, domains or what each is drawn of.

    None where no result is of new ones, and until all folds are tested: floors have figures over all before.
    """
    tested = [run for source in sources for run in all_runs(source) if run.test is not None]
    first = {run.fold: run.test for run in reversed(tested) if run.test is not None}
    if len(first) < max((run.row_folds for run in tested), default=1):
        return None
    if any("pictures" in result for result in first.values()):  # these have no other classes
        return None
    # As many names as fit between two folds: they test other classes.
    rows = [
        [fold * MOST_CLASSES + int(name) for name in line.split()]
        for fold, result in sorted(first.items())
        for line in result["classes"]
    ]
    (result, *_) = first.values()
    if not result.get("is_by_domain"):
        return stats.design(rows)
    names = result.get("domains", [])
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    # Of classes from two domains, the queries' stand last.
    tested_on = [numbers[names[task[-1]]] for task in rows]
    return tested_on if len(set(tested_on)) > 1 else None


def entries(sources: Sequence[Search | Run]) -> list[Entry]:
    """Make the named rows of folders that may stand together, with their intervals."""
    reading.refuse_mixture(sources)
    made = [row for source in sources if isinstance(source, Search) for row in rows.search_entries(source)]
    made += rows.run_entries(rows.group_seeds(source for source in sources if isinstance(source, Run)))
    kept = rows.distinct(made)
    metric, others = sources[0].metric, design(sources)
    for entry in kept:
        if entry.scored is not None:
            entry.row.update(_figures(entry, entry.scored, metric, others))
            if isinstance(others, stats.Design):
                entry.row.update(fairness.described(entry.groups, others))
    rows.name_all(kept)
    return kept


def _figures(entry: Entry, results: Scored, metric: Metric, others: scores.Others | None) -> scores.Row:
    """Say what a row's results are, both ways of asking, and how much better it had looked before."""
    row = scores.intervals(metric, results, others)
    row[f"{metric}_together"] = row[metric.name]
    if entry.alone is not None:
        alone = scores.intervals(metric, entry.alone, None)
        row |= {f"{metric}_one_at_a_time": alone[metric.name]}
        row |= {"one_low": alone["ci_low"], "one_high": alone["ci_high"]}
    for when in ("val", "confirm"):
        before = entry.row[f"{when}_{metric}"]
        row[f"{when}_optimism"] = None if before is None else metric.sign * float(before - row[metric.name])
    return row
