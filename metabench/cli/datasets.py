"""The commands of `metabench datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from metabench.cli.base import Distractors, Domains, Json, MostShots, Unlabelled, guarded
from metabench.core import MetabenchError

app = typer.Typer(help="List, download, show and check the data sets.")

Named = Annotated[str, typer.Argument(help="Name of a data set.", show_default=False)]
Cut = Annotated[str | None, typer.Option(help="Named split of the data set.")]
Options = Annotated[list[str] | None, typer.Option(help="key=value: a setting of the data set.")]
Way = Annotated[int, typer.Option(min=1, help="Classes in a task; 1 for regression.")]
Shot = Annotated[int, typer.Option(min=1, help="Support examples a class, or points of a function.")]
Queries = Annotated[int, typer.Option(min=1, help="Query examples a class.")]


@app.callback(invoke_without_command=True)
@guarded()
def datasets(context: typer.Context, json: Json = False) -> None:
    """List the data sets, and whether their files are here; or download, show and check one."""
    if context.invoked_subcommand is None:
        from metabench.cli import catalogue

        catalogue.datasets(json)
    elif json:
        raise MetabenchError(f"--json: must stand behind `{context.invoked_subcommand}`, not before it")


@app.command("list")
@guarded()
def datasets_list(json: Json = False) -> None:
    """List the data sets, their splits and options, and whether their files are here."""
    from metabench.cli import catalogue

    catalogue.datasets(json)


@app.command()
@guarded("The same command continues where it stopped.")
def fetch(
    name: Named,
    split: Cut = None,
    option: Options = None,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Requests at once.")] = 16,
    url: Annotated[str | None, typer.Option(help="Address of a mirror's folder of the files.")] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Whole files, where only the rows in need would be fetched.")
    ] = False,
) -> None:
    """Download what a split needs into METABENCH_DATA; what is there already is not fetched again."""
    from metabench.cli import catalogue

    catalogue.fetch(name, split, option or [], url, jobs, whole)


@app.command()
@guarded()
def show(
    name: Named,
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .pdf or .svg.")] = Path("sheet.png"),
    split: Cut = None,
    option: Options = None,
    way: Way = 5,
    shot: Shot = 1,
    query: Queries = 5,
    seed: Annotated[int, typer.Option(help="Draws the task.")] = 0,
) -> None:
    """Draw one meta-train task, support and query, and count the classes of each split."""
    from metabench.cli import inspect_data

    inspect_data.show(name, split, option or [], out, way, shot, query, seed)


@app.command()
@guarded()
def tasks(
    name: Named,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("tasks.safetensors"),
    split: Cut = None,
    option: Options = None,
    part: Annotated[
        Literal["meta_validation", "meta_test"], typer.Option(help="Which classes the tasks are of.")
    ] = "meta_test",
    tasks: Annotated[int, typer.Option(min=2, help="How many tasks.")] = 1000,
    way: Annotated[str, typer.Option(help="Classes in a task: 5, or 3-10 drawn for each.")] = "5",
    shot: Annotated[str, typer.Option(help="Support examples a class: 1, or 1-5.")] = "1",
    query: Queries = 15,
    most_shots: MostShots = None,
    unlabelled: Unlabelled = 0,
    distractors: Distractors = 0,
    domains: Domains = "any",
    json: Json = False,
) -> None:
    """Write the frozen tasks that runs are tested on into a small file, with the hash that proves them."""
    from metabench.cli import flags, inspect_data

    shape = {
        "way": flags.parse_count(way),
        "shot": flags.parse_count(shot),
        "test_query": query,
        "most_shots": most_shots,
        "unlabelled": unlabelled,
        "distractors": distractors,
        "domains": domains,
    }
    inspect_data.tasks(name, split, option or [], out, part, tasks, shape, json)


@app.command()
@guarded()
def check(
    name: Named,
    split: Cut = None,
    option: Options = None,
    shot: Shot = 1,
    query: Queries = 15,
    json: Json = False,
) -> None:
    """Look for images in two splits, blank images and classes too small; exit code 1 if there are any."""
    from metabench.cli import inspect_data

    inspect_data.check(name, split, option or [], shot, query, json)
