"""The columns that people see: to add one, add an entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from metabench.core import MetabenchError
from metabench.core.config.problems import nearest
from metabench.core.metrics import plain

Row = Mapping[str, Any]


Part = Literal["result", "choice", "cost", "setting", "asked"]
"""Which of the tables on a terminal a column is in; asked: in none, only where it is asked for."""


class Column(NamedTuple):
    """One column: the key of a row's value, a title, and how a row is shown; '' for nothing to show."""

    key: str
    title: str
    show: Callable[[Row], str]
    is_number: bool = True
    part: Part = "result"
    if_shared: Literal["show", "say", "hide"] = "show"  # where all rows agree; say: in a line below
    called: str = ""  # by who asks for it; else by its key

    @property
    def name(self) -> str:
        """Return what a user calls it."""
        return self.called or self.key


def percent(value: float | None) -> str:
    """Show a fraction in percent."""
    return "" if value is None else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    """Show an error as a plain number."""
    return "" if value is None else plain(value)


def bounds(low: str, high: str) -> Callable[[Row], str]:
    """Show the bounds of an interval, in percent or as plain numbers."""

    def shown(row: Row) -> str:
        if row.get(low) is None:
            return ""
        show = number if "error" in row else percent
        return f"{show(row[low])}–{show(row[high])}"

    return shown


def signed(value: float | None, is_error: bool) -> str:
    """Show a difference of errors, or one of accuracies in points of percent."""
    if value is None:
        return ""
    return plain(value, "+") if is_error else f"{100 * value:+.1f}"


def versus(key: str) -> Callable[[Row], str]:
    """Show a paired difference with its interval."""

    def shown(row: Row) -> str:
        if row.get(key) is None:
            return ""
        if row[key].get("verdict") == "identical":
            return "identical"
        parts = [signed(row[key][part], "error" in row) for part in ("difference", "ci_low", "ci_high")]
        return f"{parts[0]} [{parts[1]}, {parts[2]}]"

    return shown


def rank(row: Row) -> str:
    """Show a rank, or the ranks that a row shares with those that it cannot be told apart from."""
    if row.get("rank") is None:
        return ""
    return str(row["rank"]) if row["rank"] == row["rank_worst"] else f"{row['rank']}–{row['rank_worst']}"


def of_best(part: str, digits: int) -> Callable[[Row], str]:
    """Show a probability of the comparison with the best row."""

    def shown(row: Row) -> str:
        value = (row.get("vs_best") or {}).get(part)
        if value is None:
            return ""
        least = 10**-digits
        return f"< {least:.{digits}f}" if value < least else f"{value:.{digits}f}"

    return shown


def optimism(key: str) -> Callable[[Row], str]:
    """Show by how much an earlier figure looked better than the test, in its units."""
    return lambda row: signed(row.get(key), "error" in row)


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
    return lambda row: str(row.get(key) or "")


def short(key: str, length: int = 12) -> Callable[[Row], str]:
    """Show the beginning of a hash, or the day of a time."""
    return lambda row: str(row.get(key) or "")[:length]


def verdict(row: Row) -> str:
    """Show in words whether a row can be told from the best."""
    if row.get("rank") is not None and row.get("vs_best") is None:
        return "best"
    return str((row.get("vs_best") or {}).get("verdict") or "")


COLUMNS = (
    Column("algorithm", "Algorithm", word("algorithm"), is_number=False),
    Column("variant", "Setting", word("variant"), is_number=False),
    Column("rank", "Rank", rank),
    Column("accuracy", "Accuracy %", lambda row: percent(row["accuracy"])),
    Column("error", "Error", lambda row: number(row.get("error"))),
    Column("ci_low", "95 % CI", bounds("ci_low", "ci_high"), called="ci"),
    Column("class_low", "New classes", bounds("class_low", "class_high"), called="class_ci"),
    Column("vs_best", "From the best", versus("vs_best")),
    Column("vs_default", "Tuned − default", versus("vs_default"), part="choice"),
    Column("val_accuracy", "Val. %", lambda row: percent(row["val_accuracy"]), part="choice", called="val"),
    Column("val_error", "Val.", lambda row: number(row.get("val_error")), part="choice"),
    Column(
        "confirm_accuracy",
        "Confirm %",
        lambda row: percent(row["confirm_accuracy"]),
        part="choice",
        called="confirm",
    ),
    Column("confirm_error", "Confirm", lambda row: number(row.get("confirm_error")), part="choice"),
    Column("val_optimism", "Val. − test", optimism("val_optimism"), part="choice"),
    Column("confirm_optimism", "Confirm − test", optimism("confirm_optimism"), part="choice"),
    Column("seeds", "Seeds", seeds, part="choice", if_shared="say"),
    Column("test_tasks", "Test tasks", lambda row: count(row["test_tasks"]), if_shared="say"),
    Column("classes", "Test classes", lambda row: count(row.get("classes")), if_shared="say"),
    Column("trials", "Trials", lambda row: count(row["trials"]), part="cost"),
    Column("tasks_seen", "Tasks seen", lambda row: count(row["tasks_seen"]), part="cost"),
    Column("seconds", "Time", lambda row: duration(row["seconds"]), part="cost"),
    Column(
        "accelerator_seconds",
        "Accelerator",
        lambda row: duration(row.get("accelerator_seconds")),
        part="cost",
    ),
    Column("peak_memory", "Memory", lambda row: memory(row["peak_memory"]), part="cost"),
    Column("parameters", "Parameters", lambda row: count(row.get("parameters")), part="cost"),
    Column("model", "Model", word("model"), False, part="cost", if_shared="say"),
    Column("batch_norm", "Batch norm", word("batch_norm"), False, part="cost", if_shared="say"),
    Column("folder", "Folder", word("folder"), False, part="cost", if_shared="hide"),
    Column("hyperparameters", "Hyperparameters", settings, False, "setting"),
    Column("source", "Source", word("source"), False, "setting"),
    Column("name", "Row", word("name"), False, "asked"),
    Column("status", "Status", word("status"), False, "asked"),
    Column("seed_low", "CI of seeds", bounds("seed_low", "seed_high"), part="asked", called="seed_ci"),
    Column("ci_over", "CI over", word("ci_over"), False, "asked"),
    Column("verdict", "Against the best", verdict, False, "asked"),
    Column("p", "p", of_best("p", 3), part="asked"),
    Column("p_holm", "p (Holm)", of_best("p_holm", 3), part="asked"),
    Column("p_tasks", "p over tasks", of_best("p_tasks", 3), part="asked"),
    Column("higher", "P(higher)", of_best("higher", 2), part="asked"),
    Column("times_opened", "Opened", lambda row: count(row["times_opened"]), part="asked"),
    Column("opened", "Last opened", short("opened", 10), False, "asked"),
    Column("config_hash", "Configuration", short("config_hash"), False, "asked"),
    Column("tasks_hash", "Task list", short("tasks_hash"), False, "asked"),
    Column("code", "Code", short("code"), False, "asked"),
    Column("commit", "Commit", short("commit"), False, "asked"),
)

WHO = COLUMNS[:2]
"""The columns that say which row it is."""


def choose(names: Sequence[str]) -> list[Column]:
    """Return the columns that a user asks for, after those that say which row it is."""
    known = {column.name: column for column in COLUMNS}
    unknown = [name for name in names if name not in known]
    if unknown:
        listed = "; ".join(f"no column {name!r}.{nearest(name, known)}" for name in unknown)
        raise MetabenchError(f"--columns: {listed} There are: {', '.join(known)}")
    return [*WHO, *(known[name] for name in dict.fromkeys(names) if known[name] not in WHO)]
