"""The leaderboard as a terminal table, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from metabench import store
from metabench.board.columns import COLUMNS, Column
from metabench.board.folders import told_count
from metabench.board.rows import TUNED, keys

Board = Mapping[str, Any]

WHO = COLUMNS[:2]
"""The columns that say which row it is."""

VERSUS = ("difference", "ci_low", "ci_high", "p")


def as_json(board: Board) -> str:
    """Return standard JSON: accuracies in [0, 1] or errors, null for what is not known."""
    return json.dumps(store.plain(board), indent=1, allow_nan=False) + "\n"


def as_csv(board: Board) -> str:
    """Return one line a row: accuracies in [0, 1] or errors, hyperparameters as JSON in one column."""
    text = io.StringIO()
    known = [key for key in keys(board["metric"]["name"]) if key != "vs_default"]
    flat = known + [f"vs_default_{key}" for key in VERSUS]
    writer = csv.DictWriter(text, flat, lineterminator="\n")
    writer.writeheader()
    for row in board["rows"]:
        values = {key: row[key] for key in known}
        if row["hyperparameters"] is not None:
            values["hyperparameters"] = json.dumps(row["hyperparameters"])
        compared = row["vs_default"] or {}
        writer.writerow(values | {f"vs_default_{key}": compared.get(key) for key in VERSUS})
    return text.getvalue()


def as_markdown(board: Board) -> str:
    """Return a title, a table and what a reader must know of it."""
    columns, common = _split(board["rows"])
    cells = [[column.title for column in columns]]
    cells.append(["---:" if column.is_number else "---" for column in columns])
    cells += [[column.show(row).replace("|", r"\|") for column in columns] for row in board["rows"]]
    lines = [f"| {' | '.join(line)} |" for line in cells]
    return "\n\n".join([f"**{_title(board)}**", _about(board, common), "\n".join(lines)]) + "\n"


def as_table(board: Board) -> RenderableType:
    """Return what rich prints: results, costs and settings, each narrow, and what a reader must know."""
    columns, common = _split(board["rows"])
    parts: list[RenderableType] = [Text(_title(board), style="bold")]
    for part in ("result", "cost", "setting"):
        own = [column for column in columns if column.part == part and column not in WHO]
        rows = [row for row in board["rows"] if any(column.show(row) for column in own)]
        if rows:
            parts += [_rich([*WHO, *own], rows), ""]
    return Group(*parts, Text(_about(board, common), style="dim"))


FORMATS = {"table": as_table, "json": as_json, "csv": as_csv, "md": as_markdown}


def _rich(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for column in columns:
        table.add_column(Text(column.title), justify="right" if column.is_number else "left", overflow="fold")
    for row in rows:
        style = "bold" if row["variant"] == TUNED else ""
        table.add_row(*(Text(column.show(row)) for column in columns), style=style)
    return table


def _split(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Column], list[str]]:
    """Return the columns that have something to show, and what is the same for all rows, in words."""
    columns, common = [], []
    for column in COLUMNS:
        shown = {column.show(row) for row in rows} - {""}
        if column.if_shared == "show" or len(shown) != 1:
            columns += [column] if shown else []
        elif column.if_shared == "say":
            common.append(f"{column.title.lower()}: {shown.pop()}")
    return columns, common


def _title(board: Board) -> str:
    task = board["task"]
    split = f" ({task['split']})" if task.get("split") else ""
    running = "" if board["status"] == "finished" else ", still running"
    ways = f"{told_count(task['way'])}-way " if task["way"] != 1 else ""
    return f"{task['dataset']}{split}, {ways}{told_count(task['shot'])}-shot{running}"


def _about(board: Board, common: Sequence[str]) -> str:
    rows, metric = board["rows"], board["metric"]["name"]
    sentences = ["; ".join([*common, f"protocol: {board['protocol']}"]) + "."]
    trained = {row["ci_over"] for row in rows if row["ci_over"] and row["seeds"]}
    if trained:
        over = " or ".join(sorted(trained))
        judged = "Accuracy" if metric == "accuracy" else "Mean squared error"
        better = "" if metric == "accuracy" else ", lower is better"
        sentences.append(f"{judged} on meta-test{better}; 95 % intervals over {over}; baselines over tasks.")
    if any(row["variant"] == TUNED for row in rows):
        sentences.append("Cost of a tuned row: its whole search; of others: their own runs.")
    if board["status"] != "finished":
        sentences.append(f"Rows without an {metric} show the best meta-validation {metric} so far.")
    again = [f"{row['algorithm']} {row['variant']}" for row in rows if (row["times_opened"] or 0) > 1]
    if again:
        sentences.append(f"Meta-test was opened more than once for: {', '.join(again)}.")
    return " ".join(sentences)
