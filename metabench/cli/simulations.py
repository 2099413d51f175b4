"""What `metabench simulate` does: replays, told as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from metabench.cli import show
from metabench.core import metrics
from metabench.search.replay import curves, outcomes, scenario
from metabench.search.replay.curves import Recording
from metabench.search.replay.scenario import Scenario
from metabench.search.replay.simulate import CENSORED, play
from metabench.storage import files


def simulate(
    places: Sequence[str],
    changes: Mapping[str, Any],
    workers: int,
    seeds: Sequence[int],
    within: float,
    *,
    as_json: bool,
) -> None:
    """Replay recorded curves once a seed, and print what was found and what it cost.

    Args:
        places: files of curves, and folders or addresses of searches.
        changes: settings of the budget by name; None leaves what was recorded.
    """
    recording = curves.read([show.found(place) for place in places])
    described = scenario.describe(recording, changes, workers)
    if described.is_in_order:
        seeds = seeds[:1]  # nothing is drawn, so all replays are one
    replays = [play(recording, described, seed) for seed in seeds]
    found = {
        algorithm: [outcomes.outcome(recording, described, replay, algorithm, within) for replay in replays]
        for algorithm in described.space.algorithms
    }
    summaries = [outcomes.summary(own) for own in found.values()]
    notes = told(recording, described, summaries)
    if as_json:
        each = [{"seed": seed, **own[number]} for own in found.values() for number, seed in enumerate(seeds)]
        result = {
            "budget": described.space.budget.model_dump(),
            "is_in_order": described.is_in_order,
            "workers": workers,
            "within": within,
            "algorithms": summaries,
            "replays": each,
            "notes": notes,
        }
        typer.echo(json.dumps(files.plain(result)))
        return
    console = Console()
    console.print(table(summaries, recording.objective.metric, within))
    for note in notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)


def told(recording: Recording, described: Scenario, summaries: Sequence[dict[str, Any]]) -> list[str]:
    """Say what was replayed, and what a reader must know of it."""
    budget = described.space.budget
    who = {"asha": f"one in {budget.reduction_factor} goes on", "none": "all go on"}
    who["top_k"] = f"the best one in {budget.reduction_factor} of all goes on"
    notes = [
        f"{summaries[0]['replays']} replays of {budget.trials} trials, workers: {described.workers}, "
        f"rungs {', '.join(map(str, described.rungs))}, {who[budget.scheduler]}, "
        f"{budget.validation_tasks} validation tasks, "
        f"settings: {scenario.RECORDED if described.is_in_order else budget.sampler}"
    ]
    notes += described.notes
    if described.moved:
        pairs = ", ".join(f"{asked} to {used}" for asked, used in described.moved)
        notes.append(f"rungs moved to where scores were recorded: {pairs}")
    if described.rungs[-1] < recording.points[-1]:
        notes.append(
            f"schedules were recorded falling towards {recording.points[-1]} tasks; a search of "
            f"{described.rungs[-1]} would have them fall sooner"
        )
    for one in summaries:
        if one["distance"] > 0:
            notes.append(
                f"{one['algorithm']}: a proposal was played by the nearest recorded setting not played yet, "
                f"{one['distance']:.2f} away on average (each parameter scaled to [0, 1])"
            )
        if one[CENSORED]:
            notes.append(
                f"{one['algorithm']}: {one[CENSORED]:.1f} trials a replay would have gone on further than "
                "they were recorded; they end there, so it would have cost at least this much"
            )
    return notes


def table(summaries: Sequence[dict[str, Any]], metric: str, within: float) -> Table:
    """Return one column an algorithm: means over replays, with half-widths of 95 % intervals."""

    def seconds(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda one: spread(one, name, lambda value: f"{value:,.0f}")

    def score(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda one: spread(one, name, lambda value: metrics.show(metric, value, 2))

    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        **{f"trials {name}": partial(_count, name) for name in outcomes.COUNTS},
        "tasks seen": seconds("tasks"),
        "seconds of training and validation": seconds("seconds"),
        "  were no trial stopped": seconds("full_seconds"),
        "seconds on the clock": seconds("time"),
        "found, at the full budget": score("score"),
        "best recorded": lambda one: metrics.show(metric, one["best"], 2) or "-",
        f"seconds until within {metrics.show(metric, within, 2)} of it": seconds("seconds_to_best"),
        "  in so many replays": lambda one: f"{one['found_best']} of {one['replays']}",
    }
    shown = Table(box=None, pad_edge=False)
    for name in ("", *(one["algorithm"] for one in summaries)):
        shown.add_column(name, justify="right" if name else "left")
    for title, cell in rows.items():
        cells = [cell(one) for one in summaries]
        if not title.startswith("trials") or any(found != "0.0" for found in cells):
            shown.add_row(title, *cells)
    return shown


def _count(name: str, one: Mapping[str, Any]) -> str:
    return f"{one[name]:.1f}"


def spread(one: Mapping[str, Any], name: str, show: Callable[[float], str]) -> str:
    """Show a mean and the half-width of its interval; figures that every replay has alike stand alone."""
    mean, interval = one[name], files.plain(one[f"{name}_ci"])
    if mean is None:
        return "-"
    half = 0.0 if interval is None or interval[0] is None else (interval[1] - interval[0]) / 2
    return show(mean) + (f" ± {show(half)}" if half > 1e-9 * abs(mean) else "")
