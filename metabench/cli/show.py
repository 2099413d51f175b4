"""The commands that show results that are there; what is heavy is imported where it is needed."""

from __future__ import annotations

import importlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer
from rich.console import Console

from metabench.cli.base import Json, bare_table, guarded, parts, print_json, print_table
from metabench.core import MetabenchError
from metabench.core.metrics import METRICS

Folder = Annotated[str, typer.Argument(help="Folder or address of a search or a run.", show_default=False)]
Folders = Annotated[
    list[str], typer.Argument(help="Folders or addresses of searches and runs.", show_default=False)
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (status, leaderboard, compare, across, export, report, tensorboard, cache):
        app.command()(guarded()(command))


def status(folder: Folder, json: Json = False) -> None:
    """Show how a search stands: trials, rungs, incumbents, budget spent, nodes, expected end."""
    from metabench.search.progress import summary, view

    (place,) = _open([folder])
    standing = summary.read(place)
    if json:
        print_json(standing)
        return
    console = Console(highlight=False)
    console.print(f"{folder}: {view.header(standing)}", soft_wrap=True, markup=False)
    console.print(view.bars(standing))
    for each in view.workers(standing):
        console.print(f"  {each}", soft_wrap=True, markup=False)
    print_table(summary.table(standing["algorithms"], METRICS[standing["metric"]]), *_standing(standing))


def _standing(summary: Mapping[str, Any]) -> Iterator[str]:
    """Say below the table what it has no columns for."""
    from metabench.search.progress.summary import outlook

    for name, part in summary["algorithms"].items():
        reached = ", ".join(f"{count} at {rung}" for rung, count in part["rungs"].items())
        best = part["incumbent"]
        incumbent = f"; best: {best['trial']} after {best['tasks_seen']} tasks" if best else ""
        yield f"{name}: rungs {reached}{incumbent}"
        if part["growing"] is not None:
            stages = ", ".join(map(str, part["growing"]["stages"]))
            yield f"  nodes of a cell so far: {part['growing']['nodes']} (stages: {stages})"
        if part["hourly_gain"] is not None:
            yield f"  {outlook(METRICS[summary['metric']], part['hourly_gain'])}"
        yield from (f"  {trial} failed: {error}" for trial, error in part["errors"].items())
    spent, expected = summary["spent"], summary["expected"]
    yield f"spent: {spent['tasks']} tasks in {spent['seconds']:.0f} accelerator-seconds"
    yield from map(node, summary["nodes"])
    if expected is not None:
        hours = expected["accelerator_seconds_left"] / 3600
        yield f"left: about {expected['tasks_left']} tasks, {hours:.2f} accelerator-hours"


def node(described: Mapping[str, Any]) -> str:
    """Describe a node of a cluster."""
    return f"node {described['address']}: {described['cpus']:g} cores, {described['gpus']:g} GPUs"


def leaderboard(
    folders: Folders,
    format: Annotated[
        Literal["table", "json", "csv", "md", "latex"], typer.Option(help="How to print it.")
    ] = "table",
    columns: Annotated[
        list[str] | None,
        typer.Option(help="Show these columns only, with commas: rank,accuracy,ci,class_ci,p_holm,opened..."),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Show published figures beside, marked as not measured here.")
    ] = False,
    json: Json = False,
) -> None:
    """Rank the algorithms of searches and runs, finished or running."""
    import metabench.leaderboard as leaderboard

    form = "json" if json else format
    shown = leaderboard.FORMATS[form](leaderboard.leaderboard(_open(folders), published), parts(columns))
    if form == "table":
        Console().print(shown)
    else:
        typer.echo(shown, nl=False)


def compare(
    folders: Folders,
    rows: Annotated[
        list[str] | None,
        typer.Option(help="Two rows, such as maml:tuned,protonet:tuned; else the best by confirmation."),
    ] = None,
    json: Json = False,
) -> None:
    """Say which of two runs, searches or rows is better on meta-test, by how much, and how sure that is."""
    import metabench.leaderboard as leaderboard
    from metabench.leaderboard import versus

    answer = versus.compare(leaderboard.read(_open(folders)), parts(rows))
    print_json(answer) if json else typer.echo(answer["sentence"])


def cache(
    prune: Annotated[
        float | None, typer.Option(min=0, help="Remove what was not used for so many days; 0: all of it.")
    ] = None,
    json: Json = False,
) -> None:
    """List the decoded pictures and the features that are kept on this machine, or remove old ones."""
    from metabench.data.reading import cache
    from metabench.storage import remote

    removed = [] if prune is None else cache.prune(prune)
    kept = cache.every()
    if json:
        rows = [{"path": str(one.path), "bytes": one.n_bytes, "used": one.used} for one in kept]
        print_json({"folder": str(remote.cache_folder()), "kept": rows, "removed": len(removed)})
        return
    for one in kept:
        used = datetime.fromtimestamp(one.used).strftime("%Y-%m-%d")
        typer.echo(f"{one.n_bytes / 1e6:10,.1f} MB  last used {used}  {one.path.name}")
    for some, what in ((removed, "removed from"), (kept, "in")):
        if some or what == "in":
            n_bytes = sum(one.n_bytes for one in some)
            typer.echo(f"{len(some)} files, {n_bytes / 1e6:,.1f} MB {what} {remote.cache_folder()}")


def across(
    folders: Folders,
    diagram: Annotated[
        Path | None, typer.Option(help="PNG file for a critical-difference diagram, of 8 settings or more.")
    ] = None,
    json: Json = False,
) -> None:
    """Rank over several settings: data sets, ways, shots; mean ranks and performance profiles."""
    import metabench.leaderboard as leaderboard
    from metabench.leaderboard import across as ranking
    from metabench.leaderboard.across import about_settings
    from metabench.storage import files

    answer = ranking.across(leaderboard.read(_open(folders)))
    if diagram is not None:
        files.check_writable(diagram.parent)
        files.write_bytes(diagram, ranking.diagram(answer))
    if json:
        print_json(answer)
        return
    ratios = list(answer["rows"][0]["profile"])[1:]
    table = bare_table("row", "mean rank", "first", *(f"≤ {ratio}" for ratio in ratios))
    for row in answer["rows"]:
        shares = ["" if row["profile"][ratio] is None else f"{row['profile'][ratio]:.0%}" for ratio in ratios]
        rank = "" if row["mean_rank"] is None else f"{row['mean_rank']:.2f}"
        table.add_row(row["name"], rank, str(row["wins"]), *shares)
    print_table(table, about_settings(answer))


def export(
    folders: Folders,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; for MLflow, MLFLOW_TRACKING_URI may stand in its place."),
    ] = None,
    to: Annotated[
        Literal["tables", "optuna", "mlflow", "wandb"],
        typer.Option(help="CSV, Parquet and LaTeX; Optuna studies in SQLite; MLflow; offline runs of W&B."),
    ] = "tables",
) -> None:
    """Write trials, runs and leaderboard as tables, or as another tool reads them."""
    from metabench.storage import files

    if out is None and not (to == "mlflow" and os.environ.get("MLFLOW_TRACKING_URI")):
        raise MetabenchError("--out: give a folder; --to mlflow also takes MLFLOW_TRACKING_URI in its place")
    if out is not None:
        files.check_writable(out)
    places = _open(folders)
    typer.echo(_tables(places, out) if out and to == "tables" else _tracked(to, places, out))


def _tables(places: Sequence[Path], out: Path) -> str:
    import metabench.leaderboard as leaderboard
    from metabench.report.exports import tables as exporting
    from metabench.storage import files

    sources = leaderboard.read(places)
    shown = leaderboard.assemble(sources)
    paths = exporting.write(out, exporting.tables(sources, shown))
    forms = {"json": leaderboard.as_json, "md": leaderboard.as_markdown, "tex": leaderboard.as_latex}
    for suffix, text in forms.items():
        paths.append(out / f"{files.LEADERBOARD}.{suffix}")
        files.write_text(paths[-1], text(shown))
    return f"{out}: {', '.join(path.name for path in paths)}"


def _tracked(to: str, places: Sequence[Path], out: Path | None) -> str:
    """Write what a tracker reads, over nothing that is there, and say how to look at it."""
    import metabench.leaderboard as leaderboard
    from metabench.report.exports import records

    records.check(to)
    exporter = importlib.import_module(f"metabench.report.exports.to_{to}")
    for path in [] if out is None else [out / name for name in exporter.FILES]:
        if path.exists():
            raise MetabenchError(f"{path}: is there already; remove it, or choose another --out")
    return str(exporter.write(list(records.experiments(leaderboard.read(places))), out))


def report(
    folders: Folders,
    out: Annotated[
        Path, typer.Option(help="HTML file to write; its pictures lie beside it as PNG and SVG.")
    ] = Path("report.html"),
) -> None:
    """Write one HTML file of searches and runs: leaderboard, curves, hyperparameters, episodes, cost."""
    from metabench import report as reporting

    pictures = reporting.write(_open(folders), out)
    typer.echo(f"{out}: {len(pictures)} pictures, also as PNG and SVG in {reporting.beside(out)}")


def tensorboard(
    folder: Folder,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0 for a free one.")
    ] = 6006,
) -> None:
    """Show a search or a run in TensorBoard, to this machine only."""
    from metabench.storage import files, remote

    logs = f"{folder.rstrip('/')}/{files.TENSORBOARD}"
    if remote.is_url(folder):
        remote.check_url(folder)  # TensorBoard reads object storage itself
    elif not Path(logs).is_dir():
        raise MetabenchError(f"{folder}: has no TensorBoard events; give the folder of a search or a run")
    elif (Path(folder) / files.SEARCH).exists():
        port = port or _free_port()
        for line in _view(Path(folder), port):
            typer.echo(line)
        sys.stdout.flush()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logs]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, command)  # becomes TensorBoard, so that Ctrl-C and kill reach it


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _view(folder: Path, port: int) -> Iterator[str]:
    """Say where a search's TensorBoard shows the result and the best, where it has too many runs for all."""
    from metabench.search.progress import best

    address = f"http://127.0.0.1:{port}/"
    runs = best.runs(folder)
    if len(runs) <= best.MOST_RUNS:
        yield f"open {address}"
        return
    chosen = best.run_filter(folder)
    yield f"open {address}?runFilter={quote(chosen)}#timeseries"
    yield f"the result and the best trials, of {len(runs)} runs; in other tabs type this filter:"
    yield chosen


def _open(places: Sequence[str]) -> list[Path]:
    from metabench.storage.records import open_place

    return [open_place(place) for place in places]
