"""The leaderboard as a terminal table, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from metabench.core import MetabenchError
from metabench.leaderboard.columns import COLUMNS, WHO, Column, choose
from metabench.leaderboard.notes import about, title
from metabench.leaderboard.rows import TUNED, keys
from metabench.storage import files

Board = Mapping[str, Any]

VERSUS = ("difference", "ci_low", "ci_high", "over", "p", "p_tasks", "p_holm", "higher", "verdict")
MOST_WORDS = 24  # characters of a column of words that have to fit; more may be broken
NARROW = 10  # a heading of a difference that is longer takes two lines
PARTS = ("result", "choice", "cost", "setting")


def as_json(board: Board, asked: Sequence[str] = ()) -> str:
    """Return standard JSON: accuracies in [0, 1] or errors, null for what is not known."""
    _refuse_choice(asked)
    return json.dumps(files.plain(board), indent=1, allow_nan=False) + "\n"


def as_csv(board: Board, asked: Sequence[str] = ()) -> str:
    """Return one line a row: accuracies in [0, 1] or errors, hyperparameters as JSON in one column."""
    _refuse_choice(asked)
    text = io.StringIO()
    compared = ("vs_default", "vs_best")
    known = [key for key in keys(board["metric"]["name"]) if key not in compared]
    flat = known + [f"{key}_{part}" for key in compared for part in VERSUS]
    writer = csv.DictWriter(text, flat, lineterminator="\n")
    writer.writeheader()
    for row in board["rows"]:
        values = {key: row.get(key) for key in known}
        if row["hyperparameters"] is not None:
            values["hyperparameters"] = json.dumps(row["hyperparameters"])
        for key in compared:
            found = row.get(key) or {}
            values |= {f"{key}_{part}": found.get(part) for part in VERSUS}
        writer.writerow(values)
    return text.getvalue()


def as_markdown(board: Board, asked: Sequence[str] = (), in_parts: bool = False) -> str:
    """Return a title, a table and what a reader must know of it.

    Args:
        asked: names of columns that are shown instead.
        in_parts: results, choices, costs and settings each in a table of their own, for narrow places.
    """
    columns, common = split(board["rows"], asked)
    own = [[*WHO, *(c for c in columns if c.part == part and c not in WHO)] for part in PARTS]
    tables = [part for part in own if len(part) > len(WHO)] if in_parts else [columns]
    return (
        "\n\n".join([f"**{title(board)}**", about(board, common), *(_markdown(board, t) for t in tables)])
        + "\n"
    )


def _markdown(board: Board, columns: Sequence[Column]) -> str:
    cells = [[column.title for column in columns]]
    cells.append(["---:" if column.is_number else "---" for column in columns])
    cells += [[column.show(row).replace("|", r"\|") for column in columns] for row in board["rows"]]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def as_table(board: Board, asked: Sequence[str] = ()) -> RenderableType:
    """Return what rich prints: results, choices, costs and settings, each narrow, and what to know of them.

    Args:
        asked: names of columns that are shown instead.
    """
    columns, common = split(board["rows"], asked)
    parts: list[RenderableType] = [Text(title(board), style="bold")]
    if asked:
        parts += [Packed(columns, board["rows"]), ""]
    for part in () if asked else PARTS:
        own = [column for column in columns if column.part == part and column not in WHO]
        rows = [row for row in board["rows"] if any(column.show(row) for column in own)]
        if rows:
            parts += [Packed([*WHO, *own], rows), ""]
    return Group(*parts, Text(about(board, common), style="dim"))


def split(rows: Sequence[Mapping[str, Any]], asked: Sequence[str] = ()) -> tuple[list[Column], list[str]]:
    """Return the columns that have something to show, and what is the same for all rows, in words.

    Args:
        asked: names of columns that are shown whatever is in them, and no others.
    """
    columns, common = [], []
    chosen = choose(asked) if asked else [column for column in COLUMNS if column.part != "asked"]
    for column in COLUMNS:
        shown = {column.show(row) for row in rows} - {""}
        if asked or column not in chosen:
            continue
        if column.if_shared == "show" or len(shown) != 1:
            columns += [column] if shown else []
        elif column.if_shared == "say":
            common.append(f"{column.title.lower()}: {shown.pop()}")
    return (chosen, []) if asked else (columns, common)


class Packed:
    """Columns in as many tables, one below the other, as a terminal's width takes to break no number."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> None:
        self.columns = [column for column in columns if column not in WHO]
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the tables."""
        room = options.max_width - sum(self._width(column) + 1 for column in WHO)
        tables: list[list[Column]] = [[]]
        left = room
        for column in self.columns:
            width = self._width(column) + 1
            if tables[-1] and left < width - 1:
                tables.append([])
                left = room
            tables[-1].append(column)
            left -= width
        for number, own in enumerate(tables):
            if number:
                yield ""
            yield self._table([*WHO, *own])

    def _width(self, column: Column) -> int:
        cells = [*_heading(column).split("\n"), *(column.show(row) for row in self.rows)]
        width = max(map(len, cells))
        return width if column.is_number else min(width, MOST_WORDS)

    def _table(self, columns: Sequence[Column]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
        for column in columns:
            justify: Literal["left", "right"] = "right" if column.is_number else "left"
            table.add_column(Text(_heading(column)), justify=justify, overflow="fold")
        for row in self.rows:
            style = "bold" if row["variant"] == TUNED else ""
            table.add_row(*(Text(column.show(row)) for column in columns), style=style)
        return table


def _heading(column: Column) -> str:
    return column.title.replace(" − ", "\n− ") if len(column.title) > NARROW else column.title


def _refuse_choice(asked: Sequence[str]) -> None:
    if asked:
        raise MetabenchError("--columns: JSON and CSV hold every column; choose them with the other formats")
