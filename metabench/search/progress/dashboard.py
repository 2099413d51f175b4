"""What TensorBoard shows of a search as a whole: how it gets on, and its leaderboard afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metabench import leaderboard as board
from metabench.core.metrics import Metric
from metabench.search.progress.summary import RUNNING, STATES
from metabench.storage import files
from metabench.storage.tensorboard import Events

SEARCH_RUN = "_search"
LEADERBOARD_RUN = "_leaderboard"


def progress(
    summaries: Mapping[str, Mapping[str, Any]], metric: Metric, slots: int | None
) -> dict[str, float]:
    """Name what the summaries of a search's algorithms say as TensorBoard shows it."""
    counts = {state: sum(part[state] for part in summaries.values()) for state in STATES}
    values = {f"trials/{state}": float(count) for state, count in counts.items()}
    if slots:
        values["system/utilisation"] = min(1.0, counts[RUNNING] / slots)
    for rung in next(iter(summaries.values()))["rungs"]:
        values[f"rungs/{rung}"] = float(sum(part["rungs"][rung] for part in summaries.values()))
    for algorithm, part in summaries.items():
        values[f"spent/tasks/{algorithm}"] = float(part["tasks_seen"])
        values[f"spent/seconds/{algorithm}"] = part["seconds"]
        if part["incumbent"] is not None:
            values[f"incumbent/{algorithm}"] = part["incumbent"][f"val_{metric}"]
    return values


def write_leaderboard(folder: Path) -> None:
    """Write the leaderboard's files, and show it in TensorBoard unless it is what stood there before."""
    path = folder / f"{files.LEADERBOARD}.json"
    before = files.read_json(path) if path.exists() else None
    if not board.write(folder) or (leaderboard := files.read_json(path)) == before:
        return
    events = Events(folder / files.TENSORBOARD / LEADERBOARD_RUN)
    events.text("leaderboard", board.as_markdown(leaderboard, in_parts=True))
    metric = leaderboard["metric"]["name"]
    for row in leaderboard["rows"]:
        name = f"meta_test/{row['algorithm']}-{row['variant']}"
        if row.get(metric) is not None:
            values = {name: row[metric], f"{name}/low": row.get("ci_low"), f"{name}/high": row.get("ci_high")}
            events.scalars(0, {tag: value for tag, value in values.items() if value is not None})
    events.close()
