"""What `search`, `train` and `test` do with what was typed: check it, call the library, print the result."""

from __future__ import annotations

import contextlib
import functools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console

from metabench import data, stats
from metabench.api import runs as api
from metabench.api import searches
from metabench.api.bar import validated
from metabench.api.results import Result, shown
from metabench.cli import automatic, flags, show
from metabench.cli.base import bare_table, print_json, print_table
from metabench.core import MetabenchError, metrics
from metabench.core.config import RunConfig, SearchSpace, parse_settings
from metabench.core.metrics import Metric
from metabench.leaderboard import scores
from metabench.search.progress.terminal import Terminal
from metabench.storage import files
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
    terminal: Terminal,
    time: str | None = None,
    task: Mapping[str, Any] | None = None,
    plan: bool = False,
    **options: Any,
) -> None:
    """Check a search from end to end, run it, and print its leaderboard."""
    typed, begun = flags.read_options(path, task or {}), terminal.begun
    say = functools.partial(typer.echo, err=True) if plan else terminal.say
    with flags.typed():
        asked = searches.ask(path, out, name, storage_at, chosen, budget, typed, time, begun, options, say)
    if plan:
        automatic.show_plan(asked.space, as_json) if asked.is_timed else _show_plan(
            asked.space, options, as_json
        )
        return
    from metabench.search import search as run_search

    folder = run_search(asked.space, asked.out, asked.name, **asked.options, terminal=terminal)
    terminal.close()
    show.leaderboard([str(folder)], json=as_json)
    if asked.is_timed and not as_json:
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


def train(
    config: RunConfig,
    out: Path | None,
    device: str,
    as_json: bool,
    profile: Path | None = None,
    source: Path | None = None,
) -> None:
    """Train into a run folder and say what came out; some meta-steps are profiled if a folder is given."""
    run = api.train_into(config, out, device, stderr, source, _profiled(profile))
    _show_training(run, as_json)


def _show_training(run: api.Run, as_json: bool) -> None:
    """Print the last report of a run; exit with 1 where it diverged."""
    last, metric = files.read_lines(run.folder / files.REPORTS)[-1], run.metric
    if as_json:
        figure = None if last["val_score"] is None else metric.sign * last["val_score"]
        shown = {**last, f"val_{metric}": figure}
        keys = ("tasks_seen", "finite", f"val_{metric}", "val_ci", "seconds", "peak_memory")
        result = {"run": run.folder, "algorithm": run.config.algorithm, **{key: shown[key] for key in keys}}
        print_json(result, indent=None)
    elif last["finite"]:
        figure = validated(metric, last["val_score"], last["val_ci"])
        typer.echo(f"{run.folder}: {figure} on meta-validation after {last['tasks_seen']} tasks")
    if not last["finite"]:
        typer.echo(f"metabench: {run.folder}: diverged after {last['tasks_seen']} tasks", err=True)
        raise typer.Exit(1)


def _profiled(folder: Path | None) -> contextlib.AbstractContextManager[None]:
    """Profile what is within, into a folder that holds no profile yet."""
    if folder is None:
        return contextlib.nullcontext()
    files.check_writable(folder)
    if (folder / profile.TRACE).exists():
        raise MetabenchError(f"--profile {folder}: holds a profile already; choose another folder")
    return profile.to(folder, stderr.print)


def test(
    folder: Path,
    n_tasks: int,
    task_list: Path | None,
    asked: tuple[str | None, str | None, Sequence[str]],
    beside: Mapping[str, int | None],
    device: str,
    as_json: bool,
) -> None:
    """Score a run on meta-test and print accuracy or error, and interval.

    Args:
        asked: data set, split and options to be tested on, where they are not the run's own.
        beside: unlabelled images of the tasks, where there are not as many as the run's own have.
    """
    name, split, pairs = asked
    options = {}
    if pairs:
        kinds = data.get(name or runs.read_config(folder).task.dataset).options
        options = parse_settings(kinds, pairs, "--option")
    typed: dict[str, Any] = {"dataset": name, "split": split, "options": options}
    other = {key: value for key, value in typed.items() if value}
    other |= {key: value for key, value in beside.items() if value is not None}
    result = api.score(folder, n_tasks, task_list, other, device, stderr)
    _print_test(folder, result, as_json)


def _print_test(folder: Path, tested: Result, as_json: bool) -> None:
    result, metric, together, alone = tested.record, tested.metric, tested.together, tested.one_at_a_time
    if as_json:
        keys = ("algorithm", "data", "tasks", "tasks_hash", "batch_norm", "times_opened", "diagnostics")
        bounds = {metric.name: together.mean, "ci_low": together.low, "ci_high": together.high}
        bounds |= {f"{metric}_together": together.mean, f"{metric}_one_at_a_time": alone.mean}
        bounds |= {"one_low": alone.low, "one_high": alone.high}
        print_json({"run": folder, **bounds, **{key: result[key] for key in keys}}, indent=None)
        return
    other = files.read_json(folder / files.CONFIG)["data_fingerprint"] != result["data_fingerprint"]
    where = f" of {result['data']}, not the run's own data" if other else ""
    figure = f"{shown(together, metric)} over {result['tasks']} meta-test tasks{where}"
    typer.echo(f"{folder}: {result['algorithm']}, {figure}")
    typer.echo(f"  {_alone(together, alone, metric)}")
    for line in _classes(result):
        typer.echo(f"  {line}")
    if seen := result.get("by_instance"):
        listed = ", ".join(f"{mean:.1%}" for mean, *_ in seen)
        typer.echo(f"  accuracy at the 1st, 2nd, ... example of a class that it reads: {listed}")
    for line in _unlabelled(result, metric):
        typer.echo(f"  {line}")
    for line in _diagnosis(result["diagnostics"], metric):
        typer.echo(f"  {line}")
    if result["times_opened"] > 1:
        typer.echo(f"meta-test has been opened {result['times_opened']} times for this run", err=True)


def _alone(together: stats.Interval, alone: stats.Interval, metric: Metric) -> str:
    """Say what the figure is when queries come one at a time, as the pictures of a user do."""
    if together == alone:
        return "the same whether queries come together or one at a time"
    return (
        "holds, as all below does, for all queries of a task classified together, whose batch norm moments "
        f"they share; one at a time: {shown(alone, metric)}"
    )


def _classes(result: Mapping[str, Any]) -> Iterator[str]:
    """Say which classes are hardest, and which are taken for which, as the board does."""
    mistakes = scores.mistakes([dict(result)])
    if hardest := mistakes.get("hardest"):
        listed = (f"{name} {share:.0%} of {queries:,}" for name, share, queries in hardest)
        yield f"hardest classes, with what is right of their queries: {', '.join(listed)}"
    if confused := mistakes.get("confused"):
        listed = (f"{true} for {guess} {share:.0%} of {cases:,}" for true, guess, share, cases in confused)
        yield f"most often taken for another: {', '.join(listed)}"


def _unlabelled(result: Mapping[str, Any], metric: Metric) -> Iterator[str]:
    """Say what unlabelled images are for, on the very same tasks, and which of them were taken."""
    for part, name in (("unlabelled", "unlabelled images"), ("distractors", "distractors")):
        if (figures := result.get(f"{metric}_without_{part}")) is not None:
            gain = stats.mean_interval(np.subtract(result[metric.name], figures))
            mean, low, high = (f"{100 * one:+.2f}" for one in gain[:3])
            figure = metrics.tell(metric, statistics.fmean(figures), 2)
            yield f"without {name}: {figure}; they make {mean} points, 95 % interval [{low}, {high}]"
    if (seen := result.get("unlabelled")) and seen["auroc"] is not None:
        of_classes, others = (f"{seen[key]:.2f}" for key in ("taken", "taken_distractors"))
        area = f"AUROC {seen['auroc']:.3f}"
        yield f"counted as the task's classes': {of_classes} of their images, {others} of distractors; {area}"


def _diagnosis(diagnostics: Mapping[str, Any], metric: Metric) -> Iterator[str]:
    yield f"worst tenth of {diagnostics['tasks']} tasks: {metrics.tell(metric, diagnostics['worst_tenth'])}"
    if diagnostics["calibration_error"] is not None:
        yield f"expected calibration error: {diagnostics['calibration_error']:.3f}"
    if diagnostics["over_steps"] is not None:
        curve = ", ".join(metrics.show(metric, point["mean"]) for point in diagnostics["over_steps"])
        steps = ", ".join(str(point["step"]) for point in diagnostics["over_steps"])
        yield f"{metric} after {steps} inner steps, {diagnostics['followed']} tasks: {curve}"
        worse = (
            "whose return fell by adapting" if metric == metrics.RETURN else "that diverged in the inner loop"
        )
        yield f"tasks {worse}: {diagnostics['diverged']:.1%}"
