"""The command `metabench simulate`: replays of recorded curves, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from metabench.cli.base import Json, bare_table, guarded, print_json, print_table
from metabench.cli.options import From, takes_models
from metabench.core.metrics import Metric

if TYPE_CHECKING:
    from metabench.search.replay.curves import Recording
    from metabench.search.replay.scenario import Scenario

HALF, BOUNDS = "{0} ± {1}", "{0} [{2}, {3}]"
"""How a mean is shown with its interval: half its width, or its ends."""

Budget = Annotated[
    dict[str, Any],
    From(
        "BudgetConfig",
        (
            *("reduction_factor", "grace", "trials", "tasks", "seconds", "validation_tasks"),
            *("borderline_tasks", "scheduler", "sampler"),
        ),
        help={
            "tasks": "Meta-train tasks of a full run; the grace keeps its share.",
            "seconds": "Budget of each algorithm, all its trials together.",
            "validation_tasks": "Meta-validation tasks at each rung: the first of those recorded.",
            "sampler": "tpe, random or gp: what proposes; or recorded: settings in their order.",
        },
        default="what was recorded",
    ),
]


@guarded()
@takes_models
def simulate(
    curves: Annotated[
        list[str],
        typer.Argument(
            help="Files of curves, folders or addresses of searches, all of one space.", show_default=False
        ),
    ],
    budget: Budget,
    workers: Annotated[int, typer.Option(help="Trials at once.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Replays, each with a seed of its own.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first replay.")] = 0,
    within: Annotated[
        float, typer.Option(min=0, help="How close to the best recorded score counts as having found it.")
    ] = 0.005,
    json: Json = False,
) -> None:
    """Replay recorded learning curves: what another budget or rule would have found and cost."""
    replay(curves, budget, workers, range(seed, seed + repeats), within, json)


def replay(
    places: Sequence[str],
    changes: Mapping[str, Any],
    workers: int,
    seeds: Sequence[int],
    within: float,
    as_json: bool,
) -> None:
    """Replay recorded curves once a seed, and print what was found and what it cost."""
    from metabench.search.replay import curves, outcomes, scenario, simulate
    from metabench.storage.records import open_place

    recording = curves.read([open_place(place) for place in places])
    described = scenario.describe(recording, changes, workers)
    if described.is_in_order:
        seeds = seeds[:1]  # nothing is drawn, so all replays are one
    replays = [simulate.play(recording, described, seed) for seed in seeds]
    results = [
        [outcomes.outcome(recording, described, replay, algorithm, within) for replay in replays]
        for algorithm in described.space.algorithms
    ]
    summaries = [outcomes.summary(parts, recording.objective.metric.scale) for parts in results]
    notes = list(_notes(recording, described, summaries))
    if not as_json:
        print_table(_table(summaries, recording.objective.metric, within), *notes)
        return
    answer = {
        "budget": described.space.budget.model_dump(),
        "is_in_order": described.is_in_order,
        "workers": workers,
        "within": within,
        "algorithms": summaries,
        "replays": [
            {"seed": seed, **part} for parts in results for seed, part in zip(seeds, parts, strict=True)
        ],
        "notes": notes,
    }
    print_json(answer, indent=None)


def _notes(
    recording: Recording, described: Scenario, summaries: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Say what was replayed, and what a reader must know of it."""
    from metabench.search.replay.scenario import RECORDED
    from metabench.search.replay.simulate import CENSORED

    budget = described.space.budget
    who = {"asha": f"one in {budget.reduction_factor} goes on", "none": "all go on"}
    who["freeze_thaw"] = "a model of the curves says who goes on, and what is begun"
    who["top_k"] = f"the best one in {budget.reduction_factor} of all goes on"
    yield (
        f"{summaries[0]['replays']} replays of {budget.trials} trials, workers: {described.workers}, "
        f"rungs {', '.join(map(str, described.rungs))}, {who[budget.scheduler]}, "
        f"{budget.validation_tasks} validation tasks, "
        f"settings: {RECORDED if described.is_in_order else budget.sampler}"
    )
    yield from described.notes
    if described.moved:
        pairs = ", ".join(f"{asked} to {used}" for asked, used in described.moved)
        yield f"rungs moved to where scores were recorded: {pairs}"
    if described.rungs[-1] < recording.points[-1]:
        yield (
            f"schedules were recorded falling towards {recording.points[-1]} tasks; a search of "
            f"{described.rungs[-1]} would have them fall sooner"
        )
    for one in summaries:
        if one["distance"] > 0:
            yield (
                f"{one['algorithm']}: a proposal was played by the nearest recorded setting not played yet, "
                f"{one['distance']:.2f} away on average (each parameter scaled to [0, 1])"
            )
        if one[CENSORED]:
            yield (
                f"{one['algorithm']}: {one[CENSORED]:.1f} trials a replay would have gone on further than "
                "they were recorded; they end there, so it would have cost at least this much"
            )


def _table(summaries: Sequence[Mapping[str, Any]], metric: Metric, within: float) -> Table:
    """Return one column an algorithm: means over replays, with half-widths of 95 % intervals."""
    from metabench.core import metrics
    from metabench.search.replay.outcomes import COUNTS

    table = bare_table("", *(one["algorithm"] for one in summaries))
    for name in COUNTS:
        counts = [f"{one[name]:.1f}" for one in summaries]
        if any(count != "0.0" for count in counts):
            table.add_row(f"trials {name}", *counts)

    def add(title: str, name: str, show: Callable[[float], str] = "{:,.0f}".format, form: str = HALF) -> None:
        table.add_row(title, *(_spread(one[name], one[f"{name}_ci"], show, form) for one in summaries))

    def show(score: float | None) -> str:
        return metrics.show(metric, score, 2)

    add("tasks seen", "tasks")
    add("seconds of training and validation", "seconds")
    add("  were no trial stopped", "full_seconds")
    add("seconds on the clock", "time")
    add("found, at the full budget", "score", show, BOUNDS)
    table.add_row("best recorded", *(show(one["best"]) or "-" for one in summaries))
    add(f"seconds until within {show(within)} of it", "seconds_to_best")
    table.add_row("  in so many replays", *(f"{one['found_best']} of {one['replays']}" for one in summaries))
    return table


def _spread(mean: float | None, ci: list[float] | None, show: Callable[[float], str], form: str) -> str:
    """Show a mean and its interval; what every replay has alike stands alone."""
    from metabench.storage import files

    interval = files.plain(ci)
    if mean is None:
        return "-"
    half = 0.0 if interval is None or interval[0] is None else (interval[1] - interval[0]) / 2
    if half <= 1e-9 * abs(mean):
        return show(mean)
    return form.format(*map(show, (mean, half, *interval)))
