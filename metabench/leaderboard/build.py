"""From folders to a leaderboard: rows with their statistics, every pair compared, best first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from metabench import stats
from metabench.core.metrics import BETTER, SIGN
from metabench.leaderboard import folders as reading
from metabench.leaderboard import published, rows, scores
from metabench.leaderboard.folders import Record, Run, Search
from metabench.leaderboard.scores import Entry
from metabench.storage import files


def tests(sources: Iterable[Search | Run]) -> list[Record]:
    """List the results of all runs."""
    runs: list[Run] = []
    for source in sources:
        runs += (
            [source] if isinstance(source, Run) else [one for group in source.runs.values() for one in group]
        )
    return [run.test for run in runs if run.test is not None]


def design(sources: Sequence[Search | Run]) -> stats.Design | None:
    """Describe the test tasks by their classes; None where no result recorded them."""
    classes = scores.classes_of(tests(sources))
    return None if classes is None else stats.design(classes)


def entries(sources: Sequence[Search | Run]) -> list[Entry]:
    """Make the named rows of folders that may stand together, with their intervals."""
    reading.refuse_copies(list(sources))
    reading.refuse_mixture(list(sources))
    found = [
        entry for source in sources if isinstance(source, Search) for entry in rows.search_entries(source)
    ]
    found += rows.run_entries([source for source in sources if isinstance(source, Run)])
    # Several searches of the same tasks repeat the same baselines.
    distinct = {
        (entry.row["algorithm"] if entry.row["variant"] == rows.BASELINE else index): entry
        for index, entry in enumerate(found)
    }
    kept = list(distinct.values())
    metric = reading.metric_of(reading.task_of(sources[0]))
    found_design = design(sources)
    for entry in kept:
        if entry.scored is not None:
            entry.row.update(scores.intervals(metric, entry.scored, found_design))
            for when in ("val", "confirm"):
                entry.row[f"{when}_optimism"] = _optimism(entry.row, metric, when)
    rows.name_all(kept)
    return kept


def assemble(sources: Sequence[Search | Run], with_published: bool = False) -> dict[str, Any]:
    """Rank and compare what folders hold; see `board.leaderboard`."""
    task = reading.task_of(sources[0])
    metric = reading.metric_of(task)
    found = entries(sources)
    compared = scores.compare(found, metric)
    scores.rank(found, compared, metric)
    beside = rows.chance(task) + (published.entries(task) if with_published else [])
    rows.name_all(beside)
    plain = files.plain([entry.row for entry in found + beside])  # NaN would have no place in an order
    is_finished = all(row["status"] in ("finished", rows.PUBLISHED) for row in plain)
    hashes = {test["tasks_hash"] for test in tests(sources)}
    return {
        "protocol": sources[0].config["protocol"],
        "task": task,
        "metric": {"name": metric, "better": BETTER[metric]},
        "status": "finished" if is_finished else "running",
        "tasks_hash": next(iter(hashes), None),
        "rows": sorted(plain, key=lambda row: rows.order(row, metric)),
        "comparisons": files.plain(compared),
    }


def _optimism(row: scores.Row, metric: str, when: str) -> float | None:
    before = row[f"{when}_{metric}"]
    return None if before is None else SIGN[metric] * float(before - row[metric])
