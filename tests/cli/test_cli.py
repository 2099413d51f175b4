"""The command line: what each command prints and leaves behind, and what it does not import."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
import typer
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner, Result

from metabench import __version__, algorithms, data
from metabench import search as searching
from metabench.cli import app, run
from metabench.cli.base import with_flags
from metabench.core import GROUPED, signals
from metabench.storage import files, tensors
from tests.support import small

LOAD = data.load
COMMANDS = [
    *(
        "search",
        "train",
        "test",
        "label",
        "predict",
        "simulate",
        "status",
        "leaderboard",
        "compare",
        "across",
        "export-model",
    ),
    *("export", "report", "tensorboard", "algorithms", "datasets"),
]
TASK = ["--dataset", "glyphs", "--way", "3", "--query", "2", "--test-query", "3", "--width", "4"]
BUDGET = ["--tasks", "8", "--reports", "2", "--validation-tasks", "4"]
TRAIN = [
    "train",
    "--algorithm",
    "maml",
    *TASK,
    *BUDGET,
    "--set",
    "inner_steps=1",
    "--set",
    "task_batch_size=4",
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train once, by a plain command and by one with many settings, for tests of what comes after."""
    folder = tmp_path_factory.mktemp("kept")
    settings = ["--set", "inner_lr=0.3", "--set", "outer_lr=0.0037", "--set", "augment=support"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(data, "load", lambda task, root=None: small.splits())
        output(*TRAIN, "--out", "run")
        output(*TRAIN, "--way", "2-3", *settings, "--distort", "shear=0.3", "--out", "first")
    return folder


@pytest.fixture
def trained(in_an_empty_folder: None, kept: Path) -> Path:
    """Put the plain run here, as if it had been trained here."""
    return Path(shutil.copytree(kept / "run", "run"))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of its own, where every data set is the small one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "load", lambda task, root=None: small.splits())


def metabench(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def output(*args: object) -> str:
    result = metabench(*args)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def in_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, typer.testing; from metabench.cli import app;"
        "print(typer.testing.CliRunner().invoke(app, ['--help']).output);"
        "heavy = {'torch', 'ray', 'optuna', 'numpy', 'pandas', 'scipy', 'pydantic', 'yaml', 'matplotlib'};"
        "print('heavy:', sorted(heavy & sys.modules.keys()))"
    )
    text = in_python(code)
    assert all(f" {command} " in text for command in COMMANDS)
    assert "heavy: []" in text


@pytest.mark.usefixtures("trained")
def test_results_are_shown_without_importing_torch_or_ray() -> None:
    code = (
        "import sys; from metabench.cli import show; show.leaderboard(['run']);"
        "print({'torch', 'ray'} & sys.modules.keys())"
    )
    shown = in_python(code)
    assert "maml" in shown
    assert shown.splitlines()[-1] == "set()"


def test_commands_that_do_not_search_work_without_ray_and_optuna() -> None:
    code = (
        "import sys; sys.modules['ray'] = sys.modules['optuna'] = None;"  # importing either would raise
        "from metabench.cli import catalogue, flags, run; catalogue.algorithms([], True)"
    )
    assert {entry["name"] for entry in json.loads(in_python(code))} >= {"maml", "maml_pp"}


def test_settings_in_a_message_are_written_as_the_options_of_the_command() -> None:
    def command(
        folder: Annotated[str, typer.Argument()], validation_tasks: int = 1, set_: str = "", name: str = ""
    ) -> None: ...

    message = "validation_tasks=1: raise `validation_tasks`, or `grace`\nfolder=`folder`: take another `name`"
    shown = "--validation-tasks=1: raise --validation-tasks, or `grace`\nfolder=`folder`: take another --name"
    assert with_flags(message, command) == shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    assert "--help" in output(command, "--help")


def test_the_version_is_printed() -> None:
    assert output("--version").strip() == __version__


def test_algorithms_are_listed_with_every_setting() -> None:
    listed = json.loads(output("algorithms", "--json"))
    assert [entry["name"] for entry in listed] == algorithms.names()
    assert all(
        {"name", "type", "default", "help"} <= row.keys() for entry in listed for row in entry["settings"]
    )
    kinds = {"classification", "regression", "control", GROUPED}
    assert {kind for entry in listed for kind in entry["kinds"]} == kinds
    text = output("algorithms")
    assert all(name in text for name in algorithms.names())


def test_algorithms_can_be_asked_for_by_what_papers_call_them() -> None:
    listed = json.loads(output("algorithms", "RL²", "MAML++", "rl2", "--json"))
    assert [entry["name"] for entry in listed] == ["rl2", "maml_pp"]
    refused = metabench("algorithms", "mamll", "protonet", "r2d")
    assert refused.exit_code == 2
    assert [line.partition(" Allowed:")[0] for line in refused.output.splitlines()] == [
        "metabench: algorithm 'mamll': unknown. Did you mean 'maml'?",
        "algorithm 'r2d': unknown. Did you mean 'r2d2'?",
    ]


def test_data_sets_are_listed_and_say_whether_they_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METABENCH_DATA", raising=False)
    here = {entry["name"]: entry["is_here"] for entry in json.loads(output("datasets", "--json"))}
    here.pop("half_cheetah")  # where MuJoCo is installed
    assert [name for name, is_here in here.items() if is_here] == [
        "array",
        "bandit",
        "cartpole",
        "folder",
        "glyphs",
        "mixture",
        "navigation",
        "navigation_sparse",
        "pendulum",
        "sinusoid",
        "table",
        "tabular",
        "terrain",
        "zafar",
    ]
    kinds = {entry["name"]: entry["kind"] for entry in json.loads(output("datasets", "--json"))}
    assert [name for name, kind in kinds.items() if kind == "regression"] == ["sinusoid"]
    control = [name for name, kind in kinds.items() if kind == "control"]
    assert " ".join(control) == ("bandit cartpole half_cheetah navigation navigation_sparse pendulum tabular")
    assert "quickdraw (not here)" in output("datasets")


def test_training_leaves_a_run_folder_that_test_and_leaderboard_read() -> None:
    trained = json.loads(output(*TRAIN, "--out", "run", "--json"))
    assert (trained["run"], trained["tasks_seen"], trained["finite"]) == ("run", 8, True)
    assert {"config.json", "reports.jsonl", "weights.safetensors"} <= {
        path.name for path in Path("run").iterdir()
    }
    scored = json.loads(output("test", "run", "--tasks", 6, "--json"))
    assert 0 <= scored["ci_low"] <= scored["accuracy"] <= scored["ci_high"] <= 1
    (row,) = [
        row for row in json.loads(output("leaderboard", "run", "--json"))["rows"] if row["variant"] == "run"
    ]
    assert (row["algorithm"], row["accuracy"]) == ("maml", scored["accuracy"])
    assert (row["ci_low"], row["ci_high"]) == (scored["ci_low"], scored["ci_high"])
    shown = output("test", "run", "--tasks", 6)
    assert row["hardest"]
    assert all(f"{name} {share:.0%} of {queries}" in shown for name, share, queries in row["hardest"])


def test_a_transductive_run_is_scored_both_ways_of_asking() -> None:
    output(*TRAIN, "--batch-norm", "transductive", "--out", "run")
    shown, scored = (
        output("test", "run", "--tasks", 6),
        json.loads(output("test", "run", "--tasks", 6, "--json")),
    )
    alone = files.read_json(Path("run") / files.TEST)["accuracy_one_at_a_time"]
    assert scored["accuracy_one_at_a_time"] == pytest.approx(sum(alone) / 6) != scored["accuracy"]
    assert "holds, as all below does, for all queries of a task classified together" in shown
    low, mean, high = (
        f"{100 * scored[key]:.2f}%" for key in ("one_low", "accuracy_one_at_a_time", "one_high")
    )
    assert f"one at a time: {mean}, 95 % interval [{low}, {high}]" in shown


def test_an_interval_of_few_tasks_ends_at_0_and_100_percent_wherever_it_is_shown() -> None:
    # Two tasks of few queries: Student's interval would pass both ends by far.
    lines = output(*TRAIN, "--out", "run", "--validation-tasks", 2).splitlines()
    shown = re.search(r"run: ([\d.]+)% \[([\d.]+)%, ([\d.]+)%\] on meta-validation", lines[-1])
    assert shown is not None
    mean, low, high = map(float, shown.groups())
    assert 0 <= low < mean < high <= 100
    events = EventAccumulator(str(Path("run") / files.TENSORBOARD)).Reload()
    ends = [events.Scalars(f"accuracy_details/meta_validation/{end}")[-1].value for end in ("low", "high")]
    assert ends == pytest.approx([low / 100, high / 100], abs=1e-4)


@pytest.mark.parametrize("source", ["first", "first/config.json", "copied.json"])
def test_a_recorded_run_is_trained_again_to_the_same_weights(source: str, kept: Path) -> None:
    shutil.copytree(kept / "first", "first")
    Path("copied.json").write_bytes(Path("first/config.json").read_bytes())
    output("train", "--config", source, "--out", "again")
    first, again = (json.loads(Path(folder, "config.json").read_text()) for folder in ("first", "again"))
    assert (first["run"], first["config_hash"]) == (again["run"], again["config_hash"])
    (one, record), (other, record_again) = (
        tensors.load(Path(folder, "weights.safetensors"), "cpu") for folder in ("first", "again")
    )
    assert record == record_again
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    first, again = (files.read_lines(Path(folder, "reports.jsonl")) for folder in ("first", "again"))
    measured = {"seconds": 0, "peak_memory": 0, "logs": {}}
    assert [{**line, **measured} for line in first] == [{**line, **measured} for line in again]


def test_what_is_typed_beside_a_recorded_run_takes_the_place_of_what_was_recorded() -> None:
    output(*TRAIN, "--option", "n_examples=25", "--distort", "rotate=3", "--out", "first")
    typed = ["--seed", 7, "--shot", 2, "--norm", "none", "--set", "inner_lr=0.3", "--distort", "shear=0.3"]
    output("train", "--config", "first", *typed, "--out", "other")
    first, other = (files.read_json(Path(folder, "config.json"))["run"] for folder in ("first", "other"))
    first["task"] |= {"shot": 2, "augment": {**first["task"]["augment"], "shear": 0.3}}
    first["network"]["norm"], first["seed"], first["hyperparameters"]["inner_lr"] = "none", 7, 0.3
    assert other == first  # its ten reports and the option of the data set among them
    output("train", "--config", "first", "--algorithm", "protonet", "--tasks", 4, "--out", "another")
    another = json.loads(Path("another/config.json").read_text())["run"]
    assert another["hyperparameters"] == vars(algorithms.hparams("protonet", {}))
    assert (another["rungs"], another["task"]) == ([1, 2, 3, 4], {**first["task"], **another["task"]})


def test_regression_is_trained_tested_and_ranked_by_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", LOAD)
    task = ["--dataset", "sinusoid", "--option", "functions=300", "--way", 1, "--shot", 10]
    network = ["--network", "mlp", "--width", 40, "--norm", "none", "--set", "inner_lr=0.01"]
    args = ["train", "--algorithm", "maml", *task, *network, *BUDGET, "--out", "run"]
    result = metabench(*args)
    assert result.exit_code == 0, result.output
    assert "tasks: error " in result.stderr
    assert "%" not in result.stdout
    last = json.loads(Path("run/reports.jsonl").read_text().splitlines()[-1])
    trained = json.loads(output(*args, "--json"))
    assert trained["val_error"] == last["val_loss"] == -last["val_score"] > 0
    tested = output("test", "run", "--tasks", 6)
    assert "maml, error " in tested
    scored = json.loads(output("test", "run", "--tasks", 6, "--json"))
    assert scored["ci_low"] < scored["error"] < scored["ci_high"]
    assert not [key for shown in (trained, scored, last) for key in shown if shown[key] and "accuracy" in key]
    (row,) = json.loads(output("leaderboard", "run", "--json"))["rows"]
    assert (row["error"], row["val_error"], row["accuracy"]) == (scored["error"], trained["val_error"], None)
    assert "Error" in output("leaderboard", "run")


def test_settings_are_typed_by_the_algorithm_and_kept_with_the_run() -> None:
    output(*TRAIN, "--out", "run", "--set", "inner_lr=1", "--set", "adapt_norm=true", "--seed", 3)
    run = json.loads(Path("run/config.json").read_text())["run"]
    kept = run["hyperparameters"]
    assert (kept["inner_lr"], kept["inner_steps"], kept["adapt_norm"], run["seed"]) == (1.0, 1, True, 3)
    assert isinstance(kept["inner_lr"], float)


@pytest.mark.usefixtures("trained")
def test_the_same_training_twice_does_the_work_once() -> None:
    before = Path("run/reports.jsonl").read_bytes()
    assert "8 tasks" in output(*TRAIN, "--out", "run")
    assert Path("run/reports.jsonl").read_bytes() == before


def test_a_run_without_a_name_is_named_after_what_it_is() -> None:
    output(*TRAIN)
    assert Path("runs/maml-glyphs-3w1s-seed0/config.json").is_file()


def test_a_run_is_tested_on_other_data_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", LOAD)
    output(*TRAIN, "--out", "run", "--option", "n_classes=30", "--option", "n_examples=6")
    test = ["test", "run", "--tasks", 4]
    text = output(*test, "--option", "seed=1")
    assert "over 4 meta-test tasks of glyphs/random, not the run's own data" in text
    assert [path.name[:19] for path in Path("run").glob("test*.json")] == ["test-glyphs-random-"]
    assert "not the run" not in output(*test, "--dataset", "glyphs")
    assert Path("run/test.json").is_file()
    result = metabench(*test, "--dataset", "sinusoid")
    assert result.exit_code == 2
    assert "was trained for classification, and sinusoid/" in result.stderr


def test_training_that_diverges_says_so_and_fails() -> None:
    result = metabench(
        *TRAIN, "--out", "run", "--norm", "none", "--set", "inner_lr=1e30", "--set", "outer_lr=1e30"
    )
    assert result.exit_code == 1
    assert "diverged" in result.stderr


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("form", ["table", "json", "csv", "md", "latex"])
def test_a_leaderboard_is_printed_in_every_format(form: str) -> None:
    text = output("leaderboard", "run", "--format", form)
    assert "maml" in text
    assert "chance" in text


def test_tensorboard_serves_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(os, "execv", lambda path, command: seen.extend(command))
    Path("runs/demo/tb").mkdir(parents=True)
    output("tensorboard", "runs/demo", "--port", 7007)
    flags = dict(zip(seen[3::2], seen[4::2], strict=True))
    assert flags == {"--logdir": str(Path("runs/demo/tb")), "--host": "127.0.0.1", "--port": "7007"}


SPACE = {
    "task": {"dataset": "glyphs", "way": 3, "query": 2, "test_query": 3},
    "budget": {"tasks": 90, "trials": 3, "grace": 10},
    "algorithms": {"maml": {}, "fomaml": {}},
}


def test_search_hands_the_space_and_the_flags_over(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def search(space: Any, out: Path, name: str, **options: Any) -> Path:
        seen.update(space=space, out=out, name=name, **options)
        return Path(shutil.copytree(trained, out / name))

    monkeypatch.setattr(searching, "search", search)
    Path("my_space.yaml").write_text(yaml.safe_dump(SPACE))
    flags = ["--trials", 2, "--tasks", 9, "--algorithms", "fomaml", "--seeds", 1, "--seed", 5, "--quiet"]
    flags += ["--sampler", "random", "--scheduler", "top_k", "--validation-tasks", 30, "--warm-start", "x"]
    board = json.loads(output("search", "my_space.yaml", *flags, "--resume", "never", "--json"))
    assert board["rows"]
    budget = seen["space"].budget
    assert (budget.trials, budget.tasks, budget.grace, budget.seeds) == (2, 9, 1, 1)
    assert (budget.sampler, budget.scheduler, budget.validation_tasks) == ("random", "top_k", 30)
    assert seen["warm_start"] == "x"
    assert list(seen["space"].algorithms) == ["fomaml"]
    assert (seen["out"], seen["name"]) == (Path("runs"), "my_space")
    assert (seen["address"], seen["resume"], seen["seed"], seen["quiet"]) == (None, "never", 5, True)


@pytest.mark.parametrize(
    ("name", "args"), [("train", TRAIN), ("search", ["search", "space.yaml"])], ids=["train", "search"]
)
def test_ctrl_c_exits_with_130_and_says_how_to_continue(
    name: str, args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, name, interrupted)
    result = metabench(*args)
    assert result.exit_code == 130
    assert "The same command continues" in result.stderr


@pytest.mark.parametrize("name", signals.SIGNALS)
def test_a_signal_exits_with_75_also_when_ray_makes_a_plain_keyboard_interrupt_of_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waiting(*args: Any, **kwargs: Any) -> None:
        with contextlib.suppress(signals.Interrupted):
            os.kill(os.getpid(), signal.Signals[name])
        raise KeyboardInterrupt

    monkeypatch.setattr(signals, "_received", None)  # and forgotten again after the test
    monkeypatch.setattr(run, "search", waiting)
    result = metabench("search", "space.yaml")
    assert result.exit_code == signals.TRY_AGAIN
    assert f"stopped by {name}. The same command continues" in result.stderr
