"""The leaderboard as a terminal table, Markdown, LaTeX, HTML, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Literal

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from metabench.core import MetabenchError
from metabench.core.metrics import METRICS
from metabench.leaderboard import fairness
from metabench.leaderboard.columns import COLUMNS, WHO, Column, choose
from metabench.leaderboard.notes import about, title
from metabench.leaderboard.rows import TUNED, keys
from metabench.storage import files

Board = Mapping[str, Any]

PAIRS = ("vs_default", "vs_best")
LISTS = ("hardest", "confused", "by_place", "by_domain")
VERSUS = ("difference", "ci_low", "ci_high", "over", "p", "p_tasks", "p_holm", "higher", "verdict")
MOST_WORDS = 24  # characters of a column of words that have to fit; more may be broken
NARROW = 10  # a heading of a difference that is longer takes two lines
PARTS = ("result", "choice", "cost", "setting")

ESCAPED = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{mark: f"\\{mark}" for mark in "&%$#_"},
    "<": r"$<$",
    "–": "--",
    "−": r"$-$",
}
"""What LaTeX would not print as it is."""

TOO_LONG = ("hyperparameters", "folder")
"""Columns that no page has room for, unless they are asked for."""


def as_json(board: Board, asked: Sequence[str] = ()) -> str:
    """Return standard JSON: accuracies in [0, 1] or errors, null for what is not known."""
    _refuse_choice(asked)
    return json.dumps(files.plain(board), indent=1, allow_nan=False) + "\n"


def as_csv(board: Board, asked: Sequence[str] = ()) -> str:
    """Return one line a row: accuracies in [0, 1] or errors; hyperparameters and lists of classes as JSON."""
    _refuse_choice(asked)
    text = io.StringIO()
    names = [key for key in keys(METRICS[board["metric"]["name"]]) if key not in PAIRS]
    names += [key for key in fairness.KEYS if any(key in row for row in board["rows"])]
    names += [f"{key}_{part}" for key in PAIRS for part in VERSUS]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    rows = map(flat, board["rows"])
    writer.writerows({key: files.as_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without nested values: last its hyperparameters as JSON, and the parts of comparisons."""
    settings = row["hyperparameters"]
    plain = {key: value for key, value in row.items() if key not in (*PAIRS, "hyperparameters")}
    plain |= {key: row[key] and json.dumps(row[key]) for key in LISTS if key in row}
    plain["hyperparameters"] = None if settings is None else json.dumps(settings)
    return plain | {f"{key}_{part}": (row.get(key) or {}).get(part) for key in PAIRS for part in VERSUS}


def as_markdown(board: Board, asked: Sequence[str] = (), in_parts: bool = False) -> str:
    """Return a title, the answer, what a reader must know of the table, and the table.

    Args:
        asked: names of columns that are shown instead.
        in_parts: results, choices, costs and settings each in a table of their own, for narrow places.
    """
    columns, common = split(board["rows"], asked)
    tables = [[*WHO, *part] for part in in_tables(columns)] if in_parts else [columns]
    words = (f"**{title(board)}**", board["answer"], about(board, common))
    blocks = [*words, *(_markdown(board, table) for table in tables)]
    return "\n\n".join(blocks) + "\n"


def _markdown(board: Board, columns: Sequence[Column]) -> str:
    cells = [[column.title for column in columns]]
    cells.append(["---:" if column.is_number else "---" for column in columns])
    cells += [[column.show(row).replace("|", r"\|") for column in columns] for row in board["rows"]]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def as_latex(board: Board, asked: Sequence[str] = ()) -> str:
    """Return a tabular of the rows, for booktabs, and what a reader must know of it as comments above."""
    columns, common = split(board["rows"], asked)
    columns = [column for column in columns if asked or column.key not in TOO_LONG]
    comments = (title(board), board["answer"], *about(board, common).split("\n"), r"\usepackage{booktabs}")
    sides = "".join("r" if column.is_number else "l" for column in columns)
    lines = [*(f"% {line}" for line in comments), rf"\begin{{tabular}}{{{sides}}}"]
    lines += [r"\toprule", _latex([column.title for column in columns]), r"\midrule"]
    lines += [_latex([column.show(row) for column in columns]) for row in board["rows"]]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex(cells: Sequence[str]) -> str:
    return " & ".join("".join(ESCAPED.get(mark, mark) for mark in cell) for cell in cells) + r" \\"


def as_html(board: Board) -> str:
    """Return the title, the answer, the rows and what a reader must know of them, for a notebook."""
    columns, common = split(board["rows"])
    columns = [column for column in columns if column.key not in TOO_LONG]
    lines = [[_cell("th", column.title, column) for column in columns]]
    lines += [[_cell("td", column.show(row), column) for column in columns] for row in board["rows"]]
    body = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    words = (f"<b>{escape(title(board))}</b><br>{escape(board['answer'])}", escape(about(board, common)))
    return f"<p>{words[0]}</p><table>{body}</table><p><small>{words[1]}</small></p>"


def _cell(tag: str, text: str, column: Column) -> str:
    return f'<{tag} style="text-align:{"right" if column.is_number else "left"}">{escape(text)}</{tag}>'


def as_table(board: Board, asked: Sequence[str] = ()) -> RenderableType:
    """Return what rich prints: the answer, results, choices, costs and settings, and what to know of them.

    Args:
        asked: names of columns that are shown instead.
    """
    columns, common = split(board["rows"], asked)
    tables = [columns] if asked else in_tables(columns)
    parts: list[RenderableType] = [Text(title(board), style="bold"), Text(board["answer"]), ""]
    for part in tables:
        rows = [row for row in board["rows"] if asked or any(column.show(row) for column in part)]
        parts += [Packed(part, rows), ""] if rows else []
    return Group(*parts, Text(about(board, common), style="dim"))


def split(rows: Sequence[Mapping[str, Any]], asked: Sequence[str] = ()) -> tuple[list[Column], list[str]]:
    """Return the columns that have something to show, and what is the same for all rows, in words.

    Args:
        asked: names of columns that are shown whatever is in them, and no others.
    """
    if asked:
        return choose(asked), []
    columns, common = [], []
    for column in COLUMNS:
        shown = {column.show(row) for row in rows} - {""}
        if not shown or column.part == "asked" or (column.beside and not _differs(column, rows)):
            continue
        if column.if_shared == "show" or len(shown) > 1:
            columns.append(column)
        elif column.if_shared == "say":
            common.append(f"{column.title.lower()}: {shown.pop()}")
    return columns, common


def _differs(column: Column, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a column says anything that the one beside it does not."""
    return any(column.show(row) not in ("", column.show({column.key: row[column.beside]})) for row in rows)


def in_tables(columns: Sequence[Column]) -> list[list[Column]]:
    """Divide columns among tables, without those that say which row it is; each has some."""
    parts = [[c for c in columns if c.part == part and c not in WHO] for part in PARTS]
    return [part for part in parts if part]


class Packed:
    """Columns in as many tables, one below the other, as a terminal's width takes to break no number."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> None:
        self.columns = [column for column in columns if column not in WHO]
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the tables."""
        most = options.max_width - sum(self._width(column) + 1 for column in WHO)
        tables: list[list[Column]] = [[]]
        left = most
        for column in self.columns:
            width = self._width(column) + 1
            if tables[-1] and left < width - 1:
                tables.append([])
                left = most
            tables[-1].append(column)
            left -= width
        for number, columns in enumerate(tables):
            if number:
                yield ""
            yield self._table([*WHO, *columns])

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
        raise MetabenchError("`columns`: JSON and CSV hold every column; choose them with the other formats")
