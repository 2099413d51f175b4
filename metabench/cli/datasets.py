"""The commands of `metabench datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from metabench.cli.base import Json, Options, Split, guarded, print_json
from metabench.cli.options import From, ModelCommand, takes_models
from metabench.core import MetabenchError

app = typer.Typer(help="List, download, show and check the data sets.")

Named = Annotated[str, typer.Argument(help="Name of a data set.", show_default=False)]
Way = Annotated[int, typer.Option(min=1, help="Classes in a task; 1 for regression.")]
Shot = Annotated[int, typer.Option(min=1, help="Support examples a class, or points of a function.")]
Queries = Annotated[int, typer.Option(min=1, help="Query examples a class.")]

Shape = Annotated[
    dict[str, Any],
    From(
        "TaskConfig",
        ("way", "shot", "test_query", "most_shots", "unlabelled", "distractors", "domains", "labels"),
        names={"test_query": "query"},
        help={"test_query": "Query examples a class."},
    ),
]

SHOWN = 10
"""Findings of one sort that are printed one by one."""


@app.callback(invoke_without_command=True)
@guarded()
def datasets(context: typer.Context, json: Json = False) -> None:
    """List the data sets, and whether their files are here; or download, show and check one."""
    if context.invoked_subcommand is None:
        datasets_list(json)
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
    split: Split = None,
    option: Options = None,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Requests at once.")] = 16,
    url: Annotated[str | None, typer.Option(help="Address of a mirror's folder of the files.")] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Whole files, where only the rows in need would be fetched.")
    ] = False,
) -> None:
    """Download what a split needs into METABENCH_DATA; what is there already is not fetched again."""
    from metabench.cli import catalogue

    catalogue.fetch(name, split, option or [], url=url, jobs=jobs, is_whole=whole)


@app.command()
@guarded()
def show(
    name: Named,
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .pdf or .svg.")] = Path("sheet.png"),
    split: Split = None,
    option: Options = None,
    way: Way = 5,
    shot: Shot = 1,
    query: Queries = 5,
    domains: Annotated[
        Literal["any", "within", "across"], typer.Option(help="Which domains the task's classes are of.")
    ] = "any",
    seed: Annotated[int, typer.Option(help="Draws the task.")] = 0,
) -> None:
    """Draw one meta-train task, support and query, and count the classes of each split."""
    from metabench.cli import flags, inspect_data

    shape = {"way": way, "shot": shot, "query": query, "domains": domains}
    task = flags.describe_task(name, split, option or [], **shape)
    splits = inspect_data.draw(out, task, seed)
    for line in inspect_data.counted(splits):
        typer.echo(line)
    typer.echo(f"{out}: {way} classes, {shot} support and {query} query examples of each")


@app.command(cls=ModelCommand)
@guarded()
@takes_models
def tasks(
    name: Named,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("tasks.safetensors"),
    split: Split = None,
    option: Options = None,
    part: Annotated[
        Literal["meta_validation", "meta_test"], typer.Option(help="Which classes the tasks are of.")
    ] = "meta_test",
    tasks: Annotated[int | None, typer.Option(min=2, help="How many tasks.", show_default="1000")] = None,
    listed: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Tasks to write instead of drawn ones: a .csv file of task, role (support or query), label "
            "and picture, or Lake's runs of Omniglot (all_runs.zip).",
        ),
    ] = None,
    *,
    shape: Shape,
    json: Json = False,
) -> None:
    """Write the frozen tasks that runs are tested on into a small file, with the hash that proves them."""
    from metabench.cli import flags, inspect_data

    task = flags.describe_task(name, split, option or [], **shape)
    if listed is None:
        drawn = inspect_data.write_tasks(out, task, part, tasks or 1000)
    elif refused := [*(["tasks"] if tasks else []), *(key for key in shape if key != "labels")]:
        raise MetabenchError(f"--from: says what `{'` and `'.join(refused)}` would; leave out the latter")
    else:
        drawn = inspect_data.write_listed(out, task, part, listed)
    if json:
        print_json({"file": out, **drawn}, indent=None)
    else:
        typer.echo(f"{out}: {drawn['tasks']} tasks of {part} of {drawn['dataset']}, hash {drawn['hash']}")


@app.command()
@guarded()
def check(
    name: Named,
    split: Split = None,
    option: Options = None,
    shot: Shot = 1,
    query: Queries = 15,
    near: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=32,
            help="Also name images whose perceptual hashes differ in so many of 64 bits at most.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Look for images that repeat, blank images and classes too small; exit code 1 if there are any."""
    from metabench import data
    from metabench.cli import flags, inspect_data

    splits = data.load(flags.describe_task(name, split, option or []))
    problems = inspect_data.problems(splits, shot + query, near)
    if json:
        print_json({"dataset": splits.name, **problems})
    else:
        titles = {
            "in_two_splits": "images in two splits",
            "in_two_classes": "images in two classes of one split",
            "repeated": "images several times in one class",
            "near": f"images nearly like one before (--near {near})",
            "blank": "images of one colour",
            "too_small": f"classes with fewer than {shot + query} examples (--shot {shot} --query {query})",
        }
        typer.echo("\n".join(inspect_data.counted(splits)))
        for key, findings in problems.items():
            typer.echo(f"{titles[key]}: {len(findings)}")
            for finding in findings[:SHOWN]:
                typer.echo(f"  {finding}")
            if len(findings) > SHOWN:
                typer.echo(f"  and {len(findings) - SHOWN} more; --json lists all")
    if any(problems.values()):
        raise typer.Exit(1)
