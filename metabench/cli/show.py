"""What shows results that are there: the leaderboard and TensorBoard, without waiting for torch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from metabench import leaderboard as board
from metabench.core import MetabenchError
from metabench.storage import files, remote

UNSEEN = (f"{files.TENSORBOARD}/", "trials/")
"""Where a search keeps what no table needs."""


def found(place: str) -> Path:
    """Return a folder by its path, or a copy of what is at an address, without what only workers need."""
    if not remote.is_url(place):
        return Path(place)
    folder = remote.work_in(remote.check_url(place), "viewed")
    remote.refresh(folder, skip=lambda name: name.startswith(UNSEEN) or f"/{files.STATE}/" in name)
    if not (folder / files.SEARCH).exists():
        raise MetabenchError(f"{place}: holds no search; give its address: --storage, a slash and --name")
    return folder


def leaderboard(
    folders: Sequence[str], form: str, columns: Sequence[str] = (), published: bool = False
) -> None:
    """Print what the folders hold by now.

    Args:
        columns: names of those to show, in place of the most important.
    """
    shown = board.FORMATS[form](board.leaderboard([found(folder) for folder in folders], published), columns)
    if form == "table":
        Console().print(shown)
    else:
        typer.echo(shown, nl=False)


def compare(folders: Sequence[str], rows: Sequence[str], as_json: bool) -> None:
    """Print which of two rows is better, and how sure that is."""
    from metabench.leaderboard import versus

    answer = versus.compare(board.read([found(folder) for folder in folders]), rows)
    typer.echo(json.dumps(answer, indent=1) if as_json else answer["sentence"])


def export(folders: Sequence[str], out: Path | None, to: str = "tables") -> None:
    """Write everything that folders hold as tables, or for another tool.

    Args:
        out: folder; None, which MLflow alone can do without, stands for the address in its environment.
    """
    if out is None and not (to == "mlflow" and os.environ.get("MLFLOW_TRACKING_URI")):
        raise MetabenchError("--out: give a folder; --to mlflow also takes MLFLOW_TRACKING_URI in its place")
    if out is not None:
        files.check_writable(out)
    places = [found(folder) for folder in folders]
    if to == "mlflow":
        typer.echo(_export_mlflow(places, out))
    elif out is not None:
        typer.echo(
            {"tables": _export_tables, "optuna": _export_optuna, "wandb": _export_wandb}[to](places, out)
        )


def _export_tables(places: Sequence[Path], out: Path) -> str:
    from metabench.report.exports import tables as exporting

    shown = board.leaderboard(places)
    paths = exporting.write(out, exporting.tables(board.read(places), shown))
    for suffix, text in (("json", board.as_json), ("md", board.as_markdown), ("tex", board.as_latex)):
        paths.append(out / f"{files.LEADERBOARD}.{suffix}")
        files.write_text(paths[-1], text(shown))
    return f"{out}: {', '.join(path.name for path in paths)}"


def _export_optuna(places: Sequence[Path], out: Path) -> str:
    from metabench.report.exports import run_record
    from metabench.report.exports import to_optuna as exporting

    path = out / "optuna.db"
    _refuse_overwriting(path)
    searches = run_record.named(board.read(places))
    if not searches:
        raise MetabenchError("--to optuna: a run has no trials; give the folder of a search")
    names = exporting.write(path, searches)
    return f"{path}: {', '.join(names)}; look at them with: optuna-dashboard sqlite:///{path}"


def _export_mlflow(places: Sequence[Path], out: Path | None) -> str:
    from metabench.report import exports
    from metabench.report.exports import run_record, to_mlflow

    exports.check("mlflow")
    if out is not None:
        _refuse_overwriting(out / to_mlflow.DATABASE, out / to_mlflow.ARTIFACTS)
    address = to_mlflow.write(list(run_record.experiments(board.read(places))), out)
    return f"{address}; look at it with: mlflow ui --backend-store-uri {address}"


def _export_wandb(places: Sequence[Path], out: Path) -> str:
    from metabench.report import exports
    from metabench.report.exports import run_record, to_wandb

    exports.check("wandb")
    _refuse_overwriting(out / to_wandb.FOLDER)
    found = to_wandb.write(list(run_record.experiments(board.read(places))), out)
    return f"{found}; nothing was sent; to upload: wandb sync {found}"


def _refuse_overwriting(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise MetabenchError(f"{path}: is there already; remove it, or choose another --out")


def across(folders: Sequence[str], diagram: Path | None, as_json: bool) -> None:
    """Print how rows rank over several settings, and draw the critical-difference diagram if asked to."""
    from metabench.leaderboard import across as ranking
    from metabench.leaderboard.notes import about_settings

    answer = ranking.across(board.read([found(folder) for folder in folders]))
    if diagram is not None:
        files.check_writable(diagram.parent)
        files.write_bytes(diagram, ranking.diagram(answer))
    if as_json:
        typer.echo(json.dumps(answer, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    ratios = list(answer["rows"][0]["profile"])
    for name in ("row", "mean rank", "first", *(f"≤ {ratio}" for ratio in ratios[1:])):
        table.add_column(name, justify="left" if name == "row" else "right")
    for row in answer["rows"]:
        shares = ["" if row["profile"][one] is None else f"{row['profile'][one]:.0%}" for one in ratios[1:]]
        rank = "" if row["mean_rank"] is None else f"{row['mean_rank']:.2f}"
        table.add_row(row["name"], rank, str(row["wins"]), *shares)
    console = Console()
    console.print(table)
    console.print(about_settings(answer), soft_wrap=True, markup=False)


def plan(found: Mapping[str, Any], as_json: bool) -> None:
    """Print what a search would take."""
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("algorithm", "trials", "at rungs", "trial tasks", "final tasks", "ms/task", "hours"):
        table.add_column(name, justify="left" if name == "algorithm" else "right")
    for name, own in found["algorithms"].items():
        reached = "/".join(f"{n:g}" for n in own["trials_at_rungs"])
        counts = (str(own["trials"]), reached, str(own["trial_tasks"]), str(own["final_tasks"]))
        table.add_row(name, *counts, f"{1000 * own['training']:.1f}", f"{own['seconds'] / 3600:.2f}")
    console = Console()
    console.print(table)
    for node in found["nodes"]:
        console.print(f"node {node['address']}: {node['cpus']:g} cores, {node['gpus']:g} GPUs", markup=False)
    share = f" with {found['gpus_per_trial']:g} GPUs each" if found["gpus_per_trial"] else ""
    console.print(
        f"{found['slots']} trials at once{share}; rungs at {', '.join(map(str, found['rungs']))} tasks\n"
        f"about {found['accelerator_hours']:.2f} accelerator-hours (at most "
        f"{found['at_most_accelerator_hours']:.2f}), {found['hours']:.2f} hours; speeds measured here, on "
        f"{found['device']}; nothing was started",
        soft_wrap=True,
        markup=False,
    )


def tensorboard(folder: str, port: int) -> None:
    """Run TensorBoard on a folder's events, in place of this process."""
    logs = f"{folder.rstrip('/')}/{files.TENSORBOARD}"
    if remote.is_url(folder):
        remote.check_url(folder)  # TensorBoard reads object storage itself
    elif not Path(logs).is_dir():
        raise MetabenchError(f"{folder}: has no TensorBoard events; give the folder of a search or a run")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logs]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, command)  # becomes TensorBoard, so that Ctrl-C and kill reach it
