"""The columns that people see: to add one, add an entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from metabench.core import MetabenchError
from metabench.core.config import nearest
from metabench.core.metrics import PLAIN, plain

Row = Mapping[str, Any]

Part = Literal["result", "choice", "cost", "setting", "asked"]
"""Which of the tables on a terminal a column is in; asked: in none, only where it is asked for."""


class Column(NamedTuple):
    """One column: the key of a row's value, a title, and how a row is shown; '' for nothing to show."""

    key: str
    title: str
    show: Callable[[Row], str]
    part: Part = "result"
    is_number: bool = True
    if_shared: Literal["show", "say", "hide"] = "show"  # where all rows agree; say: in a line below
    called: str = ""  # by who asks for it; else by its key
    beside: str = ""  # the key of a column of which it is left out where no row differs from it

    @property
    def name(self) -> str:
        """Return what a user calls it."""
        return self.called or self.key


def shown(key: str, show: Callable[[Any], str]) -> Callable[[Row], str]:
    """Show a row's value of a key, where it has one."""
    return lambda row: "" if row.get(key) is None else show(row[key])


def percent(value: float) -> str:
    """Show a fraction in percent."""
    return f"{100 * value:.1f}"


def bounds(low: str, high: str) -> Callable[[Row], str]:
    """Show the bounds of an interval, in percent or as plain numbers."""

    def show(row: Row) -> str:
        number = plain if _is_plain(row) else percent
        to = "–" if row.get(low) is None or row[low] >= 0 else " to "  # no dash before a minus
        return "" if row.get(low) is None else f"{number(row[low])}{to}{number(row[high])}"

    return show


def signed(value: float | None, row: Row) -> str:
    """Show a difference of plain numbers, or one of accuracies in points of percent."""
    if value is None:
        return ""
    return plain(value, "+") if _is_plain(row) else f"{100 * value:+.1f}"


def _is_plain(row: Row) -> bool:
    return any(metric.name in row for metric in PLAIN)


def versus(key: str) -> Callable[[Row], str]:
    """Show a paired difference with its interval."""

    def show(row: Row) -> str:
        pair = row.get(key)
        if pair is None or pair.get("verdict") == "identical":
            return "" if pair is None else "identical"
        mean, low, high = (signed(pair[part], row) for part in ("difference", "ci_low", "ci_high"))
        return f"{mean} [{low}, {high}]"

    return show


def gain(row: Row) -> str:
    """Show what unlabelled images gain, with its interval."""
    if row.get("gain") is None:
        return ""
    mean, low, high = (signed(row[key], row) for key in ("gain", "gain_low", "gain_high"))
    return f"{mean} [{low}, {high}]"


def optimism(key: str) -> Callable[[Row], str]:
    """Show by how much an earlier figure looked better than the test, in its units."""
    return lambda row: signed(row.get(key), row)


def rank(row: Row) -> str:
    """Show a rank, or the ranks that a row shares with those that it cannot be told apart from."""
    if row.get("rank") is None:
        return ""
    return str(row["rank"]) if row["rank"] == row["rank_worst"] else f"{row['rank']}–{row['rank_worst']}"


def of_best(part: str, digits: int) -> Callable[[Row], str]:
    """Show a probability of the comparison with the best row."""

    def show(row: Row) -> str:
        value = (row.get("vs_best") or {}).get(part)
        if value is None:
            return ""
        least = 10**-digits
        return f"< {least:.{digits}f}" if value < least else f"{value:.{digits}f}"

    return show


def seeds(row: Row) -> str:
    """Show the seeds that were tested, and those that were planned where some are missing."""
    if row["seeds"] is None:
        return ""
    missing = row["seeds_planned"] is not None and row["seeds"] < row["seeds_planned"]
    return f"{row['seeds']} of {row['seeds_planned']}" if missing else str(row["seeds"])


def count(value: int) -> str:
    """Show a whole number with its thousands apart."""
    return f"{value:,}"


def duration(seconds: float) -> str:
    """Show seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def memory(n_bytes: int) -> str:
    """Show bytes in MB."""
    return f"{n_bytes / 1e6:,.0f} MB" if n_bytes else ""


def settings(values: Mapping[str, Any]) -> str:
    """Show hyperparameters in one line."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={str(value).lower()}"
        for name, value in values.items()
    )


def worst(domains: Sequence[tuple[str, float, int]]) -> str:
    """Show the accuracy of the worst of the domains, and which it is."""
    name, accuracy, _ = domains[0]
    return f"{percent(accuracy)} {name}"


def at_each(accuracies: Sequence[float]) -> str:
    """Show accuracies at the first, second, ... example of a class."""
    return ", ".join(map(percent, accuracies))


def verdict(row: Row) -> str:
    """Show in words whether a row can be told from the best."""
    if row.get("rank") is not None and row.get("vs_best") is None:
        return "best"
    return str((row.get("vs_best") or {}).get("verdict") or "")


def number(
    key: str, title: str, show: Callable[[Any], str], part: Part = "result", called: str = ""
) -> Column:
    """Make a column of one number of a row."""
    return Column(key, title, shown(key, show), part, called=called)


def variant(row: Row) -> str:
    """Show which setting it is, with what tells it from another row."""
    return f"{row['variant']} {row['label'] or ''}".rstrip()


def words(
    key: str, title: str, part: Part = "result", length: int | None = None, if_shared: Any = "show"
) -> Column:
    """Make a column of one word of a row; of a hash or a time, the beginning."""
    return Column(key, title, lambda row: str(row.get(key) or "")[:length], part, False, if_shared)


COLUMNS = (
    words("algorithm", "Algorithm"),
    Column("variant", "Setting", variant, is_number=False),
    Column("rank", "Rank", rank),
    number("accuracy", "Accuracy %", percent),
    *(number(metric.name, metric.name.capitalize(), plain) for metric in PLAIN),
    Column("ci_low", "95 % CI", bounds("ci_low", "ci_high"), called="ci"),
    number("accuracy_one_at_a_time", "One at a time %", percent, called="one_at_a_time")._replace(
        beside="accuracy"
    ),
    *(
        number(f"{metric}_one_at_a_time", "One at a time", plain)._replace(beside=metric.name)
        for metric in PLAIN
    ),
    number("accuracy_without_unlabelled", "Without unlabelled %", percent, called="without_unlabelled"),
    number("accuracy_without_distractors", "Without distractors %", percent, called="without_distractors"),
    Column("gain", "By unlabelled", gain),
    Column("class_low", "New classes", bounds("class_low", "class_high"), called="class_ci"),
    Column("domain_low", "New domains", bounds("domain_low", "domain_high"), called="domain_ci"),
    Column("by_domain", "Worst domain", shown("by_domain", worst), called="worst_domain"),
    number("zero_step", "Zero-step %", percent),
    number("of_oracle", "Of the oracle %", percent),
    number("kappa", "Cohen's κ", plain),
    Column("by_instance", "At each instance %", shown("by_instance", at_each)),
    number("balanced_accuracy", "Balanced %", percent),
    number("dp_gap", "Parity gap", percent),
    Column("dp_low", "95 % CI of the gap", bounds("dp_low", "dp_high"), called="dp_ci"),
    Column("dp_class_low", "Gap, new places", bounds("dp_class_low", "dp_class_high"), called="dp_class_ci"),
    number("dp_ratio", "Parity ratio", plain),
    number("eo_gap", "Opportunity gap", percent),
    Column("eo_low", "CI of the opportunity gap", bounds("eo_low", "eo_high"), "asked", called="eo_ci"),
    number("gap_tasks", "Tasks of both groups", count)._replace(if_shared="say"),
    number("eo_tasks", "Tasks of both that deserve it", count)._replace(if_shared="say"),
    Column("vs_best", "From the best", versus("vs_best")),
    Column("vs_default", "Tuned − default", versus("vs_default"), "choice"),
    number("val_accuracy", "Val. %", percent, "choice", called="val"),
    *(number(f"val_{metric}", "Val.", plain, "choice") for metric in PLAIN),
    number("confirm_accuracy", "Confirm %", percent, "choice", called="confirm"),
    *(number(f"confirm_{metric}", "Confirm", plain, "choice") for metric in PLAIN),
    Column("val_optimism", "Val. − test", optimism("val_optimism"), "choice"),
    Column("confirm_optimism", "Confirm − test", optimism("confirm_optimism"), "choice"),
    Column("seeds", "Seeds", seeds, "choice", if_shared="say"),
    number("test_tasks", "Test tasks", count)._replace(if_shared="say"),
    number("classes", "Test classes", count)._replace(if_shared="say"),
    number("trials", "Trials", count, "cost")._replace(if_shared="hide"),
    number("search_tasks", "Search tasks", count, "cost")._replace(if_shared="hide"),
    number("search_seconds", "Search time", duration, "cost")._replace(if_shared="hide"),
    number("search_accelerator_seconds", "Search accelerator", duration, "cost")._replace(if_shared="hide"),
    number("training_tasks", "Training tasks", count, "cost"),
    number("environment_steps", "Environment steps", count, "cost"),
    number("training_seconds", "Training time", duration, "cost"),
    number("training_accelerator_seconds", "Training accelerator", duration, "cost"),
    number("peak_memory", "Memory", memory, "cost"),
    number("parameters", "Parameters", count, "cost"),
    number("network_parameters", "With the backbone", count, "cost")._replace(beside="parameters"),
    number("multiply_adds", "Multiply-adds", count, "asked"),
    number("picture_seconds", "ms a query", lambda seconds: f"{1000 * seconds:.1f}", "cost"),
    number("labelled", "Labelled %", percent, "cost")._replace(if_shared="say"),
    words("network", "Network", "cost", if_shared="hide"),
    words("genotype", "Cell", "cost", if_shared="hide"),
    words("model", "Model", "cost", if_shared="say"),
    words("batch_norm", "Batch norm", "cost", if_shared="say"),
    words("folder", "Folder", "cost", if_shared="hide"),
    Column(
        "hyperparameters", "Hyperparameters", shown("hyperparameters", settings), "setting", is_number=False
    ),
    words("source", "Source", "setting"),
    words("name", "Row", "asked"),
    words("status", "Status", "asked"),
    Column("seed_low", "CI of seeds", bounds("seed_low", "seed_high"), "asked", called="seed_ci"),
    Column("one_low", "CI one at a time", bounds("one_low", "one_high"), "asked", called="one_ci"),
    words("ci_over", "CI over", "asked"),
    number("taken", "Taken", plain, "asked"),
    number("taken_distractors", "Taken of distractors", plain, "asked"),
    number("taken_auroc", "AUROC of that", plain, "asked"),
    number("calibration_error", "Calibration error", plain, "asked"),
    number("coverage", "Coverage of 90 % sets", percent, "asked"),
    number("set_size", "Set size", plain, "asked"),
    Column("verdict", "Against the best", verdict, "asked", is_number=False),
    Column("p", "p", of_best("p", 3), "asked"),
    Column("p_holm", "p (Holm)", of_best("p_holm", 3), "asked"),
    Column("p_tasks", "p over tasks", of_best("p_tasks", 3), "asked"),
    Column("higher", "P(higher)", of_best("higher", 2), "asked"),
    number("times_opened", "Opened", count, "asked"),
    words("opened", "Last opened", "asked", 10),
    words("config_hash", "Configuration", "asked", 12),
    words("tasks_hash", "Task list", "asked", 12),
    words("code", "Code", "asked", 12),
    words("commit", "Commit", "asked", 12),
)

WHO = COLUMNS[:2]
"""The columns that say which row it is."""


def choose(names: Sequence[str]) -> list[Column]:
    """Return the columns that a user asks for, after those that say which row it is."""
    columns = {column.name: column for column in COLUMNS}
    unknown = [name for name in names if name not in columns]
    if unknown:
        listed = "; ".join(f"no column {name!r}.{nearest(name, columns)}" for name in unknown)
        raise MetabenchError(f"`columns`: {listed} There are: {', '.join(columns)}")
    return [*WHO, *(columns[name] for name in dict.fromkeys(names) if columns[name] not in WHO)]
