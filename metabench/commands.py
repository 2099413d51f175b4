"""What the commands do with what was typed: check it, call the library, print the result."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import torch
import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.table import Table

from metabench import algorithms as registry
from metabench import data, nets, runs, spaces, stats, store
from metabench.config import NetworkConfig, RunConfig, TaskConfig, problems, setting_problem
from metabench.core import MetabenchError, Report, Splits

stdout = Console()
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
    if Path(name).name != name:
        raise MetabenchError(f"--name {name!r}: must be the name of one folder, without slashes")
    store.check_writable(out / name)
    for library in ("ray", "optuna"):
        if importlib.util.find_spec(library) is None:
            raise MetabenchError(
                f"`metabench search` needs {library}, which is not installed; "
                "do: pip install 'ray[default,tune]' optuna"
            )
    splits = load_splits(space.task)
    nets.build(space.network, space.task.way, tuple(splits.meta_train.images.shape[2:]))
    from metabench.search import search as run_search

    folder = run_search(space, out, name, **options)
    leaderboard([folder], "json" if as_json else "table")
    stderr.print(f"{folder}", highlight=False)


def load_splits(task: TaskConfig) -> Splits:
    """Load a task's data set and check that the task can be drawn from it."""
    with stderr.status(f"Reading {task.dataset}"):
        splits = data.load(task)
    data.check(task, splits)
    return splits


def describe_run(
    algorithm: str,
    task: Mapping[str, Any],
    options: Sequence[str],
    network: Mapping[str, Any],
    run: Mapping[str, Any],
    settings: Sequence[str],
    n_reports: int,
) -> RunConfig:
    """Build a run's configuration from what was typed; all problems are reported at once."""
    wrong: list[str] = []
    found = attempt(wrong, registry.get, algorithm)
    values = found and attempt(wrong, parse_settings, found.hparams, settings, "--set")
    dataset = attempt(wrong, data.get, task["dataset"])
    chosen = dataset and attempt(wrong, parse_settings, dataset.options, options, "--option")
    described = attempt(wrong, validated, TaskConfig, {**task, "options": chosen or {}})
    if dataset and described:
        attempt(wrong, data.configure, described)
    net = attempt(wrong, validated, NetworkConfig, network)
    if wrong:
        raise MetabenchError("\n".join(dict.fromkeys(wrong)))
    rungs = {max(1, run["tasks"] * step // n_reports) for step in range(1, n_reports + 1)}
    return RunConfig(
        algorithm=algorithm,
        hyperparameters=dataclasses.asdict(registry.hparams(algorithm, values)),
        task=described,
        network=net,
        rungs=sorted(rungs),
        **run,
    )


def attempt(wrong: list[str], function: Callable[..., Any], *args: Any) -> Any:
    """Call a function; add the lines of a MetabenchError to a list and return None."""
    try:
        return function(*args)
    except MetabenchError as error:
        wrong += str(error).splitlines()
        return None


def validated(model: type[BaseModel], values: Mapping[str, Any]) -> Any:
    """Build a model from flags, naming what is wrong as flags."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        parts = [line.partition("=") for line in problems(error, model)]
        raise MetabenchError(
            "\n".join(f"--{key.replace('_', '-')}{sep}{rest}" for key, sep, rest in parts)
        ) from None


def parse_settings(settings: type, pairs: Sequence[str], flag: str) -> dict[str, Any]:
    """Read key=value pairs as the types of a dataclass of settings; all problems are reported at once."""
    kinds = get_type_hints(settings)
    values: dict[str, Any] = {}
    wrong = []
    for pair in pairs:
        key, sep, text = pair.partition("=")
        if not sep:
            wrong.append(f"{flag} {pair}: must be key=value")
            continue
        values[key] = parse_value(text, kinds.get(key, str))
        problem = setting_problem(settings, key, values[key])
        wrong += [f"{flag} {problem}"] if problem else []
    if wrong:
        raise MetabenchError("\n".join(wrong))
    return values


def parse_value(text: str, kind: type) -> Any:
    """Read text as a type, or return it as it is, for the check to refuse."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


def pick_device(name: str) -> torch.device:
    """Turn a device's name into a device that this machine has."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MetabenchError(f"--device {name}: not on this machine ({reason}); use cpu or auto") from None
    return device


def train(config: RunConfig, out: Path | None, device: str, as_json: bool) -> None:
    """Train into a run folder and say what came out."""
    task = config.task
    name = f"{config.algorithm}-{task.dataset}-{task.way}w{task.shot}s-seed{config.seed}"
    folder = out or Path("runs") / name
    store.check_writable(folder)
    chosen = pick_device(device)
    splits = load_splits(task)
    with store.lock(folder), train_progress(config.tasks) as (progress, reported):
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


def tensorboard(folder: Path, port: int) -> None:
    """Run TensorBoard on a folder's events until it is stopped."""
    logs = folder / store.TENSORBOARD
    if not logs.is_dir():
        raise MetabenchError(f"{folder}: has no TensorBoard events; give the folder of a search or a run")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs)]
    with contextlib.suppress(KeyboardInterrupt):  # how TensorBoard is meant to be stopped
        raise typer.Exit(subprocess.run([*command, "--host", "127.0.0.1", "--port", str(port)]).returncode)


def algorithms(as_json: bool) -> None:
    """List the algorithms with their settings and references."""
    listed = [
        {"name": name, "reference": found.reference, "settings": settings_of(found.hparams)}
        for name in registry.names()
        for found in [registry.get(name)]
    ]
    if as_json:
        typer.echo(json.dumps(listed, indent=1))
        return
    for entry in listed:
        table = Table("setting", "default", "allowed", "meaning", title=entry["name"], title_justify="left")
        for row in entry["settings"]:
            table.add_row(row["name"], str(row["default"]), allowed(row), row["help"])
        stdout.print(table)
        stdout.print(entry["reference"], end="\n\n", highlight=False)


def settings_of(settings: type) -> list[dict[str, Any]]:
    """Describe a dataclass of settings, one entry a field."""
    kinds = get_type_hints(settings)
    return [
        {"name": field.name, "type": kinds[field.name].__name__, "default": field.default, **field.metadata}
        for field in dataclasses.fields(settings)
    ]


def allowed(row: Mapping[str, Any]) -> str:
    """Say in a few characters which values a setting takes."""
    if row["choices"] is not None:
        return " | ".join(map(str, row["choices"]))
    signs = {"minimum": ">=", "above": ">", "maximum": "<="}
    limits = [f"{sign} {row[key]}" for key, sign in signs.items() if row[key] is not None]
    return ", ".join([row["type"], *limits])


def datasets(as_json: bool) -> None:
    """List the data sets, where they come from, and whether they are here."""
    root = data.default_root()
    listed = []
    for name in data.names():
        found = data.get(name)
        entry = {
            key: getattr(found, key)
            for key in ("name", "summary", "size", "licence", "url", "citation", "splits")
        }
        listed.append({**entry, "options": settings_of(found.options), "is_here": found.is_here(root)})
    if as_json:
        typer.echo(json.dumps(listed, indent=1))
        return
    for entry in listed:
        here = "here" if entry["is_here"] else "not here"
        stdout.print(
            f"[bold]{entry['name']}[/bold] ({here}): {entry['summary']}; {entry['size']}", highlight=False
        )
        typer.echo(f"  splits: {', '.join(entry['splits'])}; licence: {entry['licence']}")
        for row in entry["options"]:
            typer.echo(f"  option {row['name']}={row['default']}: {row['help']} ({allowed(row)})")
    if root is None:
        stderr.print("METABENCH_DATA is not set: it names the folder of downloaded data sets")
