"""The columns that people see: to add one, add an entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from metabench.figures import plain

Row = Mapping[str, Any]


class Column(NamedTuple):
    """One column: the key of a row's value, a title, and how a row is shown; '' for nothing to show."""

    key: str
    title: str
    show: Callable[[Row], str]
    is_number: bool = True
    part: Literal["result", "cost", "setting"] = "result"  # which of the tables on a terminal
    if_shared: Literal["show", "say", "hide"] = "show"  # where all rows agree; say: in a line below


def percent(value: float | None) -> str:
    """Show a fraction in percent."""
    return "" if value is None else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    """Show an error as a plain number."""
    return "" if value is None else plain(value)


def interval(row: Row) -> str:
    """Show the bounds of the interval, in percent or as plain numbers."""
    if row["ci_low"] is None:
        return ""
    show = number if "error" in row else percent
    return f"{show(row['ci_low'])}–{show(row['ci_high'])}"


def signed(value: float | None, is_error: bool) -> str:
    """Show a difference of errors, or one of accuracies in points of percent."""
    if value is None:
        return ""
    return plain(value, "+") if is_error else f"{100 * value:+.1f}"


def versus(row: Row) -> str:
    """Show a paired difference with its interval."""
    if row["vs_default"] is None:
        return ""
    keys = ("difference", "ci_low", "ci_high")
    shown = [signed(row["vs_default"][key], "error" in row) for key in keys]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def seeds(row: Row) -> str:
    """Show the seeds that were tested, and those that were planned where some are missing."""
    if row["seeds"] is None:
        return ""
    missing = row["seeds_planned"] is not None and row["seeds"] < row["seeds_planned"]
    return f"{row['seeds']} of {row['seeds_planned']}" if missing else str(row["seeds"])


def count(value: int | None) -> str:
    """Show a whole number with its thousands apart."""
    return "" if value is None else f"{value:,}"


def duration(seconds: float | None) -> str:
    """Show seconds as h:mm:ss."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def memory(n_bytes: int | None) -> str:
    """Show bytes in MB."""
    return "" if not n_bytes else f"{n_bytes / 1e6:,.0f} MB"


def settings(row: Row) -> str:
    """Show hyperparameters in one line."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={str(value).lower()}"
        for name, value in (row["hyperparameters"] or {}).items()
    )


def word(key: str) -> Callable[[Row], str]:
    """Show a value that is a word."""
    return lambda row: str(row[key] or "")


COLUMNS = (
    Column("algorithm", "Algorithm", word("algorithm"), is_number=False),
    Column("variant", "Setting", word("variant"), is_number=False),
    Column("accuracy", "Accuracy %", lambda row: percent(row["accuracy"])),
    Column("error", "Error", lambda row: number(row.get("error"))),
    Column("ci_low", "95 % CI", interval),
    Column("vs_default", "Tuned − default", versus),
    Column("val_accuracy", "Val. %", lambda row: percent(row["val_accuracy"])),
    Column("val_error", "Val.", lambda row: number(row.get("val_error"))),
    Column("confirm_accuracy", "Confirm %", lambda row: percent(row["confirm_accuracy"])),
    Column("confirm_error", "Confirm", lambda row: number(row.get("confirm_error"))),
    Column("seeds", "Seeds", seeds, if_shared="say"),
    Column("test_tasks", "Test tasks", lambda row: count(row["test_tasks"]), if_shared="say"),
    Column("trials", "Trials", lambda row: count(row["trials"]), part="cost"),
    Column("tasks_seen", "Tasks seen", lambda row: count(row["tasks_seen"]), part="cost"),
    Column("seconds", "Time", lambda row: duration(row["seconds"]), part="cost"),
    Column("peak_memory", "Memory", lambda row: memory(row["peak_memory"]), part="cost"),
    Column("batch_norm", "Batch norm", word("batch_norm"), False, part="cost", if_shared="say"),
    Column("folder", "Folder", word("folder"), False, part="cost", if_shared="hide"),
    Column("hyperparameters", "Hyperparameters", settings, False, "setting"),
)
