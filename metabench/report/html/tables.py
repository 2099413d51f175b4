"""The tables of a report, as cells with what they are sorted by: leaderboard, budget, trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from metabench.core import metrics
from metabench.core.config import amount, limit
from metabench.leaderboard.columns import COLUMNS, WHO, Column, count, duration
from metabench.leaderboard.columns import settings as in_one_line
from metabench.leaderboard.notes import about
from metabench.leaderboard.rows import TUNED
from metabench.leaderboard.table import split
from metabench.report.html.pictures.domains import hardest_first, of_rows
from metabench.report.html.pictures.search import SETTINGS
from metabench.report.html.reading import Results, Tried
from metabench.search.progress import summary


class Cell(NamedTuple):
    """What is shown, and the number that it is sorted by where it is not by its text."""

    text: str
    key: float | None = None
    is_strong: bool = False
    folded: str = ""  # what is shown below the text once it is asked for
    summary: str = ""  # of what is folded


class Table(NamedTuple):
    """A table that can be sorted and filtered."""

    name: str
    title: str
    caption: str
    columns: list[tuple[str, bool]]  # title, and whether it holds numbers
    rows: list[list[Cell]]
    is_folded: bool = True  # long cells, until they are opened


class Part(NamedTuple):
    """Some of the leaderboard's columns, as a table."""

    name: str
    title: str
    caption: str = ""
    is_folded: bool = True


PARTS = {
    "result": Part("leaderboard-table", "On meta-test"),
    "choice": Part(
        "choice",
        "How settings were chosen",
        "What each row's setting was chosen by, on meta-validation, and by how much that flattered it. "
        "Tuned − default: what the search brought.",
    ),
    "cost": Part(
        "row-cost",
        "Cost of the rows",
        "What each row of the leaderboard took, and the size of its network.",
    ),
    "setting": Part(
        "row-settings",
        "Settings of the rows",
        "What was searched, in bold; what was not is folded away.",
        is_folded=False,
    ),
}
"""What columns speak of, to how they are shown."""


def of_board(results: Results) -> dict[str, Table]:
    """Show the leaderboard by what its columns speak of, each with the rows that have anything there."""
    board = results.board["rows"]
    columns, common = split(board)
    tables = {}
    for about_what, part in PARTS.items():
        shown = [*WHO, *(one for one in columns if one.part == about_what and one not in WHO)]
        heads = [(column.title, column.is_number) for column in shown]
        rows = [row for row in board if any(column.show(row) for column in shown[len(WHO) :])]
        cells = [[_cell(results, column, row) for column in shown] for row in rows]
        caption = part.caption or about(results.board, common)
        tables[about_what] = Table(part.name, part.title, caption, heads, cells, part.is_folded)
    return tables


def classes(results: Results) -> list[Table]:
    """Show where the best row that says so errs: its hardest classes, and those that it confuses."""
    row = next((row for row in results.board["rows"] if row.get("hardest")), None)
    if row is None:
        return []
    metric, name = results.metric, results.name(row)
    hardest = [
        [Cell(label), Cell(metrics.show(metric, figure), figure), Cell(count(queries), queries)]
        for label, figure, queries in row["hardest"]
    ]
    confused = [
        [Cell(true), Cell(guess), Cell(f"{share:.0%}", share), Cell(count(chances), chances)]
        for true, guess, share, chances in row.get("confused") or []
    ]
    columns = [("class", False), (str(metric), True), ("queries", True)]
    caption = f"The classes of meta-test that {name} gets right least often; rare ones count less."
    tables = [Table("hardest", "Hardest classes", caption, columns, hardest)]
    if confused:
        columns = [("class", False), ("taken for", False), ("share", True), ("of queries", True)]
        caption = (
            f"The classes that {name} confuses most: the share of a class's queries, in tasks that hold "
            "both, that are taken for the other."
        )
        tables.append(Table("confused", "Most often confused", caption, columns, confused))
    return tables


def places(results: Results) -> list[Table]:
    """Show how the most accurate row, and the one of the smallest gap, fare in each place of tasks."""
    rows = [row for row in results.board["rows"] if row.get("by_place") and row.get("dp_gap") is not None]
    if not rows:
        return []
    best, fairest = rows[0], min(rows, key=lambda row: float(row["dp_gap"]))
    shown = [best] if best is fairest else [best, fairest]
    columns = [("place", False), ("queries", True), ("protected", True)]
    columns += [
        (f"{results.name(row)}: {what}", True) for row in shown for what in ("accuracy, %", "gap, points")
    ]
    cells = []
    for of_place in zip(*(row["by_place"] for row in shown), strict=True):
        name, n_queries, n_protected, *_ = of_place[0]
        cells.append([Cell(name), Cell(count(n_queries), n_queries), Cell(count(n_protected), n_protected)])
        cells[-1] += [
            Cell("" if figure is None else f"{100 * figure:.1f}", figure)
            for one in of_place
            for figure in one[3:]
        ]
    caption = (
        "The places that meta-test tasks are draws of, all seeds together: a gap is empty where one of the "
        "groups has no query."
    )
    return [Table("places", "By place", caption, columns, cells)]


def domains(results: Results) -> list[Table]:
    """Show what is right of the queries of each domain, by row, where test tasks are of several."""
    by_row = of_rows(results)
    names = hardest_first(by_row)
    if len(names) < 2:
        return []
    queries = {name: n for row in results.board["rows"] for name, _, n in row.get("by_domain") or []}
    cells = [
        [
            Cell(name),
            Cell(count(queries[name]), queries[name]),
            *(_number(None if name not in one else 100 * one[name], ".1f") for one in by_row.values()),
        ]
        for name in names
    ]
    columns = [("domain", False), ("queries", True), *((f"{name}, %", True) for name in by_row)]
    caption = "What is right of each domain's queries in meta-test, all seeds together; the hardest first."
    return [Table("domains-table", "By domain", caption, columns, cells)]


def _settings_cell(results: Results, row: Mapping[str, Any]) -> Cell:
    values, names = row.get("hyperparameters") or {}, results.searched(row)
    searched = {name: value for name, value in values.items() if name in names}
    others = {name: value for name, value in values.items() if name not in names}
    summary = f"{len(others)} not searched" if others else ""
    return Cell(in_one_line(searched), is_strong=True, folded=in_one_line(others), summary=summary)


def _cell(results: Results, column: Column, row: Mapping[str, Any]) -> Cell:
    if column.key == "hyperparameters":
        return _settings_cell(results, row)
    raw = row.get(column.key)
    if isinstance(raw, Mapping):
        raw = raw.get("difference")
    key = float(raw) if column.is_number and isinstance(raw, int | float) else None
    return Cell(column.show(row), key, row["variant"] == TUNED and column is COLUMNS[0])


def budget(results: Results) -> Table:
    """Show where each algorithm's budget went: trials by how they ended, rungs, tasks, seconds."""
    parts = [
        (
            one.search.folder.name,
            name,
            summary.summarise(one.space, one.ledger, name, results.metric, n_trials),
        )
        for one in results.searches
        for name, n_trials in summary.planned(one.search.config, one.space).items()
    ]
    total = sum(part["seconds"] for _, _, part in parts) or 1.0
    # All columns together would not fit on a common screen.
    states = [one for one in summary.STATES if any(part[one] for *_, part in parts)]
    columns = dict.fromkeys(("algorithm", "search"), False)
    columns |= dict.fromkeys(("trials", *states), True) | {"reached rungs": False}
    columns |= dict.fromkeys(("tasks", "seconds", "share of seconds"), True)
    rows = [
        [
            Cell(algorithm),
            Cell(search),
            Cell(f"{part['proposed']} of {part['planned']}", part["proposed"]),
            *(Cell(str(part[state]), part[state]) for state in states),
            Cell("\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}".join(map(str, part["rungs"].values()))),
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
        trials, most = f"{budget.trials} trials (one, where nothing varies)", limit(budget)
        budgets.append(trials if most is None else f"{amount(most, budget.unit)}, at most {trials}")
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
    columns |= dict.fromkeys(("tasks seen", metric, "seconds"), True)
    columns |= {SETTINGS[name]: True for name in names} | {"other settings": False, "note": False}
    rows = [_trial(results, tried, names) for tried in results.trials]
    caption = (
        "Figures are those of the last report: only trials with the same tasks seen may be compared. Filter "
        "for an algorithm, a setting such as cosine=true, or how a trial ended."
    )
    return Table("trials", "All trials", caption, list(columns.items()), rows)


def _trial(results: Results, tried: Tried, names: Sequence[str]) -> list[Cell]:
    trial, figure = tried.trial, results.figure(tried.trial.score)
    last = trial.reports[-1] if trial.reports else {}
    others = {key: value for key, value in trial.sampled.items() if key not in names}
    return [
        Cell(trial.name),
        Cell(tried.label),
        Cell(trial.state),
        Cell(count(trial.tasks_seen), trial.tasks_seen),
        Cell(metrics.show(results.metric, figure).removesuffix("%"), figure),
        _number(last.get("seconds"), ".0f"),
        *(_number(trial.hyperparameters.get(name), ".4g") for name in names),
        Cell(in_one_line(others)),
        Cell(_note(trial)),
    ]


def _number(value: float | None, form: str) -> Cell:
    return Cell("" if value is None else f"{value:{form}}", value)


def _note(trial: Any) -> str:
    notes = ["published setting"] if trial.is_default else []
    if trial.is_borderline:
        notes.append("stopped within the noise of its validation tasks")
    if trial.error:
        notes.append(trial.error.strip().splitlines()[-1])
    return "; ".join(notes)
