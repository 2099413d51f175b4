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

from metabench import data, stats
from metabench.cli import show
from metabench.cli.flags import pick_device
from metabench.core import MetabenchError, Objective, Report, Splits, metrics
from metabench.core.config import RunConfig, SearchSpace, TaskConfig
from metabench.core.objectives import OBJECTIVES
from metabench.data.tasks import files as task_lists
from metabench.search import space as spaces
from metabench.storage import files, remote
from metabench.training import profile as profiling
from metabench.training import run as runs

stderr = Console(stderr=True)


def search(
    path: Path,
    out: Path,
    storage_at: str | None,
    name: str | None,
    budget: Mapping[str, int | str | None],
    chosen: Sequence[str] | None,
    *,
    as_json: bool,
    plan: bool = False,
    **options: Any,
) -> None:
    """Check a search from end to end, run it, and print its leaderboard."""
    space = spaces.override(spaces.load(path), names=chosen, **budget)
    name = path.stem if name is None else name
    if Path(name).name != name or name in ("", ".."):
        raise MetabenchError(f"--name {name!r}: must be the name of one folder, without slashes")
    if options["workers"] is not None and options["address"] is None:
        raise MetabenchError(
            "--workers: is for a cluster that grows; give its --address too, or leave it out"
        )
    for library in ("ray", "optuna"):
        if importlib.util.find_spec(library) is None:
            raise MetabenchError(
                f"`metabench search` needs {library}, which is not installed; "
                "do: pip install 'ray[default,tune]' optuna"
            )
    url = None
    if storage_at is not None and remote.is_url(storage_at):
        url = remote.check_url(storage_at)
    elif storage_at is not None:
        out = Path(storage_at)
    if plan:
        show.plan(_planned(space, options), as_json)
        return
    from metabench.search import search as run_search

    folder = run_search(space, out, name, storage=url, **options)
    show.leaderboard([str(folder)], "json" if as_json else "table")


def _planned(space: SearchSpace, options: Mapping[str, Any]) -> dict[str, Any]:
    from metabench.search.ray import cluster
    from metabench.search.stages.plan import plan

    share = cluster.Share(options["cpus_per_trial"], options["gpus_per_trial"])
    with stderr.status("Measuring how fast the algorithms are here"):
        return plan(space, options["address"], options["seed"], share)


def load_splits(task: TaskConfig) -> Splits:
    """Load a task's data set and check that the task can be drawn from it."""
    with stderr.status(f"Reading {task.dataset}"):
        splits = data.load(task)
    data.check(task, splits)
    return splits


def train(
    config: RunConfig, out: Path | None, device: str, as_json: bool, profile: Path | None = None
) -> None:
    """Train into a run folder and say what came out; some meta-steps are profiled if a folder is given."""
    task = config.task
    name = f"{config.algorithm}-{task.dataset}-{task.told_way}w{task.told_shot}s-seed{config.seed}"
    folder = out or Path("runs") / name
    files.check_writable(folder)
    chosen = pick_device(device)
    splits = load_splits(task)
    objective = OBJECTIVES[splits.kind]
    if profile is not None:
        files.check_writable(profile, "--profile")
        if (profile / profiling.TRACE).exists():
            raise MetabenchError(f"--profile {profile}: holds a profile already; choose another folder")
    told = contextlib.nullcontext() if profile is None else profiling.to(profile, stderr.print)
    with files.lock(folder):
        runs.claim(config, splits, folder)
        with train_progress(config.tasks, objective) as (progress, reported), told:
            runs.train_run(
                config,
                splits,
                folder,
                device=chosen,
                progress=progress,
                reported=reported,
                damaged=lambda problem: stderr.print(f"{problem}; trained again", soft_wrap=True),
            )
    last = files.read_lines(folder / files.REPORTS)[-1]
    if as_json:
        figure = None if last["val_score"] is None else objective.sign * last["val_score"]
        shown = {**last, f"val_{objective.metric}": figure}
        keys = ("tasks_seen", "finite", f"val_{objective.metric}", "val_ci", "seconds", "peak_memory")
        result = {"run": str(folder), "algorithm": config.algorithm, **{key: shown[key] for key in keys}}
        typer.echo(json.dumps(result))
    elif last["finite"]:
        figure = validated(objective, last["val_score"], last["val_ci"])
        typer.echo(f"{folder}: {figure} on meta-validation after {last['tasks_seen']} tasks")
    if not last["finite"]:
        typer.echo(f"metabench: {folder}: diverged after {last['tasks_seen']} tasks", err=True)
        raise typer.Exit(1)


def told_of(found: Mapping[str, Any], metric: str) -> list[str]:
    """Say in a few lines what a diagnosis found."""
    lines = [f"worst tenth of {found['tasks']} tasks: {metrics.tell(metric, found['worst_tenth'])}"]
    if found["calibration_error"] is not None:
        lines.append(f"expected calibration error: {found['calibration_error']:.3f}")
    if found["over_steps"] is not None:
        curve = ", ".join(metrics.show(metric, point["mean"]) for point in found["over_steps"])
        lines.append(f"{metric} after 0, 1, ... inner steps, {found['followed']} tasks: {curve}")
        lines.append(f"tasks that diverged in the inner loop: {found['diverged']:.1%}")
    return lines


def validated(objective: Objective, score: float, half_width: float) -> str:
    """Show what meta-validation found, with the half-width of its interval."""
    metric, sign = objective.metric, objective.sign
    return f"{metrics.tell(metric, sign * score, 2)} ± {metrics.show(metric, half_width, 2)}"


@contextlib.contextmanager
def train_progress(
    n_tasks: int, objective: Objective
) -> Iterator[tuple[Callable[..., None], Callable[[Report], None]]]:
    """Show a bar of the tasks seen, and a line for each report, on stderr."""
    metric = objective.metric
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, console=stderr) as bar:
        row = bar.add_task("tasks", total=n_tasks, figures="")

        def progress(tasks_seen: int, means: Mapping[str, float]) -> None:
            loss, figure = means.get("meta_train/loss", 0.0), means.get(f"meta_train/{metric}", 0.0)
            shown = f"loss {loss:.3f}, {metric} {metrics.show(metric, figure)}"
            bar.update(row, completed=tasks_seen, figures=shown)

        def reported(report: Report) -> None:
            figure = validated(objective, report.val_score, report.val_ci) if report.finite else "diverged"
            bar.console.print(f"{report.tasks_seen:>9} tasks: {figure} on meta-validation", highlight=False)
            bar.update(row, completed=report.tasks_seen)

        yield progress, reported


def test(folder: Path, n_tasks: int, task_list: Path | None, device: str, as_json: bool) -> None:
    """Score a run on meta-test and print accuracy or error, and interval."""
    config = runs.read_config(folder)
    files.check_writable(folder)
    chosen = pick_device(device)
    splits = load_splits(config.task)
    metric = OBJECTIVES[splits.kind].metric
    tasks = None if task_list is None else task_lists.read(task_list, splits, "meta_test")
    result = runs.test_run(folder, splits, n_tasks, chosen, tasks)
    interval = stats.mean_interval(result[metric])
    found = files.plain({metric: interval.mean, "ci_low": interval.low, "ci_high": interval.high})
    keys = ("algorithm", "tasks", "tasks_hash", "batch_norm", "times_opened")
    if as_json:
        told = {key: result[key] for key in (*keys, "diagnostics")}
        typer.echo(json.dumps(files.plain({"run": str(folder), **found, **told})))
        return
    low, high = (metrics.show(metric, value, 2) for value in (interval.low, interval.high))
    typer.echo(
        f"{folder}: {config.algorithm}, {metrics.tell(metric, interval.mean, 2)} on meta-test, 95 % interval "
        f"[{low}, {high}] over {result['tasks']} tasks"
    )
    for line in told_of(result["diagnostics"], metric):
        typer.echo(f"  {line}")
    if result["times_opened"] > 1:
        typer.echo(f"meta-test has been opened {result['times_opened']} times for this run", err=True)
