"""The leaderboard as a LaTeX table, for booktabs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metabench.leaderboard.notes import about, title
from metabench.leaderboard.table import split

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

WITHOUT = ("hyperparameters", "folder")
"""Columns that no page has room for, unless they are asked for."""


def as_latex(board: Mapping[str, Any], asked: Sequence[str] = ()) -> str:
    """Return a tabular of the rows, and what a reader must know of it as comments above."""
    columns, common = split(board["rows"], asked)
    columns = [column for column in columns if asked or column.key not in WITHOUT]
    lines = [
        f"% {line}" for line in (title(board), *about(board, common).split("\n"), r"\usepackage{booktabs}")
    ]
    lines += [rf"\begin{{tabular}}{{{''.join('r' if column.is_number else 'l' for column in columns)}}}"]
    lines += [r"\toprule", _line([column.title for column in columns]), r"\midrule"]
    lines += [_line([column.show(row) for column in columns]) for row in board["rows"]]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return " & ".join("".join(ESCAPED.get(mark, mark) for mark in cell) for cell in cells) + r" \\"
