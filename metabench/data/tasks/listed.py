"""Tasks that somebody else chose, as frozen tasks of a data set: a table of pictures, or Lake's runs."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from posixpath import basename, dirname
from typing import IO, NamedTuple

import numpy as np
import torch

from metabench.core import SPLITS, MetabenchError, Split, Splits
from metabench.core.config import Between, TaskConfig
from metabench.data.reading import archives, fitting, images, splits
from metabench.data.tasks import frozen, sampling
from metabench.data.tasks.frozen import FrozenTasks, Part
from metabench.data.tasks.sampling import Indices, Shape

POOL = "listed"
COLUMNS = ("task", "role", "label", "picture")
ROLES = ("support", "query")
ANSWERS = "class_labels.txt"
"""The file of each of Lake's runs: a line a query, and the support picture of its class."""

LIMITS = archives.Limits(2**26, 2**36)
"""Bytes of one picture of an archive, and of all together, at most."""


class Line(NamedTuple):
    """One picture of one task."""

    place: str  # where it says so
    task: str
    role: str
    label: str
    picture: str  # a path, or the number of a row


class Example(NamedTuple):
    """Where a picture is in a split."""

    row: int  # of its class
    column: int


class Drawn(NamedTuple):
    """One task: the pictures of each label, each half of one class."""

    support: list[list[Example]]
    query: list[list[Example]]

    @property
    def shape(self) -> Shape:
        """Return what tasks that are computed with it have in common."""
        counts = [len(one) for one in self.support]
        most = 0 if min(counts) == max(counts) else max(counts)
        return Shape(len(counts), sum(counts) // len(counts), len(self.query[0]), most)


def of_file(
    path: Path, splits_: Splits, part: Part, task: TaskConfig, places: Sequence[Path]
) -> tuple[FrozenTasks, TaskConfig]:
    """Make frozen tasks of what a file lists, and the task that they are of; tell all that is wrong at once.

    Args:
        path: a .csv file, or an archive or folder of Lake's runs.
        places: folders and archives that hold pictures, beside the file's own.
    """
    is_table = not path.is_dir() and not archives.is_archive(path)
    lines, wrong = _read(path) if is_table else (_runs(path), [])
    split: Split = getattr(splits_, part)
    examples, strange = _found(lines, splits_, part, [path.parent if is_table else path, *places])
    drawn: list[Drawn] = []
    by_task: dict[str, list[Line]] = {}
    for line in lines:
        by_task.setdefault(line.task, []).append(line)
    for name, own in by_task.items():
        if all(line.picture in examples for line in own):
            problems = _draw(name, own, examples, split, drawn)
            wrong += problems
    if not (wrong or strange) and len(drawn) < 2:
        wrong = [f"{len(drawn)} tasks; give 2 or more"]
    if wrong or strange:
        splits.refuse(str(path), wrong + strange)
    task = _described(task, [one.shape for one in drawn])
    labels = sampling.labels_of(split) if task.labels == "fixed" else None
    by_shape: dict[Shape, list[tuple[int, Indices]]] = {}
    for position, one in enumerate(drawn):
        shape = one.shape._replace(outputs=0 if labels is None else len(split.shared))
        by_shape.setdefault(shape, []).append((position, _indices(one, labels)))
    name = frozen.name_of(splits_.name, part, split, task, POOL)
    return frozen.grouped(name, split, by_shape), task


def _read(path: Path) -> tuple[list[Line], list[str]]:
    """Read a table of pictures, and say what is wrong with its lines."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            header = [one.strip() for one in table.fieldnames or ()]
            table.fieldnames = header
            rows = [(table.line_num, row) for row in table]
    except (csv.Error, UnicodeError) as error:
        raise MetabenchError(f"{path}: cannot be read as a table: {error}") from error
    if missing := [name for name in COLUMNS if name not in header]:
        listed = ", ".join(header) or "none"
        raise MetabenchError(
            f"{path}: has no column {' and no '.join(missing)} (it has {listed}); needed are "
            f"{', '.join(COLUMNS)}"
        )
    lines, wrong = [], []
    for number, row in rows:
        values = {name: (row[name] or "").strip() for name in COLUMNS}
        values["role"] = values["role"].lower()
        empty = [name for name, value in values.items() if not value]
        if empty:
            wrong.append(f"line {number}: {' and '.join(empty)} empty")
        elif values["role"] not in ROLES:
            wrong.append(f"line {number}: role={values['role']!r}; must be support or query")
        else:
            lines.append(Line(f"line {number}", **values))
    return lines, wrong


def _runs(path: Path) -> list[Line]:
    """Read the runs of Lake et al. 2015: folders run01 to run20 of a training and a test picture a class."""
    answers = {
        member.name: member.read().decode()
        for member in archives.members(path, LIMITS)
        if basename(member.name) == ANSWERS
    }
    if not answers:
        raise MetabenchError(
            f"{path}: holds no {ANSWERS}; give a .csv file of {', '.join(COLUMNS)}, or Lake's all_runs.zip"
        )
    lines = []
    for name, text in sorted(answers.items()):
        run = dirname(name)
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words:
                continue
            if len(words) != 2:
                raise MetabenchError(f"{path}: {name}, line {number}: {line!r}; must be two pictures")
            query, support = (f"{run}/{word.removeprefix(f'{basename(run)}/')}" for word in words)
            place = f"{name}, line {number}"
            lines += [
                Line(place, run, "support", support, support),
                Line(place, run, "query", support, query),
            ]
    return lines


def _found(
    lines: Sequence[Line], splits_: Splits, part: Part, places: Sequence[Path]
) -> tuple[dict[str, list[Example]], list[str]]:
    """Say which examples of a part each picture is, several where these are alike, and which are none."""
    split: Split = getattr(splits_, part)
    wanted = dict.fromkeys(line.picture for line in lines)
    if split.numbers is not None:
        return _by_number(wanted, splits_, part)
    if splits_.pictures is None or split.images.dtype != torch.uint8:
        raise MetabenchError(
            f"{splits_.name}: lists of tasks name pictures, or rows of an `array`; its examples are neither"
        )
    shape, rule = tuple(split.images.shape[2:]), splits_.pictures
    digests: dict[str, bytes] = {}
    wrong: dict[str, str] = {}
    for name, file in _files(wanted, places):
        try:
            digests[name] = _digest(fitting.fitted(fitting.opened(file), shape, rule))
        except images.UNREADABLE as error:
            wrong[name] = images.why(error, file)
    tables = {one: _table(getattr(splits_, one)) for one in (part, *SPLITS)}
    there: dict[str, list[Example]] = {}
    for name in wanted:
        if name not in digests:
            wrong.setdefault(name, f"no such file in {', nor in '.join(map(str, places))}")
        elif digests[name] in tables[part]:
            there[name] = tables[part][digests[name]]
        else:
            wrong[name] = _elsewhere([one for one in SPLITS if digests[name] in tables[one]], part)
    first = {line.picture: line.place for line in reversed(lines)}
    return there, [f"{first[name]}: picture {name!r}: {problem}" for name, problem in wrong.items()]


def _by_number(
    wanted: Mapping[str, None], splits_: Splits, part: Part
) -> tuple[dict[str, list[Example]], list[str]]:
    homes: dict[str, dict[str, list[Example]]] = {}
    for one in SPLITS:
        numbers: torch.Tensor = getattr(splits_, one).numbers
        homes[one] = {
            str(number): [Example(row, column)]
            for row, some in enumerate(numbers.tolist())
            for column, number in enumerate(some)
            if number >= 0
        }
    wrong = [
        f"picture {name!r}: must be the number of a row, from 0"
        if not name.isdecimal()
        else f"picture {name}: {_elsewhere([one for one in SPLITS if name in homes[one]], part)}"
        for name in wanted
        if name not in homes[part]
    ]
    return {name: homes[part][name] for name in wanted if name in homes[part]}, wrong


def _elsewhere(homes: Sequence[str], part: Part) -> str:
    where = f"it is of {' and of '.join(homes)}" if homes else "no split has it"
    return f"is not of {part}; {where}"


def _files(wanted: Mapping[str, None], places: Sequence[Path]) -> Iterator[tuple[str, Path | IO[bytes]]]:
    """Yield the file of each picture, from the first place that has it."""
    left = dict(wanted)
    for place in places:
        if archives.is_archive(place):
            for member in archives.members(place, LIMITS):
                if member.name in left:
                    del left[member.name]
                    yield member.name, io.BytesIO(member.read())
            continue
        for name in [one for one in left if (place / one).is_file()]:
            del left[name]
            yield name, place / name


def _table(split: Split) -> dict[bytes, list[Example]]:
    """Return where each picture of a split is, by what it shows."""
    n_classes, most = split.images.shape[:2]
    counts = [most] * n_classes if split.counts is None else split.counts.tolist()
    table: dict[bytes, list[Example]] = {}
    for row, (pictures, count) in enumerate(zip(split.images.numpy(), counts, strict=True)):
        for column, picture in enumerate(pictures[:count]):
            table.setdefault(_digest(picture), []).append(Example(row, column))
    return table


def _digest(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return hashlib.sha256(picture.tobytes()).digest()


def _draw(
    name: str,
    lines: Sequence[Line],
    examples: Mapping[str, list[Example]],
    split: Split,
    drawn: list[Drawn],
) -> list[str]:
    """Add a task to those that are drawn, or say what is wrong with it."""
    labels = dict.fromkeys(line.label for line in lines)
    halves: dict[str, list[list[Example]]] = {role: [] for role in ROLES}
    wrong = []
    for label in labels:
        row = None
        for role in ROLES:
            candidates = [examples[one.picture] for one in lines if (one.label, one.role) == (label, role)]
            chosen = _of_one_class(candidates, row)
            if not candidates:
                wrong.append(f"task {name!r}: label {label!r} has no {role} picture")
            elif not chosen:
                rows = sorted({one.row for some in candidates for one in some})
                named = ", ".join(split.classes[one] for one in rows)
                wrong.append(f"task {name!r}: {role} of label {label!r} is of several classes: {named}")
            else:
                row = chosen[0].row
            halves[role].append(chosen)
    if wrong:
        return wrong
    return _add(name, Drawn(halves["support"], halves["query"]), split, drawn)


def _of_one_class(candidates: Sequence[list[Example]], row: int | None) -> list[Example]:
    """Choose examples of one class, of that of a row if there are such; none where no class has them all."""
    shared = set.intersection(*({one.row for one in some} for some in candidates)) if candidates else set()
    if not shared:
        return []
    chosen = row if row in shared else min(shared)
    return [next(one for one in some if one.row == chosen) for some in candidates]


def _add(name: str, one: Drawn, split: Split, drawn: list[Drawn]) -> list[str]:
    wrong = []
    if len(one.support) < 2:
        wrong.append(f"task {name!r}: has one label; a task tells two or more apart")
    flat = [example for half in one for some in half for example in some]
    for row, column in sorted({example for example in flat if flat.count(example) > 1}):
        wrong.append(f"task {name!r}: example {column} of {split.classes[row]!r} stands in it twice")
    rows = [some[0].row for some in one.support]
    for row in sorted({row for row in rows if rows.count(row) > 1}):
        wrong.append(f"task {name!r}: two of its labels are of the class {split.classes[row]!r}")
    if len({len(some) for some in one.query}) > 1:
        counts = ", ".join(str(len(some)) for some in one.query)
        wrong.append(f"task {name!r}: its labels have {counts} queries; give each as many")
    if (total := sum(map(len, one.support))) % len(one.support):
        wrong.append(
            f"task {name!r}: {total} support pictures of {len(one.support)} labels; give a multiple of that"
        )
    drawn += [] if wrong else [one]
    return wrong


def _indices(one: Drawn, labels: torch.Tensor | None) -> Indices:
    """Return one task as indices."""
    shape = one.shape
    classes, queries = (torch.tensor([[some[0].row for some in half]]) for half in one)
    columns = [
        [example.column for example in some] + [0] * (shape.max_shots - len(some)) for some in one.support
    ]
    asked = [[example.column for example in some] for some in one.query]
    examples = torch.cat([torch.tensor([columns]), torch.tensor([asked])], -1)
    return Indices(
        classes,
        examples,
        shots=torch.tensor([[len(some) for some in one.support]]) if shape.most_shots else None,
        query_classes=queries,
        labels=None if labels is None else labels[classes],
    )


def _described(task: TaskConfig, shapes: Sequence[Shape]) -> TaskConfig:
    """Return a task of these shapes."""

    def between(values: Sequence[int]) -> int | Between:
        low, high = min(values), max(values)
        return low if low == high else Between(low=low, high=high)

    most = max(shape.most_shots for shape in shapes)
    update = {
        "way": between([shape.way for shape in shapes]),
        "shot": between([shape.shot for shape in shapes]),
        "test_query": max(shape.query for shape in shapes),
        "most_shots": most or None,
    }
    return task.model_copy(update=update)
