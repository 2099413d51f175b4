"""The tables of a report, as cells with what they are sorted by: leaderboard, budget, trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from metabench import stats
from metabench.core import metrics
from metabench.core.metrics import Metric
from metabench.leaderboard.columns import COLUMNS, WHO, Column, count, duration
from metabench.leaderboard.columns import settings as in_one_line
from metabench.leaderboard.notes import about
from metabench.leaderboard.rows import TUNED
from metabench.leaderboard.table import split
from metabench.report.html.pictures.search import SETTINGS
from metabench.report.html.reading import Results, Tried
from metabench.search.progress import summary

SETTING = "setting"
"""The part of the leaderboard's columns that are long."""


class Cell(NamedTuple):
    """What is shown, and the number that it is sorted by where it is not by its text."""

    text: str
    key: float | None = None
    is_strong: bool = False


class Table(NamedTuple):
    """A table that can be sorted and filtered."""

    name: str
    title: str
    caption: str
    columns: list[tuple[str, bool]]  # title, and whether it holds numbers
    rows: list[list[Cell]]
    is_folded: bool = True  # long cells, until they are opened


def leaderboard(results: Results) -> Table:
    """Show all that the leaderboard knows of each row, but for its settings."""
    columns, common = split(results.board["rows"])
    caption = about(results.board, common)
    shown = [column for column in columns if column.part != SETTING]
    return Table("leaderboard-table", "All rows", caption, *_of_rows(results, shown))


def settings(results: Results) -> Table:
    """Show the settings of the leaderboard's rows, which are long."""
    columns, _ = split(results.board["rows"])
    shown = [column for column in columns if column in WHO or column.part == SETTING]
    caption = "Every setting of each row, those that were not searched too."
    return Table("row-settings", "Settings of the rows", caption, *_of_rows(results, shown), is_folded=False)


def _of_rows(results: Results, columns: Sequence[Column]) -> tuple[list[tuple[str, bool]], list[list[Cell]]]:
    rows = [row for row in results.board["rows"] if any(column.show(row) for column in columns[len(WHO) :])]
    heads = [(column.title, column.is_number) for column in columns]
    return heads, [[_cell(column, row) for column in columns] for row in rows]


def _cell(column: Column, row: Mapping[str, Any]) -> Cell:
    raw = row.get(column.key)
    if isinstance(raw, Mapping):
        raw = raw.get("difference")
    key = float(raw) if column.is_number and isinstance(raw, int | float) else None
    return Cell(column.show(row), key, row["variant"] == TUNED and column is COLUMNS[0])


def budget(results: Results) -> Table:
    """Show where each algorithm's budget went: trials by how they ended, rungs, tasks, seconds."""
    parts = [
        (one.search.folder.name, name, summary.summarise(one.space, one.ledger, name, results.metric))
        for one in results.searches
        for name in one.space.algorithms
    ]
    total = sum(part["seconds"] for _, _, part in parts) or 1.0
    columns = dict.fromkeys(("algorithm", "search"), False)
    columns |= dict.fromkeys(("trials", *summary.STATES), True) | {"reached rungs": False}
    columns |= dict.fromkeys(("tasks", "seconds", "share of seconds"), True)
    rows = [
        [
            Cell(algorithm),
            Cell(search),
            Cell(f"{part['proposed']} of {part['planned']}", part["proposed"]),
            *(Cell(str(part[state]), part[state]) for state in summary.STATES),
            Cell(" → ".join(map(str, part["rungs"].values()))),
            Cell(count(part["tasks_seen"]), part["tasks_seen"]),
            Cell(duration(part["seconds"]), part["seconds"]),
            Cell(f"{part['seconds'] / total:.0%}", part["seconds"]),
        ]
        for search, algorithm, part in parts
    ]
    caption = (
        f"Every algorithm had the same budget: {_same(results)}, and the same rungs; its "
        "tasks differ as far as trials were stopped, its seconds as far as steps cost. Reached rungs: how "
        f"many trials arrived at each in turn. {_final_budget(results)}"
    )
    return Table("budget", "Budget", caption, list(columns.items()), rows)


def _same(results: Results) -> str:
    """Say what was the same for all algorithms of a search."""
    budgets = []
    for budget in (one.space.budget for one in results.searches):
        trials, seconds = f"{budget.trials} trials (one, where nothing varies)", budget.seconds
        budgets.append(trials if seconds is None else f"{seconds:g} seconds, at most {trials}")
    return ", or ".join(dict.fromkeys(budgets))


def _final_budget(results: Results) -> str:
    last = [final.run.reports[-1] for final in results.finals if final.run.reports]
    if not last:
        return "No run to the full budget has reported yet."
    tasks, seconds = (sum(report[key] for report in last) for key in ("tasks_seen", "seconds"))
    return f"Besides, {len(last)} runs to the full budget took {count(tasks)} tasks and {duration(seconds)}."


def trials(results: Results) -> Table:
    """Show every trial with what it had and how it ended."""
    names = [name for name in SETTINGS if any(name in tried.trial.sampled for tried in results.trials)]
    metric = f"meta-val. {results.metric.unit or results.metric}"
    columns = dict.fromkeys(("trial", "algorithm", "ended"), False)
    columns |= dict.fromkeys(("tasks seen", metric, "95 % interval", "seconds"), True)
    columns |= {SETTINGS[name]: True for name in names} | {"other settings": False, "note": False}
    rows = [_trial(results, tried, names) for tried in results.trials]
    caption = (
        "Figures are those of the last report: only trials with the same tasks seen may be compared. Filter "
        "for an algorithm, a setting such as cosine=true, or how a trial ended."
    )
    return Table("trials", "All trials", caption, list(columns.items()), rows)


def _trial(results: Results, tried: Tried, names: Sequence[str]) -> list[Cell]:
    trial = tried.trial
    last = trial.reports[-1] if trial.reports else {}
    figure = results.figure(last.get("val_score"))
    others = {key: value for key, value in trial.sampled.items() if key not in names}
    return [
        Cell(trial.name),
        Cell(tried.label),
        Cell(trial.status or "running"),
        Cell(count(trial.tasks_seen), trial.tasks_seen),
        Cell(metrics.show(results.metric, figure).removesuffix("%"), figure),
        _interval(results.metric, figure, last.get("val_ci")),
        _number(last.get("seconds"), ".0f"),
        *(_number(trial.hyperparameters.get(name), ".4g") for name in names),
        Cell(in_one_line(others)),
        Cell(_note(trial)),
    ]


def _interval(metric: Metric, figure: float | None, half_width: float | None) -> Cell:
    """Show a validation's bounds, in the order of the interval's width."""
    if figure is None or half_width is None:
        return Cell("", None)
    ends = stats.bounds(figure, half_width, metric.scale)
    return Cell("–".join(metrics.show(metric, end).removesuffix("%") for end in ends), half_width)


def _number(value: float | None, form: str) -> Cell:
    return Cell("" if value is None else f"{value:{form}}", value)


def _note(trial: Any) -> str:
    notes = ["published setting"] if trial.is_default else []
    if trial.is_borderline:
        notes.append("stopped within the noise of its validation tasks")
    if trial.error:
        notes.append(trial.error.strip().splitlines()[-1])
    return "; ".join(notes)
