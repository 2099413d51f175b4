"""Every mistake in a training gives one message and exit code 2, and no run is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import Result

from metabench import PROTOCOL
from metabench.cli.flags import describe_run
from tests.cli.test_bad_input import SPACE, metabench, refused


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def unwritable() -> list[Path]:
    Path("a_file").write_text("")
    Path("read_only").mkdir(mode=0o555)
    folders = [Path("a_file") / "out", Path("/proc/out")]
    return folders if os.access("read_only", os.W_OK) else [*folders, Path("read_only") / "out"]


@pytest.mark.usefixtures("small_data")
def test_a_folder_that_cannot_be_written_is_refused() -> None:
    Path("space.yaml").write_text(yaml.safe_dump(SPACE))
    for out in unwritable():
        refused(metabench("search", "space.yaml", "--out", out), "cannot write")
        refused(train("--out", out), "cannot write")


def train(*flags: object) -> Result:
    task = ["--dataset", "glyphs", "--way", 3, "--query", 2, "--test-query", 3, "--width", 4]
    budget = ["--tasks", 8, "--reports", 1, "--validation-tasks", 4, "--set", "inner_steps=1"]
    return metabench("train", "--algorithm", "maml", *task, *budget, *flags)


SETTINGS = {
    "unknown setting": (["--set", "innr_lr=1"], "Did you mean 'inner_lr'?"),
    "setting without a value": (["--set", "inner_lr"], "must be key=value"),
    "word for a number": (["--set", "inner_lr=fast"], "inner_lr='fast': must be a number"),
    "fraction for a count": (["--set", "inner_steps=1.5"], "must be a whole number"),
    "number for a switch": (["--set", "adapt_norm=1"], "must be true or false"),
    "setting below its minimum": (["--set", "inner_steps=-1"], "must be >= 0"),
    "setting that is not a number": (["--set", "outer_lr=nan"], "must be finite"),
    "unknown choice": (["--set", "outer_optimizer=adamw"], "adam, sgd"),
    "unknown option": (["--option", "n_clases=30"], "Did you mean 'n_classes'?"),
    "unknown split": (["--split", "vinyals"], "split"),
    "one way": (["--way", "1"], "--way=1: glyphs is classification; way must be >= 2"),
    "no way": (["--way", "0"], "--way=0"),
    "no query": (["--test-query", "0"], "--test-query=0"),
    "no channels": (["--width", "0"], "--width=0"),
    "unknown network": (["--network", "conv5"], "Did you mean 'conv4'?"),
    "unknown batch norm mode": (["--batch-norm", "off"], "--batch-norm='off'"),
    "no tasks": (["--tasks", "0"], "--tasks"),
    "unknown device": (["--device", "tpu"], "--device tpu"),
    "unknown algorithm": (["--algorithm", "fomalm"], "Did you mean 'fomaml'?"),
    "unknown data set": (["--dataset", "omnigloth"], "Did you mean 'omniglot'?"),
}


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(("flags", "part"), SETTINGS.values(), ids=SETTINGS.keys())
def test_training_with_a_mistake_is_refused(flags: list[str], part: str) -> None:
    refused(train("--out", "out", *flags), part)
    assert not Path("out").exists()


def test_several_mistakes_in_training_are_reported_together() -> None:
    flags = [
        "--set",
        "innr_lr=1",
        "--set",
        "inner_steps=x",
        "--option",
        "sed=1",
        "--way",
        "0",
        "--width",
        "0",
    ]
    refused(train(*flags), "innr_lr", "inner_steps='x'", "sed", "--way=0", "--width=0")


def test_what_does_not_fit_the_kind_of_a_data_set_is_refused_together() -> None:
    task = ["--dataset", "sinusoid", "--set", "innr_lr=1", "--way", 2]
    refused(
        metabench("train", "--algorithm", "maml", *task),
        "--way=2: sinusoid is regression",
        "conv4",
        "Did you mean 'inner_lr'?",
    )
    refused(
        metabench("train", "--algorithm", "nearest_mean", "--dataset", "sinusoid", "--way", 1),
        "algorithm 'nearest_mean': not for regression (sinusoid). For regression: ",
        "conv4",
    )
    assert not Path("runs").exists()


@pytest.mark.usefixtures("small_data")
def test_another_run_is_not_overwritten() -> None:
    assert train("--out", "out").exit_code == 0
    before = Path("out/reports.jsonl").read_bytes()
    refused(train("--out", "out", "--seed", 1), "out", "seed")
    assert Path("out/reports.jsonl").read_bytes() == before


RECORDS: dict[str, tuple[dict[str, Any], str]] = {
    "another protocol": ({"protocol": 0}, "was made under protocol 0"),
    "unknown key": ({"taks": 3}, "run.json: 1 problem\n  taks: unknown key. Did you mean 'tasks'?"),
    "unknown key of the task": (
        {"task": {"dataset": "glyphs", "wya": 3}},
        "run.json: 1 problem\n  task.wya: unknown key. Did you mean 'way'?",
    ),
    "unknown setting": ({"hyperparameters": {"innr_lr": 0.1}}, "Did you mean 'inner_lr'?"),
    "other data": ({"data_fingerprint": "1" * 64}, "run.json: was trained on other data"),
}


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(("changes", "part"), RECORDS.values(), ids=RECORDS.keys())
def test_a_recorded_run_with_a_mistake_is_not_trained_again(changes: dict[str, Any], part: str) -> None:
    task = {"dataset": "glyphs", "way": 3, "query": 2, "test_query": 3}
    config = describe_run(task, {"width": 4}, {"algorithm": "maml", "tasks": 8}, ["inner_steps=1"], 1)
    record = {"protocol": PROTOCOL, "run": config.model_dump(mode="json")}
    for key, value in changes.items():
        (record if key in ("protocol", "data_fingerprint") else record["run"])[key] = value
    Path("run.json").write_text(json.dumps(record))
    refused(metabench("train", "--config", "run.json", "--out", "out"), part)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [(None, "no config.json"), ("{", "run.json"), ("[]", "run.json: does not describe a run")],
    ids=["missing", "torn", "another file"],
)
def test_what_records_no_run_is_not_trained(text: str | None, part: str) -> None:
    if text is not None:
        Path("run.json").write_text(text)
    refused(metabench("train", "--config", "run.json"), part)


def test_training_without_an_algorithm_or_a_data_set_says_what_is_missing() -> None:
    missing = "missing; name one, or give the --config of a run"
    refused(metabench("train", "--width", 0), f"--algorithm: {missing}", f"--dataset: {missing}", "--width=0")
