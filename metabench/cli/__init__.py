"""The command line: what may be typed; the work, and every heavy import, is in the modules beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from metabench import __version__
from metabench.cli import datasets, show, simulations
from metabench.cli.base import Json, Options, Split, guarded, parts
from metabench.cli.finish import finish
from metabench.cli.options import From, ModelCommand, takes_models

app = typer.Typer(
    name="metabench",
    help="Search, train and compare meta-learning algorithms that learn from a handful of examples.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1; auto takes a GPU where there is one.")]
Budget = Annotated[
    dict[str, Any],
    From(
        "BudgetConfig",
        ("trials", "tasks", "sampler", "scheduler", "validation_tasks", "seeds"),
        help={"tasks": "Meta-train tasks of a full run; the grace keeps its share."},
        default="the space's",
    ),
]
Run = Annotated[dict[str, Any], From("RunConfig", ("tasks", "validation_tasks", "seed"))]
Network = Annotated[
    dict[str, Any], From("NetworkConfig", names={"name": "network", "options": "network_option"})
]
Task = Annotated[
    dict[str, Any],
    From(
        "TaskConfig",
        names={"options": "option", "augment": "distort"},
        help={
            "options": "A setting of the data set.",
            "augment": "How far images are distorted where `--set augment=...` asks for it.",
        },
    ),
]


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


@app.command(cls=ModelCommand)
@guarded("The same command continues where it stopped.")
@takes_models
def search(
    space: Annotated[
        Path,
        typer.Argument(
            help="YAML file of the search space; or, with --time, a folder or archive of pictures in folders "
            "of classes, or a data set's name.",
            show_default=False,
        ),
    ],
    time: Annotated[
        str | None,
        typer.Option(
            help="90s, 30m or 1h: look at the data, measure speeds here, choose a space, be done by then. "
            "Too short a time is refused with the minutes that are enough."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder that holds search folders.")] = Path("runs"),
    storage: Annotated[
        str | None,
        typer.Option(help="s3://BUCKET/FOLDER or gs://...: keep search folders there; --out holds a copy."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the search folder; else the file's, or the data's.")
    ] = None,
    *,
    budget: Budget,
    task: Annotated[
        dict[str, Any],
        From(
            "TaskConfig",
            ("way", "shot", "split", "options"),
            names={"options": "option"},
            help={"options": "A setting of the data set."},
            default="with --time, what fits; else the space's",
        ),
    ],
    algorithms: Annotated[
        list[str] | None, typer.Option(help="Only these of the space's, with commas, or given again.")
    ] = None,
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
    finish_now: Annotated[
        bool,
        typer.Option(
            "--finish-now",
            help="Continue, but begin no trial, or no final run where those have begun: test what there is.",
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
    from metabench.search.progress.terminal import Terminal

    chosen = parts(algorithms) or None
    with Terminal(quiet or plan) as terminal:  # what is imported from here on takes seconds
        from metabench.cli import run

        run.search(
            space,
            out,
            storage,
            name,
            budget,
            chosen,
            terminal=terminal,
            time=time,
            task=task,
            plan=plan,
            fetch=fetch,
            address=address,
            workers=workers,
            cpus_per_trial=cpus_per_trial,
            gpus_per_trial=gpus_per_trial,
            resume=resume,
            accept=accept_changes,
            finish_now=finish_now,
            warm_start=warm_start,
            seed=seed,
            quiet=quiet,
            as_json=json,
        )


@app.command(cls=ModelCommand)
@guarded("The same command continues from the last report.")
@takes_models
def train(
    *,
    name: Annotated[dict[str, Any], From("RunConfig", ("algorithm",))],
    task: Task,
    network: Network,
    run: Run,
    reports: Annotated[
        int | None, typer.Option(min=1, help=r"Meta-validations, evenly spaced. \[default: 10]")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value: a setting of the algorithm.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Run folder, or its config.json: train that run, but for what else is typed."),
    ] = None,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Run folder; named after the run if not given.")] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Folder for a profile of meta-steps 4 to 6, for Perfetto.")
    ] = None,
    json: Json = False,
) -> None:
    """Train one algorithm into a run folder, without Ray; the same command continues what was stopped.

    It needs --algorithm and --dataset; or --config, which trains a recorded run again: what else is typed
    takes the place of what was recorded.
    """
    from metabench.cli import flags
    from metabench.cli import run as commands
    from metabench.training import run as runs

    recorded = None if config is None else runs.read_config(config)
    described = flags.describe_run(task, network, {**name, **run}, set_ or [], reports, recorded)
    commands.train(described, out, device, json, profile, config)


@app.command()
@guarded()
def test(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    tasks: Annotated[int, typer.Option(min=2, help="Frozen meta-test tasks.")] = 1000,
    task_list: Annotated[
        Path | None, typer.Option(help="File of `metabench datasets tasks` with the tasks to take instead.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Another data set to be tested on; its tasks are like the run's.")
    ] = None,
    split: Split = None,
    option: Options = None,
    unlabelled: Annotated[
        int | None, typer.Option(min=0, help="Unlabelled images of each class, other than the run's.")
    ] = None,
    distractors: Annotated[
        int | None, typer.Option(min=0, help="Further classes that have as many, other than the run's.")
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Adapt and predict on frozen meta-test tasks, and record that the meta-test split was opened."""
    from metabench.cli import run as commands

    beside = {"test_unlabelled": unlabelled, "test_distractors": distractors}
    commands.test(run, tasks, task_list, (dataset, split, option or []), beside, device, json)


@app.command(cls=ModelCommand)
@guarded("The same command goes on with the acquisitions that are left.")
@takes_models
def label(
    run: Annotated[
        list[Path], typer.Argument(help="Run folders, of the same data and ways.", show_default=False)
    ],
    acquire: Annotated[
        list[str] | None,
        typer.Option(
            help=r"What says which labels to ask for, with commas. \[default: random,entropy,k_centre,oracle]"
        ),
    ] = None,
    *,
    labels: Annotated[dict[str, Any], From("LabelConfig", module="metabench.acquisition.config")],
    reach: Annotated[float, typer.Option(help="Accuracy whose number of labels is said.")] = 0.9,
    out: Annotated[
        Path | None, typer.Option(help="Folder of what comes out; named after the first run if not given.")
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Score runs while acquisitions ask for labels of a pool: how good is the learner after how many?"""
    from metabench.cli.label import label as show_labels

    show_labels(run, parts(acquire), labels, reach, out, device, json)


@app.command()
@guarded()
def predict(
    run: Annotated[
        str, typer.Argument(help="Run folder, or folder or address of a search.", show_default=False)
    ],
    pictures: Annotated[
        list[str],
        typer.Argument(help="Pictures to classify: files, folders, patterns in quotes.", show_default=False),
    ],
    support: Annotated[
        Path, typer.Option(help="Folder of the new classes: class/picture.png.", show_default=False)
    ],
    row: Annotated[
        str | None,
        typer.Option(help="Row of a search, such as maml:tuned; else its best tuned one by confirmation."),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(help="Also print sets of classes that hold the right one so often, such as 0.9."),
    ] = None,
    abstain: Annotated[
        bool,
        typer.Option("--abstain", help="No answer where the set, at 0.9 unless said, is not of one class."),
    ] = False,
    device: Device = "auto",
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print a table for a spreadsheet.")] = False,
) -> None:
    """Learn new classes from a few pictures of each, and say of other pictures which class they show."""
    from metabench.cli.predict import predict as show_predictions
    from metabench.core import MetabenchError

    if json and csv:
        raise MetabenchError("--json and --csv: print one of them; leave the other out")
    form: Literal["text", "json", "csv"] = "json" if json else "csv" if csv else "text"
    show_predictions(run, support, pictures, row, device, form, coverage, abstain)


@app.command()
@guarded()
def export_model(
    run: Annotated[
        str, typer.Argument(help="Run folder, or folder or address of a search.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.", show_default=False)],
    to: Annotated[
        Literal["onnx", "torch"],
        typer.Option(help="ONNX, which runs without torch; or a program of torch.export."),
    ] = "onnx",
    support: Annotated[
        Path | None,
        typer.Option(help="Folder of classes to export it with: class/picture.png; else they come later."),
    ] = None,
    row: Annotated[
        str | None,
        typer.Option(help="Row of a search, such as maml:tuned; else its best tuned one by confirmation."),
    ] = None,
) -> None:
    """Write a run as a folder that classifies pictures without metabench: a model and a small predictor."""
    from metabench.cli.predict import export

    export(run, out, to, support, row)


app.command(cls=ModelCommand)(simulations.simulate)


show.add_to(app)
app.command()(guarded()(finish))


@app.command()
@guarded()
def algorithms(
    names: Annotated[list[str] | None, typer.Argument(help="Which; all where none is named.")] = None,
    json: Json = False,
) -> None:
    """List the algorithms and their settings."""
    from metabench.cli import catalogue

    catalogue.algorithms(names or [], json)


app.add_typer(datasets.app, name="datasets")


def main() -> None:
    """Run the command that the user typed."""
    app()
