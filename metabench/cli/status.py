"""How a search stands, from its files alone: trials, rungs, incumbents, budget spent, nodes, expected end."""

from __future__ import annotations

import datetime
import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from metabench.cli import show as views
from metabench.core import MetabenchError, metrics
from metabench.core.config import SearchSpace
from metabench.search import space as spaces
from metabench.search.journal.ledger import Ledger
from metabench.storage import files

STATES = ("running", "complete", "pruned", "diverged", "failed")
STAGES = ("search", "confirmation", "final runs", "meta-test", "finished")


def show(place: str, as_json: bool) -> None:
    """Print how a search stands."""
    found = read(views.found(place))
    if as_json:
        typer.echo(json.dumps(files.plain(found), indent=1))
        return
    console = Console()
    now = "a process drives it" if found["is_driven"] else "no process drives it"
    console.print(f"{place}: {found['stage']}, {now}", soft_wrap=True, markup=False)
    console.print(_table(found))
    for line in _lines(found):
        console.print(line, soft_wrap=True, markup=False)


def read(folder: Path) -> dict[str, Any]:
    """Return what a search folder says by now; touches no file."""
    if not (folder / files.SEARCH).exists():
        raise MetabenchError(f"{folder}: holds no search; give the folder of one, such as runs/demo")
    record = files.read_json(folder / files.SEARCH)
    space = SearchSpace.model_validate(record["space"])
    trials = _trials(folder)
    snapshot = files.read_json(folder / files.RUNNING) if (folder / files.RUNNING).exists() else {}
    final = _final(folder, space)
    metric = _metric(folder)
    found = {
        "folder": str(folder),
        "stage": _stage(folder, space, trials),
        "is_driven": files.is_locked(folder) or _is_fresh(snapshot),
        "metric": metric,
        "rungs": spaces.rungs(space.budget),
        "algorithms": {name: _algorithm(name, space, trials, metric) for name in space.algorithms},
        "final_runs": final,
        "spent": {
            "tasks": sum(trial["tasks_seen"] for trial in trials.values()) + final["tasks_seen"],
            "seconds": sum(trial["seconds"] for trial in trials.values()) + final["seconds"],
        },
        "nodes": snapshot.get("nodes", []),
        "slots": snapshot.get("slots"),
        "changes": len(record.get("changes", [])),
        "meta_test": files.read_json(folder / files.META_TEST)
        if (folder / files.META_TEST).exists()
        else None,
    }
    left = _left(space, trials, final)
    return {**found, "expected": _expected(found, left)}


def _trials(folder: Path) -> dict[str, dict[str, Any]]:
    """Follow the journal: each trial with its state, its scores by rung and what it has cost."""
    found = Ledger(folder, keep=0, is_driver=False).trials
    return {
        name: {
            "trial": name,
            "algorithm": trial.algorithm,
            "hyperparameters": trial.hyperparameters,
            "state": trial.status or "running",
            "scores": {report["tasks_seen"]: report["val_score"] for report in trial.reports},
            "tasks_seen": trial.tasks_seen,
            "seconds": trial.reports[-1]["seconds"] if trial.reports else 0.0,
            "error": trial.error,
        }
        for name, trial in found.items()
    }


def _algorithm(
    name: str, space: SearchSpace, trials: dict[str, dict[str, Any]], metric: str
) -> dict[str, Any]:
    own = [trial for trial in trials.values() if trial["algorithm"] == name]
    counts = Counter(trial["state"] for trial in own)
    judged = [trial for trial in own if trial["scores"].get(trial["tasks_seen"]) is not None]
    best = max(
        judged, key=lambda trial: (trial["tasks_seen"], trial["scores"][trial["tasks_seen"]]), default=None
    )
    incumbent = None
    if best is not None:
        figure = metrics.SIGN[metric] * best["scores"][best["tasks_seen"]]
        keys = ("trial", "hyperparameters", "tasks_seen")
        incumbent = {**{key: best[key] for key in keys}, f"val_{metric}": figure}
    return {
        "planned": spaces.n_trials(space, name),
        "proposed": len(own),
        **{state: counts[state] for state in STATES},
        "rungs": {
            str(rung): sum(rung in trial["scores"] for trial in own) for rung in spaces.rungs(space.budget)
        },
        "incumbent": incumbent,
        "tasks_seen": sum(trial["tasks_seen"] for trial in own),
        "seconds": sum(trial["seconds"] for trial in own),
        "errors": {trial["trial"]: trial["error"].splitlines()[-1] for trial in own if trial["error"]},
    }


def _final(folder: Path, space: SearchSpace) -> dict[str, Any]:
    runs = [path for path in sorted((folder / files.FINAL).glob("*")) if (path / files.CONFIG).exists()]
    last = [(files.read_lines(path / files.REPORTS) or [{}])[-1] for path in runs]
    ended = [line.get("tasks_seen", 0) >= space.budget.tasks or not line.get("finite", True) for line in last]
    return {
        "planned": 2 * space.budget.seeds * len(space.algorithms),  # at most: a default may be the choice too
        "started": len(runs),
        "ended": sum(ended),
        "tasks_seen": sum(line.get("tasks_seen", 0) for line in last),
        "seconds": sum(line.get("seconds", 0.0) for line in last),
    }


def _stage(folder: Path, space: SearchSpace, trials: dict[str, dict[str, Any]]) -> str:
    if (folder / files.META_TEST).exists():
        return STAGES[4 if files.read_json(folder / files.META_TEST)["finished"] else 3]
    if (folder / files.CHOSEN).exists():
        return STAGES[2]
    planned = sum(spaces.n_trials(space, name) for name in space.algorithms)
    ended = sum(trial["state"] != "running" for trial in trials.values())
    return STAGES[1 if ended >= planned else 0]


def _left(space: SearchSpace, trials: dict[str, dict[str, Any]], final: dict[str, Any]) -> dict[str, float]:
    """Guess the meta-train tasks that are left, from what ended trials took on average."""
    ended = [trial["tasks_seen"] for trial in trials.values() if trial["state"] != "running"]
    planned = sum(spaces.n_trials(space, name) for name in space.algorithms)
    usual = statistics.fmean(ended) if ended else space.budget.grace
    running = [
        max(0.0, usual - trial["tasks_seen"]) for trial in trials.values() if trial["state"] == "running"
    ]
    runs = final["planned"] * space.budget.tasks - final["tasks_seen"]
    return {"tasks": (planned - len(trials)) * usual + sum(running) + max(0, runs)}


def _expected(found: dict[str, Any], left: dict[str, float]) -> dict[str, Any] | None:
    """Say how much is left and when it may end; None where nothing is known or nothing is left."""
    spent, slots = found["spent"], found["slots"]
    if found["stage"] in STAGES[3:] or not spent["tasks"] or not spent["seconds"]:
        return None
    seconds = left["tasks"] * spent["seconds"] / spent["tasks"]
    end = None
    if slots:
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds / slots)
    return {
        "tasks_left": round(left["tasks"]),
        "accelerator_seconds_left": seconds,
        "end": end and end.isoformat(timespec="minutes"),
    }


def _metric(folder: Path) -> str:
    lines = files.read_lines(folder / files.TRIALS)
    return "error" if lines and "val_error" in lines[0] else "accuracy"


def _is_fresh(snapshot: dict[str, Any]) -> bool:
    """Tell whether the driver, perhaps of another machine, wrote a short while ago."""
    if "updated" not in snapshot:
        return False
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(snapshot["updated"])
    return age.total_seconds() < 300


def _table(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column("algorithm")
    for name in ("trials", *STATES, "tasks", "seconds", "best"):
        table.add_column(name, justify="right")
    for name, own in found["algorithms"].items():
        best = own["incumbent"] and own["incumbent"][f"val_{found['metric']}"]
        table.add_row(
            name,
            f"{own['proposed']}/{own['planned']}",
            *(str(own[state]) for state in STATES),
            str(own["tasks_seen"]),
            f"{own['seconds']:.0f}",
            "-" if best is None else metrics.show(found["metric"], best),
        )
    return table


def _lines(found: dict[str, Any]) -> list[str]:
    lines = []
    for name, own in found["algorithms"].items():
        reached = ", ".join(f"{count} at {rung}" for rung, count in own["rungs"].items())
        best = own["incumbent"]
        told = f"; best: {best['trial']} after {best['tasks_seen']} tasks" if best else ""
        lines.append(f"{name}: rungs {reached}{told}")
        lines += [f"  {trial} failed: {error}" for trial, error in own["errors"].items()]
    final, spent = found["final_runs"], found["spent"]
    if final["started"]:
        lines.append(f"final runs: {final['ended']} ended of at most {final['planned']}")
    lines.append(f"spent: {spent['tasks']} tasks in {spent['seconds']:.0f} accelerator-seconds")
    for node in found["nodes"]:
        lines.append(f"node {node['address']}: {node['cpus']:g} cores, {node['gpus']:g} GPUs")
    expected = found["expected"]
    if expected is not None:
        end = f", perhaps until {expected['end']}" if expected["end"] else ""
        hours = expected["accelerator_seconds_left"] / 3600
        lines.append(f"left: about {expected['tasks_left']} tasks, {hours:.2f} accelerator-hours{end}")
    return lines
