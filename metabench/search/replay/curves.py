"""Recorded learning curves: what each setting scored on each validation task, at points on the way.

They come from a file that `benchmarks/curves.py` wrote, where every setting was trained to the full budget,
or from the folder of a search, where most were stopped early.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic takes no other on Python 3.11

from metabench import data
from metabench.core import MetabenchError, Objective
from metabench.core.config import SearchSpace
from metabench.core.objectives import OBJECTIVES
from metabench.search import space as spaces
from metabench.search.journal.ledger import COMPLETE, DIVERGED, INFEASIBLE, Ledger, Trial, look
from metabench.storage import files, models, records
from metabench.storage.fields import Real, Settings, Time, Whole, keys
from metabench.storage.files import Damaged
from metabench.storage.models import as_recorded, as_text

FORMAT = 1
"""Raised when files are laid out otherwise."""

ALPHABET = "".join(character for character in string.printable[:94] if character not in '"\\')
"""A count of right answers is one character of this, so that a task takes one byte of a file."""


@keys
class _Curves(TypedDict):
    curves: int
    space: Annotated[SearchSpace, BeforeValidator(as_recorded), AfterValidator(as_text)]
    kind: Literal["classification", "regression", "control"]
    algorithm: str
    queries: Whole | None
    points: Annotated[list[Whole], Field(min_length=1)]
    validation_tasks: Whole
    data_fingerprint: str


@keys
class _CurvePoint(TypedDict):
    tasks_seen: Whole
    seconds: Time
    val_seconds: NotRequired[Time]
    finite: bool
    scores: NotRequired[str | list[Real | None] | None]


@keys
class _Curve(TypedDict):
    number: Whole
    sampled: Settings
    reports: Annotated[list[_CurvePoint], Field(min_length=1)]


CURVES: models.Model = TypeAdapter(_Curves)
CURVE: models.Model = TypeAdapter(_Curve)


class Point(NamedTuple):
    """One setting after some tasks."""

    tasks_seen: int
    seconds: float  # of training so far
    val_seconds: float  # of validation at this point, on every recorded task; 0 where `seconds` holds it
    score: float | None  # mean over every recorded task, higher is better; None: it diverged
    per_task: tuple[float, ...] = ()  # empty where tasks were not kept apart
    steps: float = 0.0  # of training in environments so far


class Curve(NamedTuple):
    """One setting's points, ascending."""

    name: str
    sampled: dict[str, Any]
    points: tuple[Point, ...]
    status: str | None  # a trial's: complete, diverged or failed where it ended so; any other was cut off
    again: tuple[tuple[Point, ...], ...] = ()  # of further trainings of the setting, which no replay plays


class Recording(NamedTuple):
    """Curves of one search space."""

    space: SearchSpace
    objective: Objective
    curves: dict[str, tuple[Curve, ...]]  # by algorithm, in the order they were recorded
    points: tuple[int, ...]  # tasks seen at which all curves have a point, ascending; the last is the budget
    n_tasks: int  # validation tasks of each point
    is_per_task: bool
    fingerprint: str  # of the data
    earlier: Mapping[str, Any]  # algorithms to trials of an earlier search that this one was started with


def pack(scores: Sequence[float], n_queries: int | None) -> str | list[float]:
    """Write accuracies as counts of right answers, one character a task, where there are few queries.

    Args:
        scores: accuracies, or errors, of one setting at one point, a task each.
        n_queries: queries of every task; None where tasks differ or are not judged by accuracy.
    """
    if n_queries is None or n_queries >= len(ALPHABET):
        return [round(float(score), 6) for score in scores]
    return "".join(ALPHABET[round(float(score) * n_queries)] for score in scores)


def unpack(packed: str | Sequence[float], n_queries: int | None) -> list[float]:
    """Read what `pack` wrote."""
    if not isinstance(packed, str):
        return [float(score) for score in packed]
    if not n_queries:
        raise ValueError("scores are packed, and queries are not told")
    return [ALPHABET.index(character) / n_queries for character in packed]


def read(paths: Sequence[Path]) -> Recording:
    """Read files of curves and folders of searches, of one space but for its algorithms, as one recording.

    A trial of a search that is still running is cut off at its last report.
    """
    twice = sorted({str(path) for path in paths if paths.count(path) > 1})
    if twice:
        raise MetabenchError(f"{', '.join(twice)}: given twice; every curve can be played once")
    first, *others = [_read_folder(path) if path.is_dir() else _read_file(path) for path in paths]
    blocks, curves = dict(first.space.algorithms), dict(first.curves)
    for path, other in zip(paths[1:], others, strict=True):
        different = [key for key, value in _common(first).items() if _common(other)[key] != value]
        if different:
            raise MetabenchError(
                f"{path}: differs from {paths[0]} in {', '.join(different)}; curves that are played together "
                "must have these in common, so simulate them one by one"
            )
        blocks |= other.space.algorithms
        for algorithm, more in other.curves.items():
            if algorithm in curves:
                more = tuple(curve._replace(name=f"{path}/{curve.name}") for curve in more)
            curves[algorithm] = (*curves.get(algorithm, ()), *more)
    space = first.space.model_copy(update={"algorithms": blocks})
    return first._replace(space=space, curves=curves, earlier={} if others else first.earlier)


def _common(recording: Recording) -> dict[str, Any]:
    space = recording.space.model_dump(mode="json", include={"task", "network", "shared", "also"})
    fields = ("points", "n_tasks", "is_per_task", "fingerprint")
    return {**space, **{name: getattr(recording, name) for name in fields}}


def _read_file(path: Path) -> Recording:
    if not path.exists():
        raise MetabenchError(
            f"{path}: no such file; give a file of curves (benchmarks/curves.py records one) or the folder "
            "of a search"
        )
    try:
        header, *lines = files.read_lines(path)
        if header["curves"] != FORMAT:
            raise MetabenchError(f"{path}: has format {header['curves']}; this version reads {FORMAT}")
        header = records.fit(CURVES, header, path, "line 1 ")
        lines = [records.fit(CURVE, line, path, f"line {n} ") for n, line in enumerate(lines, start=2)]
        space, objective = SearchSpace.model_validate(header["space"]), OBJECTIVES[header["kind"]]
        recording = Recording(
            space,
            objective,
            {header["algorithm"]: _curves(lines, header, objective.metric.sign, space)},
            tuple(header["points"]),
            int(header["validation_tasks"]),
            True,
            str(header["data_fingerprint"]),
            {},
        )
    except (KeyError, IndexError, TypeError, ValueError, Damaged) as error:
        why = error.why if isinstance(error, Damaged) else f"{type(error).__name__}: {error}"
        raise MetabenchError(
            f"{path}: is no file of curves ({why}); record one with benchmarks/curves.py, or give the folder "
            "of a search"
        ) from None
    if not lines:
        raise MetabenchError(f"{path}: holds no setting yet; let benchmarks/curves.py finish one")
    return recording


def _curves(
    lines: Sequence[dict[str, Any]], header: dict[str, Any], sign: int, space: SearchSpace
) -> tuple[Curve, ...]:
    curves: dict[int, Curve] = {}
    for line in lines:
        one = _curve(line, header, sign, space)
        first = curves.get(line["number"], one)
        curves[line["number"]] = one if first is one else first._replace(again=(*first.again, one.points))
    return tuple(curves.values())


def _curve(line: dict[str, Any], header: dict[str, Any], sign: int, space: SearchSpace) -> Curve:
    points, status = [], None
    for report in line["reports"]:
        point = Point(report["tasks_seen"], report["seconds"], report.get("val_seconds", 0.0), None)
        status = COMPLETE if point.tasks_seen == space.budget.tasks else None
        if report["finite"]:
            scores = [sign * score for score in unpack(report["scores"], header["queries"])]
            if len(scores) != header["validation_tasks"]:
                raise ValueError(f"setting {line['number']} has scores of {len(scores)} tasks")
            point = point._replace(score=sum(scores) / len(scores), per_task=tuple(scores))
        else:
            status = DIVERGED
        points.append(point)
    return Curve(f"{header['algorithm']}-{line['number']:03d}", line["sampled"], tuple(points), status)


def _read_folder(folder: Path) -> Recording:
    if (record := records.optional(folder / files.SEARCH, models.SEARCH)) is None:
        raise MetabenchError(f"{folder}: holds no search; give the folder that has {files.SEARCH} in it")
    space = SearchSpace.model_validate(record["space"])
    ledger, n_tasks = look(folder), space.budget.validation_tasks
    its = {algorithm: spaces.of(space, algorithm) for algorithm in space.algorithms}
    curves: dict[str, tuple[Curve, ...]] = {}
    for trial in ledger.trials.values():
        sampled = its[trial.algorithm].recognise(trial.hyperparameters)
        has_ended = trial.status not in (None, INFEASIBLE)
        if sampled is not None and (trial.reports or has_ended):
            curves[trial.algorithm] = (
                *curves.get(trial.algorithm, ()),
                _trial(ledger, trial, sampled, n_tasks),
            )
    if not curves:
        raise MetabenchError(f"{folder}: no trial has reported yet; wait for one, or simulate another")
    points = [point for each in curves.values() for curve in each for point in curve.points]
    return Recording(
        space.model_copy(update={"algorithms": {name: space.algorithms[name] for name in curves}}),
        OBJECTIVES[data.outline(data.get(space.task.dataset), space.task.options)[0]],
        curves,
        tuple(spaces.rungs(space.budget)),
        n_tasks,
        all(len(point.per_task) == n_tasks for point in points if point.score is not None),
        record["data_fingerprint"],
        dict(record.get("known") or {}),
    )


def _trial(ledger: Ledger, trial: Trial, sampled: dict[str, Any], n_tasks: int) -> Curve:
    points, again = [], 0.0
    for report in trial.reports:
        again += report.get("borderline_seconds", 0.0)  # a second look is no part of the way
        seen, score = report["tasks_seen"], report["val_score"] if report["finite"] else None
        per_task = () if score is None else tuple(ledger.task_scores(trial.name, seen)[:n_tasks])
        steps = models.spent([report], "environment_steps")
        points.append(Point(seen, report["seconds"] - again, 0.0, score, per_task, steps))
    return Curve(trial.name, sampled, tuple(points), trial.status)
