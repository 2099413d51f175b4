"""Train published settings and print published beside measured, with 95 % intervals over tasks.

`--subset` takes the cells and shorter budgets that two cores finish in about an hour. Runs are folders like
any other, so the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from published import CELLS, Cell

from metabench import algorithms, data, stats
from metabench.core import MetabenchError
from metabench.core.config import NetworkConfig, RunConfig, TaskConfig
from metabench.core.device import pick as pick_device
from metabench.storage import files
from metabench.training import run as runs

REPORTS = 20


def configure(cell: Cell, tasks: int, seed: int) -> RunConfig:
    """Describe the run of a cell."""
    h = algorithms.hparams(cell.algorithm, cell.settings)
    return RunConfig(
        algorithm=cell.algorithm,
        hyperparameters=vars(h),
        task=TaskConfig(**cell.task),
        network=NetworkConfig(**cell.network),
        tasks=tasks,
        rungs=sorted({max(1, tasks * step // REPORTS) for step in range(1, REPORTS + 1)}),
        seed=seed,
    )


def reproduce(cell: Cell, tasks: int, seed: int, out: Path, device: str) -> dict[str, Any]:
    """Train and test one cell, or read what is there; return its line of the table."""
    torch.set_num_threads(1)
    folder = out / f"{cell.name}-{tasks}-seed{seed}"
    config = configure(cell, tasks, seed)
    try:
        splits = data.load(config.task)
        data.check(config.task, splits)
        runs.train_run(config, splits, folder, device=device)
        tested = folder / files.TEST
        result = (
            files.read_json(tested)
            if tested.exists()
            else runs.test_run(folder, splits, cell.test_tasks, device)
        )
    except MetabenchError as error:
        return {"cell": cell.name, "skipped": str(error)}
    is_error = splits.kind == "regression"
    interval = stats.mean_interval(result["error" if is_error else "accuracy"])
    scale = 1 if is_error else 100
    last = files.read_lines(folder / files.REPORTS)[-1]
    return {
        "cell": cell.name,
        "published": cell.published,
        "published_ci": cell.published_ci,
        "source": cell.source,
        "measured": scale * interval.mean,
        "measured_ci": scale * (interval.high - interval.low) / 2,
        "metric": "mean squared error" if is_error else "accuracy %",
        "tasks": tasks,
        "published_tasks": cell.tasks,
        "weights_after": result["weights"]["tasks_seen"],
        "minutes": last["seconds"] / 60,
        "test_tasks": cell.test_tasks,
        "over_steps": (result.get("diagnostics") or {}).get("over_steps"),
        "deviations": cell.deviations,
    }


def as_markdown(lines: Sequence[dict[str, Any]]) -> str:
    """Return the table of what was measured, and what was skipped and why."""

    def figure(value: float | None, ci: float | None) -> str:
        if value is None:
            return "-"
        return f"{value:.2f}" + ("" if ci is None else f" ± {ci:.2f}")

    rows = [
        "| cell | published | measured | metric | tasks (published) | minutes |",
        "|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {line['cell']} | {figure(line['published'], line['published_ci'])} "
        f"| {figure(line['measured'], line['measured_ci'])} | {line['metric']} "
        f"| {line['tasks']:,} ({line['published_tasks']:,}) | {line['minutes']:.1f} |"
        for line in lines
        if "skipped" not in line
    ]
    notes: dict[str, list[str]] = {line["deviations"]: [] for line in lines if "skipped" not in line}
    for line in lines:
        if "skipped" not in line:
            notes[line["deviations"]].append(line["cell"])
    rows += [f"\n{', '.join(cells)}: {note}." for note, cells in notes.items()]
    rows += [f"\n{line['cell']}: skipped: {line['skipped']}" for line in lines if "skipped" in line]
    return "\n".join(rows)


def record(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Put lines into a file of results; those of other cells stay."""
    measured = {line["cell"] for line in lines}
    before = files.read_json(path)["cells"] if path.exists() else []
    kept = [line for line in before if line["cell"] not in measured]
    files.write_json(path, {"cells": [*kept, *lines]})


def choose(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Cell]:
    """Return the cells that were asked for, or stop where a name or a number is wrong."""
    offered = [cell for cell in CELLS if cell.short or not options.subset]
    unknown = [name for name in options.cells if not fnmatch.filter([cell.name for cell in offered], name)]
    if unknown:
        among = "the subset" if options.subset else "the table"
        parser.error(f"no cell of {among} is named {' or '.join(unknown)}; --list names them")
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: must be >= 1")
    return [cell for cell in offered if any(fnmatch.fnmatch(cell.name, name) for name in options.cells)]


def main() -> int:
    """Run the cells that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cells", nargs="*", default=["*"], help="names of cells, with * and ?; all without any"
    )
    parser.add_argument("--subset", action="store_true", help="only what two cores finish in about an hour")
    parser.add_argument("--jobs", type=int, default=1, help="cells trained at once")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="folder of run folders")
    parser.add_argument("--list", action="store_true", help="list the cells and stop")
    options = parser.parse_args()
    chosen = choose(parser, options)
    if options.list:
        for cell in chosen:
            print(f"{cell.name:28} {cell.published or '-':>6}  {cell.source}")
        return 0
    try:
        device = str(pick_device(options.device))
    except MetabenchError as error:
        parser.error(str(error))
    jobs = [
        (cell, cell.short if options.subset else cell.tasks, options.seed, options.out, device)
        for cell in chosen
    ]
    context = multiprocessing.get_context("spawn")  # forking a process that has used torch may hang
    lines = []
    with context.Pool(options.jobs, maxtasksperchild=1) as pool:
        for result in [pool.apply_async(reproduce, job) for job in jobs]:
            lines.append(result.get())
            print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
    suffix = "-subset" if options.subset else ""
    record(options.out / f"results{suffix}-seed{options.seed}.json", lines)
    print(as_markdown(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
