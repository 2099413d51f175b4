"""The tables of a report, as cells with what they are sorted by: leaderboard, budget, trials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from metabench.cli import status
from metabench.core import metrics
from metabench.core.config import BudgetConfig
from metabench.leaderboard.columns import COLUMNS, WHO, Column, count, duration
from metabench.leaderboard.notes import about
from metabench.leaderboard.rows import TUNED
from metabench.leaderboard.table import split
from metabench.report.html.pictures.slices import SETTINGS
from metabench.report.html.reading import Found, Tried

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


def leaderboard(found: Found) -> Table:
    """Show all that the leaderboard knows of each row, but for its settings."""
    columns, common = split(found.board["rows"])
    shown = [column for column in columns if column.part != SETTING]
    return Table("leaderboard-table", "All rows", about(found.board, common), *_of_rows(found, shown))


def settings(found: Found) -> Table:
    """Show the settings of the leaderboard's rows, which are long."""
    columns, _ = split(found.board["rows"])
    shown = [column for column in columns if column in WHO or column.part == SETTING]
    caption = "Every setting of each row, those that were not searched too."
    return Table("row-settings", "Settings of the rows", caption, *_of_rows(found, shown), is_folded=False)


def _of_rows(found: Found, columns: Sequence[Column]) -> tuple[list[tuple[str, bool]], list[list[Cell]]]:
    rows = [row for row in found.board["rows"] if any(column.show(row) for column in columns[len(WHO) :])]
    heads = [(column.title, column.is_number) for column in columns]
    return heads, [[_cell(column, row) for column in columns] for row in rows]


def _cell(column: Column, row: Mapping[str, Any]) -> Cell:
    shown, raw = column.show(row), row.get(column.key)
    if isinstance(raw, Mapping):
        raw = raw.get("difference")
    key = float(raw) if column.is_number and isinstance(raw, int | float) else None
    return Cell(shown, key, row["variant"] == TUNED and column is COLUMNS[0])


def budget(found: Found) -> Table:
    """Show where each algorithm's budget went: trials by how they ended, rungs, tasks, seconds."""
    states = list(status.STATES)
    head = ["algorithm", "search", "trials", *states, "reached rungs", "tasks", "seconds", "share of seconds"]
    standing = [status.read(search.folder) for search in found.searches]
    total = sum(own["seconds"] for found_ in standing for own in found_["algorithms"].values()) or 1.0
    rows = []
    for search, stands in zip(found.searches, standing, strict=True):
        for algorithm, own in stands["algorithms"].items():
            reached = " → ".join(str(n) for n in own["rungs"].values())
            rows.append(
                [
                    Cell(algorithm),
                    Cell(search.folder.name),
                    Cell(f"{own['proposed']} of {own['planned']}", own["proposed"]),
                    *(Cell(str(own[state]), own[state]) for state in states),
                    Cell(reached),
                    Cell(count(own["tasks_seen"]), own["tasks_seen"]),
                    Cell(duration(own["seconds"]), own["seconds"]),
                    Cell(f"{own['seconds'] / total:.0%}", own["seconds"]),
                ]
            )
    caption = (
        f"Every algorithm had the same budget: {_same(found)}, and the same rungs; its "
        "tasks differ as far as trials were stopped, its seconds as far as steps cost. Reached rungs: how "
        f"many trials arrived at each in turn. {_final_budget(found)}"
    )
    words = {"algorithm", "search", "reached rungs"}
    return Table("budget", "Budget", caption, [(name, name not in words) for name in head], rows)


def _same(found: Found) -> str:
    """Say what was the same for all algorithms of a search."""
    told = []
    for budget in dict.fromkeys(space.budget.model_dump_json() for space in found.spaces):
        own = BudgetConfig.model_validate_json(budget)
        trials = f"{own.trials} trials (one, where nothing varies)"
        told.append(trials if own.seconds is None else f"{own.seconds:g} seconds, at most {trials}")
    return ", or ".join(dict.fromkeys(told))


def _final_budget(found: Found) -> str:
    last = [final.run.reports[-1] for final in found.finals if final.run.reports]
    tasks, seconds = (sum(report[key] for report in last) for key in ("tasks_seen", "seconds"))
    if not last:
        return "No run to the full budget has reported yet."
    return f"Besides, {len(last)} runs to the full budget took {count(tasks)} tasks and {duration(seconds)}."


def trials(found: Found) -> Table | None:
    """Show every trial with what it had and how it ended; None where there is no search."""
    if not found.trials:
        return None
    names = [name for name in SETTINGS if any(name in tried.trial.sampled for tried in found.trials)]
    metric = f"meta-val. {'%' if found.metric == 'accuracy' else found.metric}"
    numbers = ["tasks seen", metric, "±", "seconds", *(SETTINGS[name] for name in names)]
    columns = [
        ("trial", False),
        ("algorithm", False),
        ("ended", False),
        *((name, True) for name in numbers),
        ("other settings", False),
        ("note", False),
    ]
    rows = [list(_trial(found, tried, names)) for tried in found.trials]
    caption = (
        "Figures are those of the last report: only trials with the same tasks seen may be compared. Filter "
        "for an algorithm, a setting such as cosine=true, or how a trial ended."
    )
    return Table("trials", "All trials", caption, columns, rows)


def _trial(found: Found, tried: Tried, names: Sequence[str]) -> Iterator[Cell]:
    trial = tried.trial
    last = trial.reports[-1] if trial.reports else {}
    figure = found.figure(last.get("val_score"))
    yield Cell(trial.name)
    yield Cell(tried.label)
    yield Cell(trial.status or "running")
    yield Cell(count(trial.tasks_seen), trial.tasks_seen)
    yield _figure(found.metric, figure)
    yield _figure(found.metric, last.get("val_ci"))
    seconds = last.get("seconds")
    yield Cell("" if seconds is None else f"{seconds:.0f}", seconds)
    for name in names:
        value = trial.hyperparameters.get(name)
        yield Cell("", None) if value is None else Cell(f"{value:.4g}", value)
    others = {key: value for key, value in trial.sampled.items() if key not in names}
    yield Cell(", ".join(f"{key}={_told(value)}" for key, value in others.items()))
    yield Cell(_note(trial))


def _figure(metric: str, figure: float | None) -> Cell:
    return Cell(metrics.show(metric, figure).removesuffix("%"), figure)


def _told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower()


def _note(trial: Any) -> str:
    notes = ["published setting"] if trial.is_default else []
    if trial.is_doubtful:
        notes.append("stopped within the noise of its validation tasks")
    if trial.error:
        notes.append(trial.error.strip().splitlines()[-1])
    return "; ".join(notes)
