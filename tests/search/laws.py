"""What must hold of a finished search whatever happened to it, checked from its folder alone."""

from __future__ import annotations

import functools
import json
import math
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metabench import data
from metabench.core import Splits
from metabench.core.config import RunConfig, SearchSpace, TaskConfig
from metabench.search import space as spaces
from metabench.search.journal.ledger import FAILED, JOURNAL, WORK, Ledger
from metabench.search.journal.rule import SCORES, decide
from metabench.search.propose import feasible
from metabench.search.propose.searcher import FairSearcher
from metabench.storage import files
from metabench.training import loop
from metabench.training import run as runs

MEASURED = ("seconds", "peak_memory", "borderline_seconds")
"""What a report says of the machine, which no two runs have in common; so do some of its logs."""

RESTS_ON = ("rung", "rank", "arrived", "against", "cutoff", "margin")
"""What a decision rests on that the journal alone tells."""


def space_of(folder: Path) -> tuple[SearchSpace, int]:
    """Return the space and the seed of a search."""
    record = files.read_json(folder / files.SEARCH)
    return SearchSpace.model_validate(record["space"]), record["seed"]


def judged_once(folder: Path) -> Iterator[str]:
    """Each trial was judged once at each rung, and is finished once, and none has failed."""
    events = files.read_lines(folder / JOURNAL)
    seen = [(e["trial"], e["report"]["tasks_seen"]) for e in events if e["event"] == "report"]
    yield from (f"{one} was judged {seen.count(one)} times" for one in set(seen) if seen.count(one) > 1)
    finished = [line["trial"] for line in files.read_lines(folder / files.TRIALS)]
    yield from (f"{name} is finished twice" for name in set(finished) if finished.count(name) > 1)
    proposed = {event["trial"] for event in events if event["event"] == "proposed"}
    yield from (f"{name} never ended" for name in proposed - set(finished))
    for line in files.read_lines(folder / files.TRIALS):
        if line["status"] == FAILED:
            yield f"{line['trial']} has failed: {str(line['error'])[-300:]}"


def decided_again(folder: Path) -> Iterator[str]:
    """Rule and searcher, each asked anew with nothing but the journal up to it, repeat every event."""
    space, seed = space_of(folder)
    events = files.read_lines(folder / JOURNAL)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for reports in folder.glob(f"{WORK}/*/{files.REPORTS}"):
            files.write_bytes(place / reports.relative_to(folder), reports.read_bytes())
        for number, event in enumerate(events):
            files.write_lines(place / JOURNAL, events[:number])
            (place / files.TRIALS).unlink(missing_ok=True)
            again = _again(place, space, seed, event)
            if again != _essence(event):
                yield f"event {number}: {_essence(event)} was {again} when it was asked again"


def _again(place: Path, space: SearchSpace, seed: int, event: dict[str, Any]) -> Any:
    ledger = Ledger(place, space.budget.confirm_top, tasks=space.budget.tasks)
    before = len(files.read_lines(place / JOURNAL))
    if event["event"] in ("proposed", "resumed", "settled"):
        size_of = feasible.of(space, splits_of(space.task.model_dump_json()))
        searcher = FairSearcher(space, ledger, seed, size_of=size_of)
        searcher.unfinished.clear()
        searcher.suggest("new")
        if len(files.read_lines(place / JOURNAL)) == before:
            searcher.finish()  # who waits is stopped
    else:
        scores = ledger.task_scores(event["trial"], event["report"]["tasks_seen"])
        decide(ledger, space.budget, event["trial"], {**event["report"], SCORES: scores})
    return _essence(files.read_lines(place / JOURNAL)[before])


def _essence(event: dict[str, Any]) -> dict[str, Any]:
    if event["event"] == "proposed":
        return event
    basis = {key: event["basis"].get(key) for key in RESTS_ON}
    return {"event": event["event"], "trial": event["trial"], "decision": event["decision"], "basis": basis}


def numbers_of(report: dict[str, Any]) -> dict[str, Any]:
    """Return what of a report depends on nothing but the setting."""
    logs = {key: value for key, value in report["logs"].items() if not key.startswith("system/")}
    return {**{key: value for key, value in report.items() if key not in MEASURED}, "logs": logs}


@functools.lru_cache(maxsize=2)
def splits_of(task: str) -> Splits:
    """Load a task's data once."""
    return data.load(TaskConfig.model_validate_json(task))


@functools.lru_cache(maxsize=512)
def trained_without_faults(config: str, upto: int) -> list[dict[str, Any]]:
    """Train a setting here, in one go, and return its reports."""
    run = RunConfig.model_validate_json(config)
    reports = []
    for report, _ in loop.train(run, splits_of(run.task.model_dump_json())):
        reports.append(files.plain(report._asdict()))
        if report.tasks_seen >= upto:
            break
    return reports


@functools.lru_cache(maxsize=512)
def tested_without_faults(config: str, n_tasks: int) -> tuple[list[dict[str, Any]], list[float]]:
    """Train and test a final run here, in one go; return its reports and its scores of single tasks."""
    run = RunConfig.model_validate_json(config)
    splits = splits_of(run.task.model_dump_json())
    with tempfile.TemporaryDirectory() as folder:
        runs.train_run(run, splits, Path(folder))
        tested = runs.test_run(Path(folder), splits, n_tasks)
        return files.read_lines(Path(folder) / files.REPORTS), files.plain(tested["accuracy"])


def same_numbers(folder: Path) -> Iterator[str]:
    """Every trial reported, bit for bit, what it reports where nothing happens to it."""
    space, _ = space_of(folder)
    rungs = spaces.rungs(space.budget)
    for line in files.read_lines(folder / files.TRIALS):
        run = spaces.run_config(space, line["algorithm"], line["hyperparameters"], line["seed"], rungs)
        wanted = trained_without_faults(run.model_dump_json(), line["tasks_seen"])
        written = files.read_lines(folder / WORK / line["trial"] / files.REPORTS)
        if [numbers_of(report) for report in written] != [numbers_of(report) for report in wanted]:
            yield f"{line['trial']} reported other numbers than without faults"
        if len(written) != len(line["reports"]) or not all(map(_is_judged_by, written, line["reports"])):
            yield f"{line['trial']} was judged by other numbers than it reported"


def _is_judged_by(report: dict[str, Any], recorded: dict[str, Any]) -> bool:
    """Tell whether a report is what the driver heard, which has no scores of single tasks, and more."""
    recorded = numbers_of(recorded)
    return all(recorded[key] == value for key, value in numbers_of(report).items() if key != SCORES)


def same_results(folder: Path) -> Iterator[str]:
    """Final runs and leaderboard have, bit for bit, the numbers of runs to which nothing happens."""
    record = files.read_json(folder / files.META_TEST)
    board = files.read_json(folder / f"{files.LEADERBOARD}.json")
    if record["code"] != files.code_hash() or record["times_opened"] != 1 or "gpus" not in record:
        yield "the opening of meta-test is not recorded as it was"
    if record["finished"] is None or board["status"] != "finished":
        yield "the meta-test is not finished"
        return
    means: dict[tuple[str, str], list[float]] = {}
    for name in record["runs"]:
        run = runs.read_config(folder / files.FINAL / name)
        reports, scores = tested_without_faults(run.model_dump_json(), record["tasks"])
        result = files.read_json(folder / files.FINAL / name / files.TEST)
        if result["accuracy"] != scores:
            yield f"{name} has other accuracies on meta-test than without faults"
        written = files.read_lines(folder / files.FINAL / name / files.REPORTS)
        if [numbers_of(report) for report in written] != [numbers_of(report) for report in reports]:
            yield f"{name} reported other numbers than without faults"
        variant = name.rpartition("-seed")[0].rpartition("-")[2]
        means.setdefault((run.algorithm, variant), []).append(statistics.fmean(scores))
    rows = {(row["algorithm"], row["variant"]): row["accuracy"] for row in board["rows"]}
    for key, values in means.items():
        if not math.isclose(rows[key], statistics.fmean(values), abs_tol=1e-12):
            yield f"the leaderboard shows {rows[key]} for {key}, not {statistics.fmean(values)}"
    planned = {(a, v) for a in space_of(folder)[0].algorithms for v in ("tuned", "default")}
    yield from (f"the leaderboard lacks {key}" for key in planned - set(rows))


def read_trace(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read what workers traced of each trial: its attempts, with where they started and how far they came."""
    attempts: dict[str, list[dict[str, Any]]] = {}
    current: dict[tuple[str, int], dict[str, Any]] = {}
    for text in path.read_text().splitlines() if path.exists() else []:
        line = json.loads(text)
        key = (line["trial"], line["pid"])
        if "start" in line:
            current[key] = {"start": line["start"], "reach": line["start"], "damaged": len(line["damaged"])}
            attempts.setdefault(line["trial"], []).append(current[key])
        elif key in current:
            current[key]["reach"] = line["at"]
    return attempts


def recomputed(attempts: list[dict[str, Any]], rungs: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield for each attempt after the first: tasks trained again, intervals those lie in, files damaged."""
    reach = attempts[0]["reach"]
    for attempt in attempts[1:]:
        start = attempt["start"]
        again = max(0, min(reach, attempt["reach"]) - start)
        bounds = [0, *rungs]
        intervals = sum(low < reach and high > start for low, high in zip(bounds, rungs, strict=False))
        yield again, intervals, attempt["damaged"]
        reach = max(reach, attempt["reach"])


def little_again(trace: Path, rungs: list[int]) -> Iterator[str]:
    """No attempt went back by more than one report interval, and one more for each damaged file."""
    for name, attempts in read_trace(trace).items():
        for again, intervals, damaged in recomputed(attempts, rungs):
            if intervals > 1 + damaged:
                yield f"{name} trained {again} tasks in {intervals} report intervals again"
