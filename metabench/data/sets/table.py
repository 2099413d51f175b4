"""Table: your own rows of numbers as CSV or Parquet, to tell classes apart, or predict a number or label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from metabench.core import SPLITS, MetabenchError, Moments, Rows, Split, Splits, setting
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

ROLES = ("label", "target", "task", "group")
"""Options that name a column."""

SHOWN = 5
"""Columns that a message names."""


@dataclass(frozen=True)
class Cut:
    """How classes or tasks of rows are split, and whether the group is seen."""

    group_as_feature: bool = setting(False, "whether learners see the group, as an input of 0 and 1")
    seed: int = setting(0, "splits classes or tasks", minimum=0, maximum=2**63 - 1)
    meta_train: float = setting(0.64, "share of the classes or tasks, split by seed", above=0, maximum=1)
    meta_validation: float = setting(0.16, "the same for meta-validation", above=0, maximum=1)
    folds: int = setting(
        0,
        "into how many parts goes what meta_validation leaves of the classes or tasks; each is meta-test of "
        "a run in turn, the others meta-train; 0: one cut by shares",
        minimum=0,
        maximum=1000,
    )
    fold: int = setting(0, "with folds: which of them is meta-test, from 0", minimum=0)


@dataclass(frozen=True)
class Options(Cut):
    """Where the table is, what its columns are, and how its classes or tasks are split."""

    path: str = setting(
        "",
        "a .csv or .parquet file, a row an example; absolute, or relative to where you are, the space's "
        "file, or METABENCH_DATA",
    )
    label: str = setting(
        "", "column of the class, for classification; a class goes to one split, unless there is `task`"
    )
    target: str = setting("", "column of the number to predict, for regression; needs `task`")
    task: str = setting(
        "",
        "column of the task, such as a place, for regression, or for rows that have their own label in every "
        "task; a task goes to one split",
    )
    group: str = setting(
        "",
        "with label and task: column of who is protected, for fairness; no input unless `group_as_feature`",
    )
    protected: str = setting("", "the values of `group` that are protected, by commas; empty: 1 of 0 and 1")
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


class Columns(NamedTuple):
    """What the columns of a table are for."""

    unit: str  # of the class, or of the task
    inputs: list[str]
    target: str | None
    label: str | None = None  # of rows in tasks, each with its own
    group: str | None = None  # of who is protected

    @property
    def units(self) -> str:
        """Name what is split."""
        return "classes" if self.target is None and self.label is None else "tasks"


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Read the table; all that is wrong is reported at once."""
    problems = _role_problems(options)
    path = attempt(problems, splits.locate, root, options.path)
    frame = None if path is None else attempt(problems, _read, path, options)
    if frame is None or problems:
        splits.refuse(NAME, problems)
    return of_frame(f"{NAME}/{split}", frame, options)


def of_frame(name: str, frame: DataFrame, options: Options) -> Splits:
    """Make splits of a table that was read; all that is wrong is reported at once."""
    problems = splits.fold_problems(options) + splits.shares_problems(options)
    columns = _columns(frame, options, problems)
    if columns is not None and options.skip:
        frame, columns = _complete(frame, columns)
    if columns is None or problems:
        splits.refuse(NAME, problems)
    units = _units(frame[columns.unit], columns, problems)
    units = {one: rows for one, rows in units.items() if len(rows) >= options.smallest}
    beside, labels = _labels(frame, columns, units, options, problems)
    if options.group_as_feature and columns.group and not problems:
        frame = frame.assign(**{columns.group: beside[:, -1]})
        columns.inputs.append(columns.group)
    values = _numbers(frame, columns, options, problems)
    cut = splits.by_fold if options.folds else splits.by_seed
    parts = cut([*units], options)
    what = columns.units
    advice = f"give a table of more {what}, or change meta_train, meta_validation or smallest"
    problems = problems or splits.class_problems(parts, advice, what)
    if problems:
        splits.refuse(NAME, problems)
    mean, scale = np.zeros(values.shape[1]), np.ones(values.shape[1])
    if options.standardise:
        mean, scale = _moments(values, columns, [row for one in parts["meta_train"] for row in units[one]])
    values = np.concatenate([(values - mean) / scale, beside], axis=1)
    moments = Moments(tuple(mean.tolist()), tuple(scale.tolist()))
    made = {
        part: _split(values, units, parts[part])._replace(labels=labels, has_group=columns.group is not None)
        for part in SPLITS
    }
    kind = "classification" if columns.target is None else "regression"
    rows = Rows(tuple(columns.inputs), *(one[: len(columns.inputs)] for one in moments))
    return splits.make_splits(name, **made, kind=kind, rows=rows, moments=moments)


def _role_problems(options: Options) -> list[str]:
    if bool(options.label) == bool(options.target):
        both = "are both set" if options.label else "are not set"
        return [
            f"label and target {both}; give label, the column of the class, or target, that of a number to "
            "predict"
        ]
    if options.target and not options.task:
        return [f"target={options.target!r}: needs task, the column that says which rows are one task"]
    if options.group and not (options.label and options.task):
        return [f"group={options.group!r}: needs label and task, the columns of what is predicted, and where"]
    return [
        f"{key}={getattr(options, key)!r}: needs group, the column of who is protected"
        for key in ("protected", "group_as_feature")
        if getattr(options, key) and not options.group
    ]


def _read(path: Path, options: Options) -> DataFrame:
    import pandas as pd

    if not path.is_file() or path.suffix.lower() not in (".csv", ".tsv", ".txt", ".parquet"):
        raise MetabenchError(f"{path}: must be a .csv or a .parquet file")
    with path.open("rb") as file:
        is_parquet = file.read(len(PARQUET)) == PARQUET
    if is_parquet != (path.suffix.lower() == ".parquet"):
        actual = "Parquet" if is_parquet else "no Parquet, perhaps CSV"
        raise MetabenchError(f"{path}: is {actual} inside, whatever its name says; rename it")
    words = {one: str for one in (options.label, options.task, options.group) if one}
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
    roles = {key: getattr(options, key) for key in ROLES if getattr(options, key)}
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
    problems += [f"features: {name!r} is {_role(name, roles)}; leave it out" for name in twice]
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
    in_tasks = options.label if options.label and options.task else None
    return Columns(options.task or options.label, inputs, target, in_tasks, options.group or None)


def _role(name: str, roles: Mapping[str, str]) -> str:
    return (
        "the group (see group_as_feature)" if roles.get("group") == name else "to be predicted, or the task"
    )


def _complete(frame: DataFrame, columns: Columns) -> tuple[DataFrame, Columns]:
    """Leave out what lacks values, and say so: rows by what is not an input, then columns of inputs."""
    beside = [one for one in (columns.target, columns.label, columns.group) if one]
    whole = frame.dropna(subset=[columns.unit, *beside])
    lacking = [one for one in columns.inputs if whole[one].isna().any()]
    n_rows = len(frame) - len(whole)
    notes = [f"left out: {n_rows} rows without {beside[0] if beside else columns.unit!r}"] if n_rows else []
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


def _units(column: Any, columns: Columns, problems: list[str]) -> dict[str, list[int]]:
    """Return the rows of each class or task, by name."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    if columns.units == "classes" and numbers.notna().all() and (numbers % 1 != 0).any():
        what = f"{columns.unit!r} holds numbers with a point, no classes"
        problems.append(f"{what}; for such a number give target")
    units: dict[str, list[int]] = {}
    for row, value in enumerate(_names(column, problems)):
        units.setdefault(fitting.plain(value), []).append(row)
    return {one: units[one] for one in sorted(units)}


def _names(column: Any, problems: list[str]) -> list[str]:
    """Return the values of a column as words: 1, where it is a number that is whole."""
    import pandas as pd

    if missing := int(column.isna().sum()):
        what = f"{column.name!r} is missing in {missing} of {len(column)} rows"
        problems.append(f"{what}; fill it in or remove them")
    numbers = pd.to_numeric(column, errors="coerce")
    whole = column.dtype.kind == "f" and bool(numbers.notna().all() and (numbers % 1 == 0).all())
    return [str(int(value) if whole else value) for value in column.tolist()]


def _labels(
    frame: DataFrame,
    columns: Columns,
    units: Mapping[str, list[int]],
    options: Options,
    problems: list[str],
) -> tuple[Array, tuple[str, ...]]:
    """Return label and group of each row, [row, 0 to 2], and what the labels mean; the last is wanted."""
    if columns.label is None:
        return np.zeros((len(frame), 0)), ()
    words = _names(frame[columns.label], problems)
    labels = sorted(set(words), key=lambda one: (len(one), one) if one.isdigit() else (0, one))
    if len(labels) < 2 or (columns.group and len(labels) > 2):
        needed = "fairness needs 2" if columns.group else "at least 2 are needed"
        problems.append(f"label {columns.label!r}: {len(labels)} values; {needed}")
        return np.zeros((len(frame), 0)), ()
    codes = np.array([labels.index(word) for word in words])
    lacking = [one for one, rows in units.items() if len({*codes[rows]}) < len(labels)]
    if lacking:
        problems.append(
            f"label {columns.label!r}: not every label is in {_some(lacking)}; leave them out, or raise "
            "smallest"
        )
    if columns.group is None:
        return codes[:, None], tuple(labels)
    is_protected = _is_protected(_names(frame[columns.group], problems), columns.group, options, problems)
    if not problems:
        splits.note(NAME, _undefined(codes, is_protected, columns.group, units))
    return np.stack([codes, is_protected], axis=1), tuple(labels)


def _is_protected(words: Sequence[str], group: str, options: Options, problems: list[str]) -> Array:
    values = sorted(set(words))
    listed = [one.strip() for one in options.protected.split(",") if one.strip()] or ["1"]
    if not options.protected and not {*values} <= {"0", "1"}:
        problems.append(
            f"group {group!r}: {len(values)} values ({_some(values)}); say which are protected, such as "
            f"protected={values[-1]}"
        )
    elif options.protected and (strange := [one for one in listed if one not in values]):
        problems.append(
            f"protected={options.protected!r}: {_some(strange)} is no value of {group!r}; there are "
            f"{_some(values)}"
        )
    return np.array([word in listed for word in words])


def _undefined(y: Array, is_protected: Array, group: str, units: Mapping[str, list[int]]) -> list[str]:
    """Say in which tasks no gap, or none among who deserves the outcome, can be measured."""
    alone = [one for one, rows in units.items() if len({*is_protected[rows]}) < 2]
    unequal = [
        one for one, rows in units.items() if one not in alone and not (is_protected & (y == 1))[rows].any()
    ]
    sizes = {one: f"{one} ({len(rows)} rows)" for one, rows in units.items()}
    lines = (
        (alone, "one value only", "gaps are undefined there; they count for accuracy alone"),
        (unequal, "no protected row of the wanted label", "equal opportunity is undefined there"),
    )
    return [
        f"group {group!r}: {what} in {_some([sizes[one] for one in names])}; {so}"
        for names, what, so in lines
        if names
    ]


def _moments(values: Array, columns: Columns, rows: list[int]) -> tuple[Array, Array]:
    """Return each column's mean over rows of meta-train, and its deviation there, 1 where it has none."""
    mean, scale = values[rows].mean(0), values[rows].std(0)
    is_constant = scale <= 1e-12 * np.abs(mean)
    every = [*columns.inputs, *([columns.target] if columns.target else [])]
    names = [name for name, still in zip(every, is_constant, strict=True) if still]
    splits.note(NAME, [f"constant in meta-train, and not divided: {_some(names)}"] if names else [])
    return mean, np.where(is_constant, 1.0, scale)


def _split(values: Array, units: Mapping[str, list[int]], names: Sequence[str]) -> Split:
    """Return float32 [class, row, D], zeros where a class or task has fewer rows."""
    sizes = [len(units[name]) for name in names]
    table = np.zeros((len(names), max(sizes), values.shape[1]), np.float32)
    for place, name in enumerate(names):
        table[place, : sizes[place]] = values[units[name]]
    counts = None if len(set(sizes)) == 1 else torch.tensor(sizes, dtype=torch.int64)
    return Split(torch.from_numpy(table), tuple(names), (NAME,) * len(names), counts)


DATASET = Dataset(
    name=NAME,
    summary="your own table, .csv or .parquet (option path): classes of rows of numbers (label), or tasks "
    "that each value of a column makes: regression (target, task), or rows with labels (label, task), of "
    "people of whom some are protected (group)",
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
    has_group=lambda options: bool(options.get("group")),
    has_pictures=False,
)
