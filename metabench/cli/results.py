"""The commands that show results that are there: what may be typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from metabench.cli.base import Json, guarded

Folders = Annotated[
    list[str], typer.Argument(help="Folders or addresses of searches and runs.", show_default=False)
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (leaderboard, compare, across, export):
        app.command()(guarded()(command))


def leaderboard(
    folders: Folders,
    format: Annotated[
        Literal["table", "json", "csv", "md", "latex"], typer.Option(help="How to print it.")
    ] = "table",
    columns: Annotated[
        str | None,
        typer.Option(help="Show these columns only, with commas: rank,accuracy,ci,class_ci,p_holm,opened..."),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Show published figures beside, marked as not measured here.")
    ] = False,
    json: Json = False,
) -> None:
    """Rank the algorithms of searches and runs, finished or running."""
    from metabench.cli import show

    show.leaderboard(folders, "json" if json else format, _parts(columns), published)


def compare(
    folders: Folders,
    rows: Annotated[
        str | None,
        typer.Option(help="Two rows, such as maml:tuned,protonet:tuned; else the best by confirmation."),
    ] = None,
    json: Json = False,
) -> None:
    """Say which of two runs, searches or rows is better on meta-test, by how much, and how sure that is."""
    from metabench.cli import show

    show.compare(folders, _parts(rows), json)


def across(
    folders: Folders,
    diagram: Annotated[
        Path | None, typer.Option(help="PNG file for a critical-difference diagram, of 8 settings or more.")
    ] = None,
    json: Json = False,
) -> None:
    """Rank over several settings: data sets, ways, shots; mean ranks and performance profiles."""
    from metabench.cli import show

    show.across(folders, diagram, json)


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
    from metabench.cli import show

    show.export(folders, out, to)


def _parts(text: str | None) -> list[str]:
    return [] if text is None else [part.strip() for part in text.split(",")]
