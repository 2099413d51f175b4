"""The leaderboard: rows from search and run folders, as a table and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metabench.core import MetabenchError
from metabench.leaderboard import build
from metabench.leaderboard import folders as reading
from metabench.leaderboard.latex import as_latex
from metabench.leaderboard.table import as_csv, as_json, as_markdown, as_table
from metabench.storage import files

__all__ = [
    "FORMATS",
    "as_csv",
    "as_json",
    "as_latex",
    "as_markdown",
    "as_table",
    "leaderboard",
    "read",
    "write",
]

FORMATS = {"table": as_table, "json": as_json, "csv": as_csv, "md": as_markdown, "latex": as_latex}


def read(folders: Sequence[Path]) -> list[reading.Search | reading.Run]:
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
    return build.assemble(read(folders), published)


def write(folder: Path) -> dict[str, Any]:
    """Write leaderboard.json, .csv and .md into a folder and return the leaderboard."""
    board = leaderboard([folder])
    for suffix, text in (("json", as_json), ("csv", as_csv), ("md", as_markdown)):
        files.write_text(folder / f"{files.LEADERBOARD}.{suffix}", text(board))
    return board
