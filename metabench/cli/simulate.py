"""The command `metabench simulate`."""

from __future__ import annotations

from typing import Annotated

import typer

from metabench.cli.base import Json, guarded


@guarded()
def simulate(
    curves: Annotated[
        list[str],
        typer.Argument(
            help="Files of curves, folders or addresses of searches, all of one space.", show_default=False
        ),
    ],
    reduction_factor: Annotated[
        int | None, typer.Option(help="One in this many passes a rung, for what was recorded.")
    ] = None,
    grace: Annotated[int | None, typer.Option(help="Tasks seen before a trial may be stopped.")] = None,
    trials: Annotated[int | None, typer.Option(help="Settings tried an algorithm.")] = None,
    tasks: Annotated[
        int | None, typer.Option(help="Meta-train tasks of a full run; the grace keeps its share.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Budget of each algorithm, all its trials together.")
    ] = None,
    validation_tasks: Annotated[
        int | None, typer.Option(help="Meta-validation tasks at each rung: the first of those recorded.")
    ] = None,
    borderline_tasks: Annotated[
        int | None, typer.Option(help="As many before a decision within the noise of the others.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="asha, none or top_k: who goes on.")] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="tpe, random or gp: what proposes; or recorded: settings in their order."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Trials at once.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Replays, each with a seed of its own.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first replay.")] = 0,
    within: Annotated[
        float, typer.Option(min=0, help="How close to the best recorded score counts as having found it.")
    ] = 0.005,
    json: Json = False,
) -> None:
    """Replay recorded learning curves: what another budget or rule would have found and cost."""
    from metabench.cli import simulations

    changes = {
        "reduction_factor": reduction_factor,
        "grace": grace,
        "trials": trials,
        "tasks": tasks,
        "seconds": seconds,
        "validation_tasks": validation_tasks,
        "borderline_tasks": borderline_tasks,
        "scheduler": scheduler,
        "sampler": sampler,
    }
    simulations.simulate(curves, changes, workers, range(seed, seed + repeats), within, as_json=json)
