"""What `search`, `train` and `test` do with what was typed: check it, call the library, print the result."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress, TextColumn

from metabench import data, stats
from metabench.cli import automatic, show
from metabench.cli.base import bare_table, print_json, print_table
from metabench.cli.flags import describe_task, pick_device
from metabench.core import MetabenchError, Objective, Report, Splits, metrics
from metabench.core.config import RunConfig, SearchSpace, TaskConfig
from metabench.core.metrics import Metric
from metabench.core.objectives import OBJECTIVES
from metabench.data.tasks import frozen
from metabench.leaderboard import rows
from metabench.search import space as spaces
from metabench.storage import files, remote
from metabench.training import profile
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
    time: str | None = None,
    begun: float = 0.0,
    task: Mapping[str, Any] | None = None,
    plan: bool = False,
    **options: Any,
) -> None:
    """Check a search from end to end, run it, and print its leaderboard."""
    asked = automatic.read(path, time, budget, task or {}, options)
    space = None if asked else spaces.override(spaces.load(path), names=chosen, **budget)
    name = path.stem if name is None else name
    files.check_name(name, "name")
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
    if asked is not None:
        space, options["timing"] = automatic.choose(asked, chosen, out / name, url, begun, options)
    assert space is not None
    if plan:
        automatic.show_plan(space, as_json) if asked else _show_plan(space, options, as_json)
        return
    from metabench.search import search as run_search

    folder = run_search(space, out, name, storage=url, **options)
    show.leaderboard([str(folder)], json=as_json)
    if asked is not None and not as_json:
        automatic.end(folder)


def _show_plan(space: SearchSpace, options: Mapping[str, Any], as_json: bool) -> None:
    from metabench.search.ray import cluster
    from metabench.search.stages.plan import plan

    share = cluster.TrialResources(options["cpus_per_trial"], options["gpus_per_trial"])
    with stderr.status("Measuring how fast the algorithms are here"):
        planned = plan(space, options["address"], options["seed"], share)
    if as_json:
        print_json(planned)
        return
    table = bare_table(
        "algorithm", "settings", "trials", "at rungs", "trial tasks", "final tasks", "ms/task", "hours"
    )
    for name, part in planned["algorithms"].items():
        reached = "/".join(f"{n:g}" for n in part["trials_at_rungs"])
        settings = "any" if part["settings"] is None else f"{part['settings']:,}"
        counts = (settings, str(part["trials"]), reached, str(part["trial_tasks"]), str(part["final_tasks"]))
        table.add_row(name, *counts, f"{1000 * part['training']:.1f}", f"{part['seconds'] / 3600:.2f}")
    gpus = planned["gpus_per_trial"]
    print_table(
        table,
        *map(show.node, planned["nodes"]),
        f"{planned['slots']} trials at once{f' with {gpus:g} GPUs each' if gpus else ''}; "
        f"rungs at {', '.join(map(str, planned['rungs']))} tasks",
        f"about {planned['accelerator_hours']:.2f} accelerator-hours "
        f"(at most {planned['at_most_accelerator_hours']:.2f}), {planned['hours']:.2f} hours; "
        f"speeds measured here, on {planned['device']}; nothing was started",
    )


def load_splits(task: TaskConfig) -> Splits:
    """Load a task's data set and check that the task can be drawn from it."""
    with stderr.status(f"Reading {task.dataset}"):
        splits = data.load(task)
    data.check(task, splits)
    return splits


def train(
    config: RunConfig,
    out: Path | None,
    device: str,
    as_json: bool,
    profile: Path | None = None,
    source: Path | None = None,
) -> None:
    """Train into a run folder and say what came out; some meta-steps are profiled if a folder is given.

    Args:
        source: the run that is trained again; on its own task, data other than its are refused.
    """
    task = config.task
    name = f"{config.algorithm}-{task.dataset}-{task.way}w{task.shot}s-seed{config.seed}"
    folder = out or Path("runs") / name
    files.check_name(folder.absolute().name, "out")
    if (inside := files.search_around(folder)) is not None:
        raise MetabenchError(f"`out` {folder}: lies in the search {inside}; choose a folder outside of it")
    files.check_writable(folder)
    chosen = pick_device(device)
    splits = load_splits(task)
    if source is not None and runs.read_config(source).task == task:
        runs.refuse_other_data(source, splits)
    objective = OBJECTIVES[splits.kind]
    profiled = _profiled(profile)
    with files.lock(folder):
        runs.claim(config, splits, folder)
        with train_progress(config.tasks, objective) as (progress, reported), profiled:
            runs.train_run(
                config,
                splits,
                folder,
                device=chosen,
                progress=progress,
                reported=reported,
                damaged=lambda problem: stderr.print(f"{problem}; trained again", soft_wrap=True),
            )
    _show_training(config, folder, objective, as_json)


def _show_training(config: RunConfig, folder: Path, objective: Objective, as_json: bool) -> None:
    """Print the last report of a run; exit with 1 where it diverged."""
    last = files.read_lines(folder / files.REPORTS)[-1]
    if as_json:
        figure = None if last["val_score"] is None else objective.metric.sign * last["val_score"]
        shown = {**last, f"val_{objective.metric}": figure}
        keys = ("tasks_seen", "finite", f"val_{objective.metric}", "val_ci", "seconds", "peak_memory")
        result = {"run": folder, "algorithm": config.algorithm, **{key: shown[key] for key in keys}}
        print_json(result, indent=None)
    elif last["finite"]:
        figure = validated(objective, last["val_score"], last["val_ci"])
        typer.echo(f"{folder}: {figure} on meta-validation after {last['tasks_seen']} tasks")
    if not last["finite"]:
        typer.echo(f"metabench: {folder}: diverged after {last['tasks_seen']} tasks", err=True)
        raise typer.Exit(1)


def _profiled(folder: Path | None) -> contextlib.AbstractContextManager[None]:
    """Profile what is within, into a folder that holds no profile yet."""
    if folder is None:
        return contextlib.nullcontext()
    files.check_writable(folder)
    if (folder / profile.TRACE).exists():
        raise MetabenchError(f"--profile {folder}: holds a profile already; choose another folder")
    return profile.to(folder, stderr.print)


def validated(objective: Objective, score: float, half_width: float | None) -> str:
    """Show a meta-validation, with the bounds of its interval over tasks where there are several."""
    metric = objective.metric
    figure = metric.sign * score
    if half_width is None or math.isnan(half_width):
        return metrics.tell(metric, figure, 2)
    low, high = (metrics.show(metric, end, 2) for end in stats.bounds(figure, half_width, metric.scale))
    return f"{metrics.tell(metric, figure, 2)} [{low}, {high}]"


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


def test(
    folder: Path,
    n_tasks: int,
    task_list: Path | None,
    asked: tuple[str | None, str | None, Sequence[str]] | None,
    device: str,
    as_json: bool,
) -> None:
    """Score a run on meta-test and print accuracy or error, and interval.

    Args:
        asked: data set, split and options to be tested on, where they are not the run's own.
    """
    config = runs.read_config(folder)
    files.check_writable(folder)
    chosen = pick_device(device)
    splits = load_splits(config.task)
    task, tested = config.task, splits
    if asked is not None:
        task, tested = _other_data(config.task, *asked)
    if task_list is None and tested.kind == splits.kind:
        data.check(task, tested, ["meta_test"])
    tasks = None if task_list is None else frozen.read(task_list, tested, "meta_test")
    result = runs.test_run(folder, splits, n_tasks, chosen, tasks, tested)
    where = "" if tested.fingerprint == splits.fingerprint else f" of {tested.name}, not the run's own data"
    _print_test(folder, result, OBJECTIVES[splits.kind].metric, where, as_json)


def _print_test(folder: Path, result: dict[str, Any], metric: Metric, where: str, as_json: bool) -> None:
    scores = (result[metric.name], result[f"{metric}_one_at_a_time"])
    together, alone = (stats.mean_interval(one, metric.scale) for one in scores)
    if as_json:
        keys = ("algorithm", "data", "tasks", "tasks_hash", "batch_norm", "times_opened", "diagnostics")
        bounds = {metric.name: together.mean, "ci_low": together.low, "ci_high": together.high}
        bounds |= {f"{metric}_together": together.mean, f"{metric}_one_at_a_time": alone.mean}
        bounds |= {"one_low": alone.low, "one_high": alone.high}
        print_json({"run": folder, **bounds, **{key: result[key] for key in keys}}, indent=None)
        return
    shown = f"{_shown(together, metric)} over {result['tasks']} meta-test tasks{where}"
    typer.echo(f"{folder}: {result['algorithm']}, {shown}")
    typer.echo(f"  {_alone(together, alone, metric)}")
    for line in _classes(result):
        typer.echo(f"  {line}")
    for line in _diagnosis(result["diagnostics"], metric):
        typer.echo(f"  {line}")
    if result["times_opened"] > 1:
        typer.echo(f"meta-test has been opened {result['times_opened']} times for this run", err=True)


def _other_data(
    task: TaskConfig, name: str | None, split: str | None, pairs: Sequence[str]
) -> tuple[TaskConfig, Splits]:
    """Load what a run is to be tested on; of its own data set, what is not asked for stays as it was."""
    shape = task.model_dump(exclude={"dataset", "split", "options"})
    asked = describe_task(name or task.dataset, split, pairs, **shape)
    if asked.dataset == task.dataset:
        options = {**task.options, **asked.options}
        asked = asked.model_copy(update={"split": split or task.split, "options": options})
    with stderr.status(f"Reading {asked.dataset}"):
        return asked, data.load(asked)


def _shown(interval: stats.Interval, metric: Metric) -> str:
    mean, low, high = (metrics.show(metric, value, 2) for value in interval[:3])
    named = mean if metric.unit == "%" else f"{metric} {mean}"
    return f"{named}, 95 % interval [{low}, {high}]"


def _alone(together: stats.Interval, alone: stats.Interval, metric: Metric) -> str:
    """Say what the figure is when queries come one at a time, as the pictures of a user do."""
    if together == alone:
        return "the same whether queries come together or one at a time"
    return (
        "holds, as all below does, for all queries of a task classified together, whose batch norm moments "
        f"they share; one at a time: {_shown(alone, metric)}"
    )


def _classes(result: dict[str, Any]) -> Iterator[str]:
    """Say which classes are hardest, and which are taken for which, as the board does."""
    mistakes = rows.mistakes([result])
    if hardest := mistakes.get("hardest"):
        listed = (f"{name} {share:.0%} of {queries:,}" for name, share, queries in hardest)
        yield f"hardest classes, with what is right of their queries: {', '.join(listed)}"
    if confused := mistakes.get("confused"):
        listed = (f"{true} for {guess} {share:.0%} of {cases:,}" for true, guess, share, cases in confused)
        yield f"most often taken for another: {', '.join(listed)}"


def _diagnosis(diagnostics: Mapping[str, Any], metric: Metric) -> Iterator[str]:
    yield f"worst tenth of {diagnostics['tasks']} tasks: {metrics.tell(metric, diagnostics['worst_tenth'])}"
    if diagnostics["calibration_error"] is not None:
        yield f"expected calibration error: {diagnostics['calibration_error']:.3f}"
    if diagnostics["over_steps"] is not None:
        curve = ", ".join(metrics.show(metric, point["mean"]) for point in diagnostics["over_steps"])
        yield f"{metric} after 0, 1, ... inner steps, {diagnostics['followed']} tasks: {curve}"
        yield f"tasks that diverged in the inner loop: {diagnostics['diverged']:.1%}"
