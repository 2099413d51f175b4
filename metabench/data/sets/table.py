"""Table: your own rows of numbers as CSV or Parquet, to tell classes apart, or to predict a number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from metabench.core import SPLITS, MetabenchError, Rows, Split, Splits, setting
from metabench.core.config import attempt, nearest
from metabench.data import Dataset
from metabench.data.reading import fitting, splits
from metabench.data.reading.cache import Array

if TYPE_CHECKING:
    from pandas import DataFrame

NAME = "table"
ROW_NUMBER = re.compile(r"Unnamed: \d+(_level_\d+)?")
"""What pandas calls a column without a name, as row numbers are written by `to_csv`."""

PARQUET = b"PAR1"
"""What a Parquet file begins with."""

SHOWN = 5
"""Columns that a message names."""


@dataclass(frozen=True)
class Options:
    """Where the table is, what its columns are, and how its classes or tasks are split."""

    path: str = setting(
        "",
        "a .csv or .parquet file, a row an example; absolute, or relative to where you are, the space's "
        "file, or METABENCH_DATA",
    )
    label: str = setting("", "column of the class, for classification; a class goes to one split")
    target: str = setting("", "column of the number to predict, for regression; needs `task`")
    task: str = setting("", "for regression: column of the task, such as a place; a task goes to one split")
    features: str = setting("", "columns of the inputs, by commas; empty: all other columns of numbers")
    leave_out: str = setting("", "columns that are no inputs, by commas, where `features` is empty")
    separator: str = setting(",", "what stands between two values of a .csv file; tab for a tabulator")
    missing: str = setting("", "a word that stands for a missing value, beside empty ones and NA, such as ?")
    standardise: bool = setting(
        True,
        "inputs, and the number to predict, less their mean in meta-train, over their deviation there; what "
        "is constant there is not divided",
    )
    skip: bool = setting(
        False,
        "leave out, and list, rows without class, task or number to predict, and columns of inputs in which "
        "values are missing; else they are an error",
    )
    smallest: int = setting(0, "classes or tasks of fewer rows are left out; 0: none is", minimum=0)
    seed: int = setting(0, "splits classes or tasks", minimum=0, maximum=2**63 - 1)
    meta_train: float = setting(0.64, "share of the classes or tasks, split by seed", above=0, maximum=1)
    meta_validation: float = setting(0.16, "the same for meta-validation", above=0, maximum=1)


class Columns(NamedTuple):
    """What the columns of a table are for."""

    group: str  # of the class, or of the task
    inputs: list[str]
    target: str | None


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Read the table; all that is wrong is reported at once."""
    problems = splits.shares_problems(options) + _role_problems(options)
    path = attempt(problems, splits.locate, root, options.path)
    frame = None if path is None else attempt(problems, _read, path, options)
    if frame is None or problems:
        splits.refuse(NAME, problems)
    columns = _columns(frame, options, problems)
    if columns is not None and options.skip:
        frame, columns = _complete(frame, columns)
    if columns is None or problems:
        splits.refuse(NAME, problems)
    values = _numbers(frame, columns, options, problems)
    groups = _groups(frame[columns.group], columns, problems)
    groups = {name: rows for name, rows in groups.items() if len(rows) >= options.smallest}
    classes = splits.by_seed([*groups], options)
    what = "classes" if columns.target is None else "tasks"
    advice = f"give a table of more {what}, or change meta_train, meta_validation or smallest"
    problems = problems or splits.class_problems(classes, advice, what)
    if problems:
        splits.refuse(NAME, problems)
    mean, scale = np.zeros(values.shape[1]), np.ones(values.shape[1])
    if options.standardise:
        mean, scale = _moments(values, columns, [row for one in classes["meta_train"] for row in groups[one]])
    values = (values - mean) / scale
    moments = (tuple(one[: len(columns.inputs)].tolist()) for one in (mean, scale))
    parts = {part: _split(values, groups, classes[part]) for part in SPLITS}
    kind = "classification" if columns.target is None else "regression"
    rows = Rows(tuple(columns.inputs), *moments)
    return splits.make_splits(f"{NAME}/{split}", **parts, kind=kind, rows=rows)


def _role_problems(options: Options) -> list[str]:
    if bool(options.label) == bool(options.target):
        both = "are both set" if options.label else "are not set"
        return [
            f"label and target {both}; give label, the column of the class, or target, that of a number to "
            "predict"
        ]
    if options.target and not options.task:
        return [f"target={options.target!r}: needs task, the column that says which rows are one task"]
    if options.label and options.task:
        return [f"task={options.task!r}: is for regression; with label the classes make the tasks"]
    return []


def _read(path: Path, options: Options) -> DataFrame:
    import pandas as pd

    if not path.is_file() or path.suffix.lower() not in (".csv", ".tsv", ".txt", ".parquet"):
        raise MetabenchError(f"{path}: must be a .csv or a .parquet file")
    with path.open("rb") as file:
        is_parquet = file.read(len(PARQUET)) == PARQUET
    if is_parquet != (path.suffix.lower() == ".parquet"):
        actual = "Parquet" if is_parquet else "no Parquet, perhaps CSV"
        raise MetabenchError(f"{path}: is {actual} inside, whatever its name says; rename it")
    words = {one: str for one in (options.label, options.task) if one}
    try:
        if is_parquet:
            return pd.read_parquet(path)
        separator = {"tab": "\t", "\\t": "\t"}.get(options.separator, options.separator)
        missing = [options.missing] if options.missing else None
        frame = pd.read_csv(path, sep=separator, dtype=words, na_values=missing, low_memory=False)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise MetabenchError(f"{path}: cannot be read as a table: {str(error).strip()}") from None
    if len(frame.columns) == 1 and (other := next((one for one in ";\t|" if one in frame.columns[0]), None)):
        shown = "tab" if other == "\t" else other
        raise MetabenchError(f"{path}: has one column, {frame.columns[0]!r}; set separator={shown!r}")
    return frame


def _columns(frame: DataFrame, options: Options, problems: list[str]) -> Columns | None:
    """Say what each column is for, and add to the problems those that are not there or hold no numbers."""
    frame.columns = [str(one) for one in frame.columns]
    roles = {key: getattr(options, key) for key in ("label", "target", "task") if getattr(options, key)}
    inputs, left = (
        [one.strip() for one in text.split(",") if one.strip()]
        for text in (options.features, options.leave_out)
    )
    asked = [*roles.items(), *(("features", one) for one in inputs), *(("leave_out", one) for one in left)]
    for key, name in asked:
        if name not in frame.columns:
            near = nearest(name, frame.columns)
            problems.append(f"{key}={name!r}: no such column.{near} There are {_some(list(frame.columns))}")
    if problems:
        return None
    twice = [name for name in inputs if name in roles.values()]
    problems += [f"features: {name!r} is to be predicted, or the task; leave it out" for name in twice]
    numbers = [str(one) for one in frame.select_dtypes(["number", "bool"]).columns]
    target = options.target or None
    for key, name in [*(("features", one) for one in inputs), *([("target", target)] if target else [])]:
        if name not in numbers:
            problems.append(f"{key}={name!r}: holds {_words(frame[name])}, no numbers; {_cure(frame[name])}")
    if not inputs:
        inputs = [one for one in numbers if one not in {*roles.values(), *left}]
        unnamed = [one for one in inputs if ROW_NUMBER.fullmatch(one)]
        inputs = [one for one in inputs if one not in unnamed]
        words = [one for one in frame.columns if one not in {*numbers, *roles.values(), *left}]
        notes = [f"no inputs, as they have no name, like row numbers: {_some(unnamed)}"] if unnamed else []
        notes += [f"no inputs, as they hold words: {_some(words)}"] if words else []
        splits.note(NAME, [*notes, *([f"inputs: {_some(inputs)}"] if inputs else [])])
        if not inputs:
            problems.append(f"has no column of numbers beside {_some(list(roles.values()))}; give features")
    return Columns(options.label or options.task, inputs, target)


def _complete(frame: DataFrame, columns: Columns) -> tuple[DataFrame, Columns]:
    """Leave out what lacks values, and say so: rows by what is not an input, then columns of inputs."""
    whole = frame.dropna(subset=[columns.group, *([columns.target] if columns.target else [])])
    lacking = [one for one in columns.inputs if whole[one].isna().any()]
    n_rows = len(frame) - len(whole)
    notes = [f"left out: {n_rows} rows without {columns.target or columns.group!r}"] if n_rows else []
    notes += [f"left out, as values are missing: {_some(lacking)}"] if lacking else []
    splits.note(NAME, notes)
    return whole, columns._replace(inputs=[one for one in columns.inputs if one not in lacking])


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + rest


def _words(column: Any) -> str:
    """Show the first value that is no number."""
    import pandas as pd

    strange = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
    return f"{str(strange.iloc[0])[:40]!r} in row {strange.index[0]}" if len(strange) else "words"


def _cure(column: Any) -> str:
    import pandas as pd

    share = float(pd.to_numeric(column, errors="coerce").notna().mean())
    return "if that stands for what is missing, set missing to it" if share > 0.5 else "take other columns"


def _numbers(frame: DataFrame, columns: Columns, options: Options, problems: list[str]) -> Array:
    """Return float64 [row, D], or [row, D + 1] with the target last; what is missing or infinite is wrong."""
    names = [*columns.inputs, *([columns.target] if columns.target else [])]
    values = frame[names].to_numpy(np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):
        is_infinite = np.isinf(values.astype(np.float32))  # in which networks compute
    for what, is_so in (("missing", np.isnan(values)), ("infinite", is_infinite)):
        rows, per_column = int(is_so.any(1).sum()), is_so.sum(0)
        if rows:
            worst = sorted(zip(per_column.tolist(), names, strict=True), key=lambda pair: -pair[0])
            listed = ", ".join(f"{name!r} {count}" for count, name in worst[:SHOWN] if count)
            more = int((per_column > 0).sum()) - SHOWN
            listed += f" and {more} more columns" if more > 0 else ""
            cure = "fill them in or remove those rows, or leave the columns out (skip, features or leave_out)"
            problems.append(f"{rows} of {len(values)} rows have values that are {what} ({listed}); {cure}")
    return values


def _groups(column: Any, columns: Columns, problems: list[str]) -> dict[str, list[int]]:
    """Return the rows of each class or task, by name."""
    import pandas as pd

    if missing := int(column.isna().sum()):
        what = f"{columns.group!r} is missing in {missing} of {len(column)} rows"
        problems.append(f"{what}; fill it in or remove them")
    numbers = pd.to_numeric(column, errors="coerce")
    has_points = bool(numbers.notna().all() and (numbers % 1 != 0).any())
    if has_points and columns.target is None:
        what = f"{columns.group!r} holds numbers with a point, no classes"
        problems.append(f"{what}; for such a number give target")
    whole = column.dtype.kind == "f" and not problems and not has_points
    groups: dict[str, list[int]] = {}
    for row, value in enumerate(column.tolist()):
        groups.setdefault(fitting.plain(str(int(value) if whole else value)), []).append(row)
    return {one: groups[one] for one in sorted(groups)}


def _moments(values: Array, columns: Columns, rows: list[int]) -> tuple[Array, Array]:
    """Return each column's mean over rows of meta-train, and its deviation there, 1 where it has none."""
    mean, scale = values[rows].mean(0), values[rows].std(0)
    is_constant = scale <= 1e-12 * np.abs(mean)
    every = [*columns.inputs, *([columns.target] if columns.target else [])]
    names = [name for name, still in zip(every, is_constant, strict=True) if still]
    splits.note(NAME, [f"constant in meta-train, and not divided: {_some(names)}"] if names else [])
    return mean, np.where(is_constant, 1.0, scale)


def _split(values: Array, groups: Mapping[str, list[int]], names: Sequence[str]) -> Split:
    """Return float32 [class, row, D], zeros where a class or task has fewer rows."""
    sizes = [len(groups[name]) for name in names]
    table = np.zeros((len(names), max(sizes), values.shape[1]), np.float32)
    for place, name in enumerate(names):
        table[place, : sizes[place]] = values[groups[name]]
    counts = None if len(set(sizes)) == 1 else torch.tensor(sizes, dtype=torch.int64)
    return Split(torch.from_numpy(table), tuple(names), (NAME,) * len(names), counts)


DATASET = Dataset(
    name=NAME,
    summary="your own table, .csv or .parquet (option path): classes of rows of numbers (label), or "
    "regression where each value of a column is a task (target, task)",
    size="as many rows and columns as there are",
    licence="yours",
    url="",
    citation="yours",
    splits=("own",),
    options=Options,
    load=load,
    sources=splits.sources,
    anchor=splits.anchor,
    kind_of=lambda options: "regression" if options.get("target") else "classification",
    has_pictures=False,
)
