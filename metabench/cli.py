"""The command line: what may be typed; the work, and every heavy import, is in the modules beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from metabench import __version__
from metabench.core import MetabenchError

app = typer.Typer(
    name="metabench",
    help="Search, train and compare meta-learning algorithms that learn from a handful of examples.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1; auto takes a GPU where there is one.")]
Folder = Annotated[Path, typer.Argument(help="Folder of a search or a run.", show_default=False)]


def guarded(stopped: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a user's mistake into one message and exit code 2, and Ctrl-C into a line and exit code 130.

    Args:
        stopped: what to say after Ctrl-C.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                command(*args, **kwargs)
            except MetabenchError as error:
                typer.echo(f"metabench: {error}", err=True)
                raise typer.Exit(2) from None
            except KeyboardInterrupt:
                typer.echo(f"\nmetabench: stopped. {stopped}".rstrip(), err=True)
                raise typer.Exit(130) from None

        return run

    return decorate


def _version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Search, train and compare meta-learning algorithms that learn from a handful of examples."""


@app.command()
@guarded("The same command continues where it stopped.")
def search(
    space: Annotated[Path, typer.Argument(help="YAML file of the search space.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder that holds search folders.")] = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Name of the search folder; else the file's.")] = None,
    trials: Annotated[int | None, typer.Option(help="Settings tried an algorithm, for the space's.")] = None,
    tasks: Annotated[
        int | None,
        typer.Option(help="Meta-train tasks of a full run, for the space's; the grace keeps its share."),
    ] = None,
    algorithms: Annotated[str | None, typer.Option(help="Only these of the space's, with commas.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Final runs an algorithm, for the space's.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join; without it, Ray starts on this machine.")
    ] = None,
    resume: Annotated[
        Literal["auto", "never", "must"],
        typer.Option(help="Continue what is there, never, or insist."),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    json: Json = False,
) -> None:
    """Search each algorithm's hyperparameters with one budget, and rank the algorithms on meta-test."""
    from metabench import commands

    budget = {"trials": trials, "tasks": tasks, "seeds": seeds}
    chosen = None if algorithms is None else [part.strip() for part in algorithms.split(",")]
    commands.search(
        space, out, name, budget, chosen, address=address, resume=resume, seed=seed, quiet=quiet, as_json=json
    )


@app.command()
@guarded("The same command continues from the last report.")
def train(
    algorithm: Annotated[str, typer.Option(help="Name of an algorithm; see `metabench algorithms`.")],
    dataset: Annotated[str, typer.Option(help="Name of a data set; see `metabench datasets`.")],
    split: Annotated[str | None, typer.Option(help="Named split of the data set.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="key=value: a setting of the data set.")] = None,
    way: Annotated[int, typer.Option(help="Classes in a task; 1 for regression.")] = 5,
    shot: Annotated[int, typer.Option(help="Support examples a class, or points of a function.")] = 1,
    query: Annotated[int, typer.Option(help="Query examples a class in meta-training.")] = 5,
    test_query: Annotated[int, typer.Option(help="Query examples a class in evaluation.")] = 15,
    network: Annotated[str, typer.Option(help="conv4, resnet12 or mlp.")] = "conv4",
    width: Annotated[int, typer.Option(help="Channels of each layer; of resnet12's first block.")] = 32,
    depth: Annotated[int, typer.Option(help="Hidden layers of an mlp.")] = 2,
    norm: Annotated[str, typer.Option(help="batch, group or none.")] = "batch",
    groups: Annotated[int, typer.Option(help="Groups of channels of group norm; must divide the width.")] = 4,
    batch_norm: Annotated[
        str, typer.Option(help="transductive, support_stats or with_support: what normalises queries.")
    ] = "transductive",
    shrink: Annotated[str, typer.Option(help="pool or stride: how conv4 halves an image.")] = "pool",
    readout: Annotated[str, typer.Option(help="flatten or mean: what conv4's head sees.")] = "flatten",
    tasks: Annotated[int, typer.Option(min=1, help="Meta-train tasks.")] = 10000,
    reports: Annotated[int, typer.Option(min=1, help="Meta-validations, evenly spaced.")] = 10,
    validation_tasks: Annotated[int, typer.Option(min=2, help="Frozen meta-validation tasks.")] = 200,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value: a setting of the algorithm."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Run folder; named after the run if not given.")] = None,
    json: Json = False,
) -> None:
    """Train one algorithm into a run folder, without Ray; the same command continues what was stopped."""
    from metabench import commands, flags

    task = {
        "dataset": dataset,
        "split": split,
        "way": way,
        "shot": shot,
        "query": query,
        "test_query": test_query,
    }
    net = {
        "name": network,
        "width": width,
        "depth": depth,
        "norm": norm,
        "groups": groups,
        "batch_norm": batch_norm,
        "shrink": shrink,
        "readout": readout,
    }
    run = {"tasks": tasks, "validation_tasks": validation_tasks, "seed": seed}
    config = flags.describe_run(algorithm, task, option or [], net, run, set_ or [], reports)
    commands.train(config, out, device, json)


@app.command()
@guarded()
def test(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    tasks: Annotated[int, typer.Option(min=2, help="Frozen meta-test tasks.")] = 1000,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Adapt and predict on frozen meta-test tasks, and record that the meta-test split was opened."""
    from metabench import commands

    commands.test(run, tasks, device, json)


@app.command()
@guarded()
def leaderboard(
    folders: Annotated[list[Path], typer.Argument(help="Folders of searches and runs.", show_default=False)],
    format: Annotated[Literal["table", "json", "csv", "md"], typer.Option(help="How to print it.")] = "table",
    json: Json = False,
) -> None:
    """Rank the algorithms of searches and runs, finished or running."""
    from metabench import views

    views.leaderboard(folders, "json" if json else format)


@app.command()
@guarded()
def tensorboard(
    folder: Folder,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0 for a free one.")
    ] = 6006,
) -> None:
    """Show a search or a run in TensorBoard, to this machine only."""
    from metabench import views

    views.tensorboard(folder, port)


@app.command()
@guarded()
def algorithms(json: Json = False) -> None:
    """List the algorithms and their settings."""
    from metabench import catalogue

    catalogue.algorithms(json)


datasets_app = typer.Typer(help="List, download, show and check the data sets.")
app.add_typer(datasets_app, name="datasets")

Named = Annotated[str, typer.Argument(help="Name of a data set.", show_default=False)]
Cut = Annotated[str | None, typer.Option(help="Named split of the data set.")]
Options = Annotated[list[str] | None, typer.Option(help="key=value: a setting of the data set.")]
Way = Annotated[int, typer.Option(min=1, help="Classes in a task; 1 for regression.")]
Shot = Annotated[int, typer.Option(min=1, help="Support examples a class, or points of a function.")]
Queries = Annotated[int, typer.Option(min=1, help="Query examples a class.")]


@datasets_app.callback(invoke_without_command=True)
@guarded()
def datasets(context: typer.Context, json: Json = False) -> None:
    """List the data sets, and whether their files are here; or download, show and check one."""
    if context.invoked_subcommand is None:
        from metabench import catalogue

        catalogue.datasets(json)
    elif json:
        raise MetabenchError(f"--json: must stand behind `{context.invoked_subcommand}`, not before it")


@datasets_app.command("list")
@guarded()
def datasets_list(json: Json = False) -> None:
    """List the data sets, their splits and options, and whether their files are here."""
    from metabench import catalogue

    catalogue.datasets(json)


@datasets_app.command()
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
    from metabench import catalogue

    catalogue.fetch(name, split, option or [], url, jobs, whole)


@datasets_app.command()
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
    from metabench import sheet

    sheet.show(name, split, option or [], out, way, shot, query, seed)


@datasets_app.command()
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
    from metabench import sheet

    sheet.check(name, split, option or [], shot, query, json)


def main() -> None:
    """Run the command that the user typed."""
    app()
