"""What the commands do with what was typed: check it, call the library, print the result."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress, TextColumn

from metabench import data, runs, spaces, stats, store, views
from metabench.config import RunConfig, TaskConfig
from metabench.core import MetabenchError, Report, Splits
from metabench.flags import pick_device

stderr = Console(stderr=True)


def search(
    path: Path,
    out: Path,
    name: str | None,
    budget: Mapping[str, int | None],
    chosen: Sequence[str] | None,
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Check a search from end to end, run it, and print its leaderboard."""
    space = spaces.override(spaces.load(path), names=chosen, **budget)
    name = path.stem if name is None else name
    if Path(name).name != name or name in ("", ".."):
        raise MetabenchError(f"--name {name!r}: must be the name of one folder, without slashes")
    for library in ("ray", "optuna"):
        if importlib.util.find_spec(library) is None:
            raise MetabenchError(
                f"`metabench search` needs {library}, which is not installed; "
                "do: pip install 'ray[default,tune]' optuna"
            )
    from metabench.search import search as run_search

    folder = run_search(space, out, name, **options)
    views.leaderboard([folder], "json" if as_json else "table")


def load_splits(task: TaskConfig) -> Splits:
    """Load a task's data set and check that the task can be drawn from it."""
    with stderr.status(f"Reading {task.dataset}"):
        splits = data.load(task)
    data.check(task, splits)
    return splits


def train(config: RunConfig, out: Path | None, device: str, as_json: bool) -> None:
    """Train into a run folder and say what came out."""
    task = config.task
    name = f"{config.algorithm}-{task.dataset}-{task.way}w{task.shot}s-seed{config.seed}"
    folder = out or Path("runs") / name
    store.check_writable(folder)
    chosen = pick_device(device)
    splits = load_splits(task)
    with store.lock(folder):
        runs.claim(config, splits, folder)
        with train_progress(config.tasks) as (progress, reported):
            runs.train_run(config, splits, folder, device=chosen, progress=progress, reported=reported)
    last = store.read_lines(folder / store.REPORTS)[-1]
    keys = ("tasks_seen", "finite", "val_accuracy", "val_ci", "seconds", "peak_memory")
    result = {"run": str(folder), "algorithm": config.algorithm, **{key: last[key] for key in keys}}
    if as_json:
        typer.echo(json.dumps(result))
    elif last["finite"]:
        accuracy = f"{last['val_accuracy']:.2%} ± {last['val_ci']:.2%}"
        typer.echo(f"{folder}: {accuracy} on meta-validation after {last['tasks_seen']} tasks")
    if not last["finite"]:
        typer.echo(f"metabench: {folder}: diverged after {last['tasks_seen']} tasks", err=True)
        raise typer.Exit(1)


@contextlib.contextmanager
def train_progress(n_tasks: int) -> Iterator[tuple[Callable[..., None], Callable[[Report], None]]]:
    """Show a bar of the tasks seen, and a line for each report, on stderr."""
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, console=stderr) as bar:
        row = bar.add_task("tasks", total=n_tasks, figures="")

        def progress(tasks_seen: int, means: Mapping[str, float]) -> None:
            loss, accuracy = means.get("meta_train/loss", 0.0), means.get("meta_train/accuracy", 0.0)
            bar.update(row, completed=tasks_seen, figures=f"loss {loss:.3f}, accuracy {accuracy:.1%}")

        def reported(report: Report) -> None:
            figures = f"{report.val_accuracy:.2%} ± {report.val_ci:.2%}" if report.finite else "diverged"
            bar.console.print(f"{report.tasks_seen:>9} tasks: {figures} on meta-validation", highlight=False)
            bar.update(row, completed=report.tasks_seen)

        yield progress, reported


def test(folder: Path, n_tasks: int, device: str, as_json: bool) -> None:
    """Score a run on meta-test and print accuracy and interval."""
    config = runs.read_config(folder)
    store.check_writable(folder)
    chosen = pick_device(device)
    result = runs.test_run(folder, load_splits(config.task), n_tasks, chosen)
    interval = stats.mean_interval(result["accuracy"])
    figures = {"accuracy": interval.mean, "ci_low": interval.low, "ci_high": interval.high}
    keys = ("algorithm", "tasks", "tasks_hash", "batch_norm", "times_opened")
    if as_json:
        typer.echo(json.dumps({"run": str(folder), **figures, **{key: result[key] for key in keys}}))
        return
    typer.echo(
        f"{folder}: {config.algorithm}, {interval.mean:.2%} on meta-test, 95 % interval "
        f"[{interval.low:.2%}, {interval.high:.2%}] over {n_tasks} tasks"
    )
    if result["times_opened"] > 1:
        typer.echo(f"meta-test has been opened {result['times_opened']} times for this run", err=True)
