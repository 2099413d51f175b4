"""The command line: what may be typed; the work, and every heavy import, is in the modules beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from metabench import __version__
from metabench.cli import datasets, results, simulate
from metabench.cli.base import Distractors, Domains, Json, MostShots, Unlabelled, guarded

app = typer.Typer(
    name="metabench",
    help="Search, train and compare meta-learning algorithms that learn from a handful of examples.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1; auto takes a GPU where there is one.")]
Folder = Annotated[str, typer.Argument(help="Folder or address of a search or a run.", show_default=False)]


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
    storage: Annotated[
        str | None,
        typer.Option(help="s3://BUCKET/FOLDER or gs://...: keep search folders there; --out holds a copy."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the search folder; else the file's.")] = None,
    trials: Annotated[int | None, typer.Option(help="Settings tried an algorithm, for the space's.")] = None,
    tasks: Annotated[
        int | None,
        typer.Option(help="Meta-train tasks of a full run, for the space's; the grace keeps its share."),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="tpe, random, gp, cma-es or qmc: what proposes, for the space's.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="asha, none or top_k: who goes on, for the space's.")
    ] = None,
    validation_tasks: Annotated[
        int | None, typer.Option(help="Frozen meta-validation tasks at each rung, for the space's.")
    ] = None,
    algorithms: Annotated[str | None, typer.Option(help="Only these of the space's, with commas.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Final runs an algorithm, for the space's.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join; without it, Ray starts on this machine.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Nodes for trials that the cluster's autoscaler may go up to."),
    ] = None,
    cpus_per_trial: Annotated[int, typer.Option(min=1, help="Cores of each trial.")] = 1,
    gpus_per_trial: Annotated[
        float | None,
        typer.Option(min=0.0, help="GPUs of each trial: a share, such as 0.25, or a number; else what fits."),
    ] = None,
    fetch: Annotated[
        str | None,
        typer.Option(help="official, or a mirror's address: nodes that lack the data download them."),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Start nothing; measure speeds here and say what runs where, how long."),
    ] = False,
    resume: Annotated[
        Literal["auto", "never", "must"],
        typer.Option(help="Continue what is there, never, or insist."),
    ] = "auto",
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="Continue with a larger budget, more algorithms or another version, and record it.",
        ),
    ] = False,
    warm_start: Annotated[
        str | None,
        typer.Option(help="Folder of an earlier search, or its trials.jsonl: what it found is known here."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    json: Json = False,
) -> None:
    """Search each algorithm's hyperparameters with one budget, and rank the algorithms on meta-test."""
    from metabench.cli import run

    budget = {
        "trials": trials,
        "tasks": tasks,
        "seeds": seeds,
        "sampler": sampler,
        "scheduler": scheduler,
        "validation_tasks": validation_tasks,
    }
    chosen = None if algorithms is None else [part.strip() for part in algorithms.split(",")]
    run.search(
        space,
        out,
        storage,
        name,
        budget,
        chosen,
        plan=plan,
        fetch=fetch,
        address=address,
        workers=workers,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        resume=resume,
        accept=accept_changes,
        warm_start=warm_start,
        seed=seed,
        quiet=quiet,
        as_json=json,
    )


@app.command()
@guarded("The same command continues from the last report.")
def train(
    algorithm: Annotated[str, typer.Option(help="Name of an algorithm; see `metabench algorithms`.")],
    dataset: Annotated[str, typer.Option(help="Name of a data set; see `metabench datasets`.")],
    split: Annotated[str | None, typer.Option(help="Named split of the data set.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="key=value: a setting of the data set.")] = None,
    way: Annotated[
        str, typer.Option(help="Classes in a task: 5, or 3-10 drawn for each; 1 for regression.")
    ] = "5",
    shot: Annotated[
        str, typer.Option(help="Support examples a class, or points of a function: 1, or 1-5.")
    ] = "1",
    query: Annotated[int, typer.Option(help="Query examples a class in meta-training.")] = 5,
    test_query: Annotated[int, typer.Option(help="Query examples a class in evaluation.")] = 15,
    most_shots: MostShots = None,
    unlabelled: Unlabelled = 0,
    distractors: Distractors = 0,
    domains: Domains = "any",
    distort: Annotated[
        list[str] | None,
        typer.Option(help="key=value: how far images are distorted where `--set augment=...` asks for it."),
    ] = None,
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
    profile: Annotated[
        Path | None, typer.Option(help="Folder for a profile of meta-steps 4 to 6, for Perfetto.")
    ] = None,
    json: Json = False,
) -> None:
    """Train one algorithm into a run folder, without Ray; the same command continues what was stopped."""
    from metabench.cli import flags
    from metabench.cli import run as commands

    task = {
        "dataset": dataset,
        "split": split,
        "way": way,
        "shot": shot,
        "query": query,
        "test_query": test_query,
        "most_shots": most_shots,
        "unlabelled": unlabelled,
        "distractors": distractors,
        "domains": domains,
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
    config = flags.describe_run(algorithm, task, option or [], distort or [], net, run, set_ or [], reports)
    commands.train(config, out, device, json, profile)


@app.command()
@guarded()
def test(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    tasks: Annotated[int, typer.Option(min=2, help="Frozen meta-test tasks.")] = 1000,
    task_list: Annotated[
        Path | None, typer.Option(help="File of `metabench datasets tasks` with the tasks to take instead.")
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Adapt and predict on frozen meta-test tasks, and record that the meta-test split was opened."""
    from metabench.cli import run as commands

    commands.test(run, tasks, task_list, device, json)


app.command()(simulate.simulate)


@app.command()
@guarded()
def status(folder: Folder, json: Json = False) -> None:
    """Show how a search stands: trials, rungs, incumbents, budget spent, nodes, expected end."""
    from metabench.cli import status as standing

    standing.show(folder, json)


results.add_to(app)


@app.command()
@guarded()
def report(
    folders: Annotated[
        list[str], typer.Argument(help="Folders or addresses of searches and runs.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(help="HTML file to write; its pictures lie beside it as PNG and SVG.")
    ] = Path("report.html"),
) -> None:
    """Write one HTML file of searches and runs: leaderboard, curves, hyperparameters, episodes, cost."""
    from metabench import report as reporting

    reporting.show(folders, out)


@app.command()
@guarded()
def tensorboard(
    folder: Folder,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0 for a free one.")
    ] = 6006,
) -> None:
    """Show a search or a run in TensorBoard, to this machine only."""
    from metabench.cli import show

    show.tensorboard(folder, port)


@app.command()
@guarded()
def algorithms(json: Json = False) -> None:
    """List the algorithms and their settings."""
    from metabench.cli import catalogue

    catalogue.algorithms(json)


app.add_typer(datasets.app, name="datasets")


def main() -> None:
    """Run the command that the user typed."""
    app()
