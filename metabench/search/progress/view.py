"""The words and counts of a search, for `metabench status` and for what is shown while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PHASES = {
    "reading data": "",
    "starting Ray": "",
    "search": "trials",
    "confirmation": "settings",
    "final runs": "runs",
    "meta-test": "runs",
}
"""What follows each other, and what is counted in it."""

FINISHED = "finished"

EVALUATED = ("confirmation", "meta-test")
"""Phases in which nothing is trained, so that workers count no tasks."""

BAR_WIDTH = 24

MOST_WORKERS = 8
"""Places of which a terminal says what runs there."""

Standing = Mapping[str, Any]
"""What `summary.stand` returns, or as much of it as there is."""


def duration(seconds: float) -> str:
    """Write hours, minutes and seconds."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def merged(phases: Mapping[str, Mapping[str, Any]], driver: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of phases from the files, and in its place what their driver says."""
    return {name: {**phases.get(name, {}), **driver.get(name, {})} for name in {**driver, **phases}}


def header(standing: Standing) -> str:
    """Say in which phase a search is, for how long it has run, and when it may end."""
    parts = [standing["stage"]]
    if "is_driven" in standing:
        parts.append("a process drives it" if standing["is_driven"] else "no process drives it")
    if standing.get("elapsed") is not None:
        parts.append(f"{duration(standing['elapsed'])} so far")
    expected = standing.get("expected") or {}
    if expected.get("end"):
        clock = expected["end"].partition("T")[2][:5]
        parts.append(f"about {duration(expected['seconds_left'])} left, perhaps until {clock}")
    return ", ".join(parts)


def counted(name: str, phase: Mapping[str, Any]) -> str:
    """Say how much of a phase is done."""
    if phase.get("total") is None:
        return ""
    return f"{phase['done']} of {phase['total']} {PHASES[name]}"


def bars(standing: Standing) -> Table:
    """Show a bar for each phase: how much of it is done, and how long it has taken."""
    shown = Table.grid(padding=(0, 2))
    names = list(PHASES)
    now = names.index(standing["stage"]) if standing["stage"] in PHASES else len(names)
    for place, name in enumerate(names):
        phase = standing["phases"].get(name)
        if phase is None and place < now:
            continue  # of another process, that has ended
        phase = phase or {}
        total = phase.get("total")
        is_moving = place == now and not total and standing.get("is_live")
        share = 1.0 if place < now else phase.get("done", 0) / total if total else 0.0
        bar = ProgressBar(total=1.0, completed=min(1.0, share), width=BAR_WIDTH, pulse=bool(is_moving))
        seconds = phase.get("seconds")
        shown.add_row(name, bar, counted(name, phase), "" if seconds is None else duration(seconds))
    return shown


def workers(standing: Standing) -> Iterator[str]:
    """Say of each place what runs there, from where to where, and for how long."""
    running = standing.get("workers", [])
    for one in running[:MOST_WORKERS]:
        way = f": {one['tasks_seen']} of {one['to']} tasks" if one.get("to") else ""
        starts = "" if way or standing["stage"] in EVALUATED else ": starting"
        yield f"{one['name']}{way or starts}, {duration(one['seconds'])}"
    if len(running) > MOST_WORKERS:
        yield f"and {len(running) - MOST_WORKERS} more"


def line(standing: Standing) -> str:
    """Say all of it in one line."""
    name, algorithms = standing["stage"], standing.get("algorithms", {}).values()
    states = (
        f"{count} {state}"
        for state in ("running", "waiting")
        if name == "search" and (count := sum(part[state] for part in algorithms))
    )
    counts = [counted(name, standing["phases"].get(name, {})), *states, *workers(standing)]
    details = "; ".join(filter(None, counts))
    return f"{header(standing)}{f': {details}' if details else ''}"


def live(standing: Standing, table: RenderableType | None) -> Group:
    """Show all of it, as often as a terminal is drawn."""
    places = [Text(f"  {each}", no_wrap=True, overflow="ellipsis") for each in workers(standing)]
    return Group(Text(header(standing)), bars(standing), *places, *([] if table is None else [table]))
