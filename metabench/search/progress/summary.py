"""How a search stands: one summary for the terminal, `metabench status`, TensorBoard and the report."""

from __future__ import annotations

import datetime
import functools
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from metabench.core import MetabenchError, metrics, utc_now
from metabench.core.config import NODES, SearchSpace, allowance, limit, n_variants, rungs
from metabench.core.metrics import Metric
from metabench.search.journal.ledger import (
    COMPLETE,
    DIVERGED,
    FAILED,
    INFEASIBLE,
    PRUNED,
    RUNNING,
    WAITING,
    Ledger,
    Trial,
    incumbent,
    look,
)
from metabench.search.progress import view
from metabench.storage import files, models, records
from metabench.storage.files import Damaged

STATES = (RUNNING, WAITING, COMPLETE, PRUNED, DIVERGED, FAILED, INFEASIBLE)
*BEFORE, _, _, _, _ = view.PHASES
STAGES = (*[*view.PHASES][len(BEFORE) :], view.FINISHED)

FRESH_SECONDS = 300
"""How old the driver's snapshot may be while it still shows that a driver, perhaps elsewhere, is alive."""


def summarise(
    space: SearchSpace,
    ledger: Ledger,
    algorithm: str,
    metric: Metric,
    n_trials: int,
    leader: str | None = None,
) -> dict[str, Any]:
    """Count an algorithm's trials by state and by rung, and name its incumbent, its cost and its errors.

    Args:
        leader: the trial that a model of the curves expects most of, where one has said so.
    """
    trials = ledger.of(algorithm)
    states = Counter(trial.state for trial in trials)
    reached = Counter(report["tasks_seen"] for trial in trials for report in trial.reports)
    best = incumbent(trial for trial in trials if ledger.place(trial) is not None)
    best = best if leader is None else ledger.trials.get(leader, best)
    return {
        "planned": n_trials,
        "proposed": len(trials) - states[INFEASIBLE],
        **{state: states[state] for state in STATES},
        "rungs": {str(rung): reached[rung] for rung in rungs(space.budget)},
        "growing": _growing(space.network_of(algorithm).grow, trials),
        "incumbent": best
        and {
            "trial": best.name,
            "hyperparameters": best.hyperparameters,
            "tasks_seen": best.tasks_seen,
            f"val_{metric}": metric.sign * (best.score or 0.0),
        },
        "tasks_seen": sum(trial.tasks_seen for trial in trials),
        "seconds": sum(trial.seconds for trial in trials),
        "errors": {
            trial.name: trial.error.splitlines()[-1]
            for trial in trials
            if trial.error and trial.status != INFEASIBLE
        },
    }


def _growing(grow: Sequence[int] | None, trials: Iterable[Trial]) -> dict[str, Any] | None:
    """Say how many nodes cells have in the stage that has come, where they grow."""
    if grow is None:
        return None
    nodes = [trial.hyperparameters[NODES] for trial in trials if NODES in trial.hyperparameters]
    return {"nodes": max(nodes, default=grow[0]), "stages": list(grow)}


def _is_modelled(space: SearchSpace) -> bool:
    return space.budget.scheduler == "freeze_thaw"


def leaders(space: SearchSpace, ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Say for each algorithm whom a model of the curves expects most of, and of another hour of a worker.

    It needs torch, so that the driver, which has it, writes this down for who only reads.
    """
    if not _is_modelled(space):
        return {}
    from metabench.search import space as spaces
    from metabench.search.journal import freeze
    from metabench.search.propose import points

    said = {}
    for algorithm in space.algorithms:
        its = spaces.of(space, algorithm)
        if (belief := freeze.latest(ledger, its, space.budget)) is not None:
            gain = freeze.hourly_gain(belief, ledger, its, space.budget, points.spread(its, 0))
            said[algorithm] = {"trial": freeze.leader(belief).name, "hourly_gain": gain}
    return said


def _allowed(space: SearchSpace, algorithms: Iterable[Mapping[str, Any]]) -> float:
    """Return the tasks that algorithms with a model may still see."""
    ahead = (allowance(space.budget, part["planned"]) - part["tasks_seen"] for part in algorithms)
    return sum(max(0.0, tasks) for tasks in ahead)


def outlook(metric: Metric, gain: float) -> str:
    """Say what is expected of more time."""
    return f"another hour of a worker is expected to gain {metrics.gap(metric, gain)}"


def table(algorithms: Mapping[str, Mapping[str, Any]], metric: Metric) -> Table:
    """Show the summaries of algorithms; what none of them has counts in no column, to fit into 80."""
    shown = Table(box=None, pad_edge=False, collapse_padding=True)
    shown.add_column("algorithm", no_wrap=True, overflow="fold")
    states = [
        state
        for state in STATES
        if state in (RUNNING, COMPLETE) or any(part[state] for part in algorithms.values())
    ]
    for name in ("trials", *states, "tasks", "seconds", "best"):
        shown.add_column(name, justify="right")
    for name, part in algorithms.items():
        best = part["incumbent"] and part["incumbent"][f"val_{metric}"]
        shown.add_row(
            name,
            f"{part['proposed']}/{part['planned']}",
            *(str(part[state]) for state in states),
            str(part["tasks_seen"]),
            f"{part['seconds']:.0f}",
            "-" if best is None else metrics.show(metric, best),
        )
    return shown


def planned(record: Mapping[str, Any], space: SearchSpace) -> dict[str, int]:
    """Return the trials of each algorithm, of which a space of few settings has fewer than its budget."""
    counts = record.get("planned", {})
    return {algorithm: counts.get(algorithm, space.budget.trials) for algorithm in space.algorithms}


def read(folder: Path) -> dict[str, Any]:
    """Return what a search folder says by now; touches no file."""
    if (record := records.optional(folder / files.SEARCH, models.SEARCH)) is None:
        raise MetabenchError(f"{folder}: holds no search; give the folder of one, such as runs/demo")
    space, metric = SearchSpace.model_validate(record["space"]), metrics.recorded(record)
    snapshot = records.optional(folder / files.RUNNING, models.SNAPSHOT) or {}
    is_driven = files.is_locked(folder) or _is_fresh(snapshot)
    if is_driven and not snapshot and not (folder / files.META_TEST).exists():
        snapshot = {"stage": BEFORE[-1]}  # with the data read, and nothing of its own to say yet
    ledger = look(folder, record.get("outside", []))
    standing = stand(folder, space, ledger, metric, planned(record, space), snapshot if is_driven else {})
    if is_driven and "updated" in snapshot and standing["elapsed"] is not None:
        standing["elapsed"] += _age(snapshot)
    for name, part in standing["algorithms"].items():
        part["hourly_gain"] = snapshot.get("leaders", {}).get(name, {}).get("hourly_gain")
    return {**standing, "is_driven": is_driven, "changes": len(record.get("changes", []))}


def stand(
    folder: Path,
    space: SearchSpace,
    ledger: Ledger,
    metric: Metric,
    n_trials: Mapping[str, int],
    snapshot: Mapping[str, Any],
) -> dict[str, Any]:
    """Return how a search of so many trials an algorithm stands, and what its driver says of itself."""
    led = {name: one["trial"] for name, one in snapshot.get("leaders", {}).items()}
    algorithms = {
        name: summarise(space, ledger, name, metric, n, led.get(name)) for name, n in n_trials.items()
    }
    meta_test = records.optional(folder / files.META_TEST, models.META_TEST)
    final = _final(folder, space)
    reached = _stage(folder, meta_test, algorithms, _is_modelled(space))
    stage = snapshot.get("stage", reached)
    summary = {
        "folder": str(folder),
        "stage": stage,
        "reached": reached,
        "phases": view.merged(
            _phases(folder, space, algorithms, final, meta_test), snapshot.get("phases", {})
        ),
        "elapsed": snapshot.get("elapsed"),
        "workers": snapshot.get("workers", []),
        "metric": metric.name,
        "rungs": rungs(space.budget),
        "algorithms": algorithms,
        "final_runs": final,
        "spent": {
            key: sum(part[name] for part in (*algorithms.values(), final))
            for key, name in (("tasks", "tasks_seen"), ("seconds", "seconds"))
        },
        "nodes": snapshot.get("nodes", []),
        "slots": snapshot.get("slots"),
        "meta_test": meta_test,
    }
    left = _tasks_left(space, ledger, summary)
    return {**summary, "expected": _expected(summary, left, snapshot.get("until"))}


def _phases(
    folder: Path,
    space: SearchSpace,
    algorithms: Mapping[str, Mapping[str, Any]],
    final: Mapping[str, Any],
    meta_test: Mapping[str, Any] | None,
) -> dict[str, dict[str, Any]]:
    """Count what is done of each phase, and what is to be done at most, from the files."""
    tried = sum(part["proposed"] - part[RUNNING] for part in algorithms.values())
    planned = sum(part["planned"] for part in algorithms.values())
    candidates = sum(min(space.budget.confirm_top, part["planned"]) for part in algorithms.values())
    confirmed, tested = (
        len(list(folder.glob(each))) for each in (f"{files.CONFIRM}/*.json", f"{files.FINAL}/*/{files.TEST}")
    )
    n_runs = final["planned"] if meta_test is None else final["started"]
    counts = {
        "search": (tried, planned),
        "confirmation": (confirmed, confirmed if (folder / files.CHOSEN).exists() else candidates),
        "final runs": (final["ended"], n_runs),
        "meta-test": (tested, n_runs),
    }
    return {name: {"done": done, "total": total} for name, (done, total) in counts.items()}


def _final(folder: Path, space: SearchSpace) -> dict[str, Any]:
    last = last_reports(folder)
    ended = [
        line.get("tasks_seen", 0) >= space.budget.tasks or not line.get("finite", True)
        for line in last.values()
    ]
    return {
        "planned": n_variants(space.budget)
        * space.budget.seeds
        * len(space.algorithms),  # at most: a default may be the choice too
        "started": len(last),
        "ended": sum(ended),
        "tasks_seen": sum(line.get("tasks_seen", 0) for line in last.values()),
        "seconds": sum(line.get("seconds", 0.0) for line in last.values()),
    }


def last_reports(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the last report of each final run that has begun."""
    runs = [path for path in sorted((folder / files.FINAL).glob("*")) if (path / files.CONFIG).exists()]
    return {path.name: _last_report(path / files.REPORTS, *_stamp(path / files.REPORTS)) for path in runs}


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=1024)
def _last_report(path: Path, written: int, size: int) -> dict[str, Any]:
    """Read the last of a run's reports; once, as long as there are no others."""
    try:
        lines = records.lines(path, models.REPORT)
    except Damaged:  # whoever goes on with the run finds out, and makes them again
        return {}
    return {key: lines[-1][key] for key in ("tasks_seen", "finite", "seconds")} if lines else {}


def _stage(
    folder: Path,
    meta_test: Mapping[str, Any] | None,
    algorithms: Mapping[str, Mapping[str, Any]],
    is_modelled: bool,
) -> str:
    if meta_test is not None:
        return STAGES[4 if meta_test["finished"] else 3]
    if (folder / files.CHOSEN).exists():
        return STAGES[2]
    ended = sum(part["proposed"] - part[RUNNING] - part[WAITING] for part in algorithms.values())
    # A model may try fewer than planned; who waits is stopped in the end, and in no other way.
    is_over = is_modelled and ended and all(map(_has_nothing_open, algorithms.values()))
    return STAGES[1 if is_over or ended >= sum(part["planned"] for part in algorithms.values()) else 0]


def _tasks_left(space: SearchSpace, ledger: Ledger, summary: Mapping[str, Any]) -> float:
    """Guess the meta-train tasks that are left, from what ended trials took on average."""
    final = summary["final_runs"]
    runs = max(0, final["planned"] * space.budget.tasks - final["tasks_seen"])
    if summary["stage"] in STAGES[1:]:
        return float(runs)
    trials = [trial for trial in ledger.trials.values() if trial.status != INFEASIBLE]
    ended = [trial.tasks_seen for trial in trials if trial.state != RUNNING]
    usual = statistics.fmean(ended) if ended else space.budget.grace
    running = sum(max(0.0, usual - trial.tasks_seen) for trial in trials if trial.state == RUNNING)
    parts = summary["algorithms"].values()
    ahead = (sum(part["planned"] for part in parts) - len(trials)) * usual + running
    if limit(space.budget) is not None:
        paid = _affordable(space, ledger, summary["algorithms"])
        ahead = paid if _is_modelled(space) and paid < float("inf") else min(ahead, paid)
    elif _is_modelled(space):
        ahead = _allowed(space, parts)
    return float(ahead + runs)


def _affordable(space: SearchSpace, ledger: Ledger, algorithms: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the tasks that what is left of seconds, or of steps, pays for, at what a task took so far."""
    spent = {name: ledger.spent(name, space.budget.unit) for name in algorithms}
    if not any(spent.values()):
        return float("inf")
    left = sum(
        max(0.0, (limit(space.budget) or 0.0) - spent[name])
        for name, part in algorithms.items()
        if not _has_ended(part, _is_modelled(space))
    )
    return left * sum(part["tasks_seen"] for part in algorithms.values()) / sum(spent.values())


def _has_ended(part: Mapping[str, Any], is_modelled: bool) -> bool:
    """Tell whether an algorithm tries nothing more; a model may try fewer settings than planned."""
    least = 1 if is_modelled else part["planned"]
    return part["proposed"] >= least and _has_nothing_open(part)


def _has_nothing_open(part: Mapping[str, Any]) -> bool:
    return not part[RUNNING] and not part[WAITING]


def _expected(summary: Mapping[str, Any], tasks_left: float, until: str | None) -> dict[str, Any] | None:
    """Say how much is left and when it may end; None where that cannot be told or nothing is left.

    Args:
        until: when a search within a time is to end.
    """
    stage, spent, slots = summary["stage"], summary["spent"], summary["slots"]
    if stage == STAGES[4] or not spent["tasks"] or not spent["seconds"]:
        return None
    now = summary["phases"].get(stage, {})
    if stage == STAGES[3] and not now.get("seconds"):
        return None
    work = 0.0 if stage == STAGES[3] else tasks_left * spent["seconds"] / spent["tasks"]
    seconds = work / slots if slots else None
    done_here = now.get("done", 0) - now.get("before", 0)  # in the seconds of the phase
    if stage in (STAGES[1], STAGES[3]) and done_here and now.get("seconds"):
        seconds = (seconds or 0.0) + now["seconds"] / done_here * (now["total"] - now["done"])
    elif stage == STAGES[3]:
        seconds = None
    end = None if seconds is None else utc_now() + datetime.timedelta(seconds=seconds)
    if until is not None:
        end = datetime.datetime.fromisoformat(until)
        seconds = (end - utc_now()).total_seconds()
    return {
        "tasks_left": round(tasks_left),
        "accelerator_seconds_left": work,
        "seconds_left": seconds,
        "end": end and end.astimezone().isoformat(timespec="minutes"),
    }


def _is_fresh(snapshot: Mapping[str, Any]) -> bool:
    """Tell whether the driver, perhaps of another machine, wrote a short while ago."""
    return "updated" in snapshot and _age(snapshot) < FRESH_SECONDS


def _age(snapshot: Mapping[str, Any]) -> float:
    return (utc_now() - datetime.datetime.fromisoformat(snapshot["updated"])).total_seconds()
