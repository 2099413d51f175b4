"""The leaderboard: rows from search and run folders, as a table and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metabench import store
from metabench.board import folders as reading
from metabench.board import rows as making
from metabench.board.table import FORMATS, as_csv, as_json, as_markdown, as_table
from metabench.core import MetabenchError
from metabench.figures import BETTER

__all__ = ["FORMATS", "as_csv", "as_json", "as_markdown", "as_table", "leaderboard", "write"]


def leaderboard(folders: Sequence[Path]) -> dict[str, Any]:
    """Rank what search and run folders hold by now, or refuse what cannot be compared.

    Returns:
        what leaderboard.json holds: accuracies in [0, 1] or errors, rows best first, None for what is
        not known.
    """
    if not folders:
        raise MetabenchError("a leaderboard needs at least one folder of a search or a run")
    distinct = {folder.resolve(): folder for folder in folders}
    sources = [reading.read(folder) for folder in distinct.values()]
    reading.refuse_mixture(sources)
    task, rows = making.task_and_rows(sources)
    metric = reading.metric_of(task)
    is_finished = all(row["status"] == "finished" for row in rows)
    return {
        "protocol": sources[0].config["protocol"],
        "task": task,
        "metric": {"name": metric, "better": BETTER[metric]},
        "status": "finished" if is_finished else "running",
        "rows": rows,
    }


def write(folder: Path) -> dict[str, Any]:
    """Write leaderboard.json, .csv and .md into a folder and return the leaderboard."""
    board = leaderboard([folder])
    for suffix, text in (("json", as_json), ("csv", as_csv), ("md", as_markdown)):
        store.write_text(folder / f"{store.LEADERBOARD}.{suffix}", text(board))
    return board
