"""Every mistake a user can make gives one message and exit code 2, before anything starts."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from metabench.cli import app

SPACE: dict[str, Any] = {
    "task": {"dataset": "glyphs", "way": 3, "query": 2, "test_query": 3},
    "network": {"width": 4},
    "budget": {"tasks": 90, "trials": 3, "grace": 10},
    "algorithms": {"maml": {}, "fomaml": {}},
}
TASK = SPACE["task"]
BUDGET = SPACE["budget"]
RANGE = {"low": 0.1, "high": 1.0, "default": 0.5}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def metabench(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def refused(result: Result, *parts: str) -> str:
    """Check exit code 2, one message with these parts on stderr, no traceback, and nothing on stdout."""
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr, result.stderr
    return result.stderr


def refused_search(text: str, *parts: str) -> None:
    Path("space.yaml").write_text(text)
    message = refused(metabench("search", "space.yaml", "--out", "out"), *parts)
    assert "\nmetabench: space.yaml" in f"\n{message}"  # a slow machine says before that what it does
    assert not Path("out").exists()


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"bugdet": {}}, "bugdet: unknown key. Did you mean 'budget'?"),
    "unknown key inside": ({"task": {**TASK, "shots": 1}}, "task.shots: unknown key. Did you mean 'shot'?"),
    "missing block": ({"budget": None}, "budget"),
    "missing key": ({"budget": {"tasks": 90, "trials": 3}}, "budget.grace: missing"),
    "wrong type": ({"task": {**TASK, "way": "five"}}, "task.way='five'"),
    "number as text": ({"budget": {**BUDGET, "tasks": "90"}}, "budget.tasks='90'"),
    "zero trials": ({"budget": {**BUDGET, "trials": 0}}, "budget.trials=0"),
    "negative tasks": ({"budget": {**BUDGET, "tasks": -5}}, "budget.tasks=-5"),
    "unknown sampler": ({"budget": {**BUDGET, "sampler": "tpa"}}, "budget.sampler='tpa': should be 'tpe'"),
    "unknown scheduler": (
        {"budget": {**BUDGET, "scheduler": "hyperband"}},
        "should be 'asha', 'freeze_thaw',",
    ),
    "no more tasks for a second look": (
        {"budget": {**BUDGET, "borderline_tasks": 200}},
        "borderline_tasks=200: must be > validation_tasks=200",
    ),
    "a second look where all wait": (
        {"budget": {**BUDGET, "borderline_tasks": 500, "scheduler": "top_k"}},
        "borderline_tasks=500: with scheduler=top_k",
    ),
    "a second look without the rule that looks": (
        {"budget": {**BUDGET, "borderline_tasks": 500, "scheduler": "freeze_thaw"}},
        "borderline_tasks=500: with scheduler=freeze_thaw",
    ),
    "a model's end without a model": (
        {"budget": {**BUDGET, "stop_when": 0.5, "scheduler": "asha"}},
        "stop_when=0.5: scheduler=asha",
    ),
    "seconds without a number": ({"budget": {**BUDGET, "unit": "seconds"}}, "unit=seconds: needs `seconds`"),
    "seconds that do not count": ({"budget": {**BUDGET, "seconds": 60.0}}, "seconds=60.0: counts with"),
    "seconds where all wait": (
        {"budget": {**BUDGET, "unit": "seconds", "seconds": 60.0, "scheduler": "top_k"}},
        "scheduler=top_k needs to know how many trials",
    ),
    "steps without a number": (
        {"budget": {**BUDGET, "unit": "environment_steps"}},
        "unit=environment_steps: needs `environment_steps`",
    ),
    "steps where nobody acts": (
        {"budget": {**BUDGET, "unit": "environment_steps", "environment_steps": 1e6}},
        "budget.unit=environment_steps: ",
    ),
    "no seconds at all": ({"budget": {**BUDGET, "unit": "seconds", "seconds": 0.0}}, "budget.seconds=0.0"),
    "grace above tasks": ({"budget": {**BUDGET, "grace": 91}}, "grace=91: must be <= tasks=90"),
    "one way": ({"task": {**TASK, "way": 1}}, "task.way=1: glyphs is classification; way must be >= 2"),
    "no way": ({"task": {**TASK, "way": 0}}, "task.way=0"),
    "many ways of one function": (
        {"task": {"dataset": "sinusoid", "way": 5}},
        "task.way=5: sinusoid is regression, where a task is one function; set way to 1",
    ),
    "a network of images for points": ({"task": {"dataset": "sinusoid", "way": 1}}, "conv4"),
    "an algorithm of classes for a function": (
        {"task": {"dataset": "sinusoid", "way": 1}, "algorithms": {"maml": {}, "nearest_mean": {}}},
        "algorithm 'nearest_mean': not for regression (sinusoid). For regression: ",
    ),
    "no shot": ({"task": {**TASK, "shot": 0}}, "task.shot=0"),
    "no algorithm": ({"algorithms": {}}, "algorithms"),
    "algorithms as a list": ({"algorithms": ["maml"]}, "algorithms=['maml']"),
    "unknown algorithm": ({"algorithms": {"mamll": {}}}, "Did you mean 'maml'?"),
    "unknown data set": ({"task": {"dataset": "glyps"}}, "Did you mean 'glyphs'?"),
    "unknown split": (
        {"task": {**TASK, "dataset": "quickdraw", "split": "clodera"}},
        "Did you mean 'cloudera'?",
    ),
    "unknown option": ({"task": {**TASK, "options": {"n_clases": 30}}}, "Did you mean 'n_classes'?"),
    "wrong option": ({"task": {**TASK, "options": {"n_classes": "many"}}}, "n_classes='many'"),
    "unknown network": ({"network": {"name": "conv44"}}, "Did you mean 'conv4'?"),
    "unknown norm": ({"network": {"norm": "batsch"}}, "network.norm='batsch'"),
    "unknown batch norm mode": ({"network": {"batch_norm": "inductive"}}, "network.batch_norm='inductive'"),
    "unknown setting": ({"shared": {"inner_rl": 0.1}}, "Did you mean 'inner_lr'?"),
    "another algorithm's setting": (
        {"algorithms": {"maml": {"learned_rates": True}}},
        "algorithms.maml.learned_rates",
    ),
    "empty range": ({"shared": {"inner_lr": {**RANGE, "low": 1.0}}}, "the range is empty"),
    "log of a negative bound": ({"shared": {"inner_lr": {**RANGE, "low": -1.0, "log": True}}}, "must be > 0"),
    "log of zero": ({"shared": {"inner_lr": {**RANGE, "low": 0.0, "log": True}}}, "must be > 0"),
    "default outside": ({"shared": {"inner_lr": {**RANGE, "default": 2.0}}}, "must lie in [0.1, 1.0]"),
    "no default": ({"shared": {"inner_lr": {"low": 0.1, "high": 1.0}}}, "shared.inner_lr.default: missing"),
    "infinite bound": ({"shared": {"inner_lr": {**RANGE, "high": float("inf")}}}, "finite"),
    "range outside the setting's": (
        {"shared": {"outer_lr": {**RANGE, "low": -0.1}}},
        "outer_lr.low=-0.1: must be > 0",
    ),
    "fraction of a whole number": (
        {"shared": {"inner_steps": RANGE}},
        "inner_steps.low=0.1: must be a whole number",
    ),
    "range of a switch": (
        {"algorithms": {"maml_pp": {"cosine": RANGE}}},
        "cosine.low=0.1: must be true or false",
    ),
    "log with step": ({"shared": {"inner_lr": {**RANGE, "log": True, "step": 0.1}}}, "step: not allowed"),
    "negative step": ({"shared": {"inner_lr": {**RANGE, "step": -0.1}}}, "inner_lr.step=-0.1"),
    "no choice": ({"shared": {"inner_steps": {"choices": [], "default": 1}}}, "inner_steps.choices=[]"),
    "choice that is none": (
        {"shared": {"outer_optimizer": {"choices": ["adm"], "default": "adm"}}},
        "adam, sgd",
    ),
    "default that is no choice": (
        {"shared": {"inner_steps": {"choices": [1], "default": 2}}},
        "must be one of [1]",
    ),
    "constant of another type": ({"shared": {"inner_steps": "three"}}, "must be a whole number"),
    "list instead of choices": ({"shared": {"inner_steps": [1, 3]}}, "inner_steps=[1, 3]"),
    "other published setting that is not sampled": (
        {"also": [{"inner_lr": 0.1}]},
        "also.0.inner_lr: not sampled here",
    ),
    "other published setting outside": (
        {"shared": {"inner_lr": RANGE}, "also": [{"inner_lr": "x"}]},
        "outside",
    ),
    "unknown condition": (
        {"shared": {"inner_lr": {**RANGE, "when": {"stepps": 1}}}},
        "when.stepps: unknown setting",
    ),
}


@pytest.mark.parametrize(("changes", "part"), CHANGES.values(), ids=CHANGES.keys())
def test_a_search_space_with_a_mistake_is_refused(changes: dict[str, Any], part: str) -> None:
    refused_search(yaml.safe_dump({**SPACE, **changes}), part)


def test_all_that_does_not_fit_the_kind_of_a_data_set_is_reported_together() -> None:
    changes = {"task": {"dataset": "sinusoid", "way": 2}, "algorithms": {"nearest_mean": {}}, "bugdet": {}}
    parts = ("task.way=2", "algorithm 'nearest_mean': not for regression", "conv4", "4 problems", "bugdet")
    refused_search(yaml.safe_dump({**SPACE, **changes}), *parts)


TEXTS = {
    "not YAML": ("task: [1, 2\nbudget: {", "not YAML"),
    "tabs": ("task:\n\tdataset: glyphs\n", "line 2"),
    "key twice": (yaml.safe_dump(SPACE) + "task: {dataset: omniglot}\n", "task: the key stands twice"),
    "empty": ("", "must be a mapping"),
    "a list": ("- maml\n", "must be a mapping"),
    "a Python object": ("task: !!python/object/apply:os.getcwd []\n", "not YAML"),
}


@pytest.mark.parametrize(("text", "part"), TEXTS.values(), ids=TEXTS.keys())
def test_a_file_that_is_no_search_space_is_refused(text: str, part: str) -> None:
    refused_search(text, part)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00task"], ids=["missing", "binary"])
def test_a_file_that_cannot_be_read_is_refused(content: bytes | None) -> None:
    if content:
        Path("space.yaml").write_bytes(content)
    refused(metabench("search", "space.yaml"), "metabench: space.yaml")


def test_a_folder_is_searched_within_a_time_alone() -> None:
    refused(metabench("search", "."), "is a folder of pictures; say how long", "--time 30m")


FLAGS = {
    "zero trials": (["--trials", "0"], "--trials=0"),
    "negative tasks": (["--tasks", "-1"], "--tasks=-1"),
    "zero seeds": (["--seeds", "0"], "--seeds=0"),
    "words for a number": (["--trials", "many"], "--trials"),
    "unknown sampler": (["--sampler", "tpa"], "--sampler='tpa': should be 'tpe'"),
    "unknown scheduler": (["--scheduler", "median"], "--scheduler='median': should be 'asha'"),
    "one validation task": (["--validation-tasks", "1"], "--validation-tasks=1"),
    "an earlier search that is not there": (["--warm-start", "runs/before"], "runs/before: is not there"),
    "algorithm's typo": (["--algorithms", "maml,fomml"], "Did you mean 'fomaml'?"),
    "algorithm's typo, not the last": (
        ["--algorithms", "fomml", "--algorithms", "maml"],
        "Did you mean 'fomaml'?",
    ),
    "algorithm that the space lacks": (["--algorithms", "maml_pp"], "not in this space"),
    "unknown resume": (["--resume", "maybe"], "maybe"),
    "unknown flag": (["--trails", "3"], "--trails"),
    "no workers": (["--address", "auto", "--workers", "0"], "--workers"),
    "workers of no cluster": (["--workers", "2"], "--workers: is for a cluster that grows"),
    "name with a slash": (["--name", "a/b"], "--name=a/b: must be one plain name"),
    "name that climbs": (["--name", ".."], "must be one plain name"),
}


@pytest.mark.parametrize(("flags", "part"), FLAGS.values(), ids=FLAGS.keys())
def test_a_flag_with_a_mistake_is_refused(flags: list[str], part: str) -> None:
    Path("space.yaml").write_text(yaml.safe_dump(SPACE))
    refused(metabench("search", "space.yaml", "--out", "out", *flags), part)
    assert not Path("out").exists()


def test_continuing_a_search_that_is_not_there_is_refused() -> None:
    Path("space.yaml").write_text(yaml.safe_dump(SPACE))
    refused(metabench("search", "space.yaml", "--out", "out", "--resume", "must"), "resume=must")
    assert not Path("out").exists()


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_folder_of_something_else_is_not_searched_into(resume: str) -> None:
    Path("space.yaml").write_text(yaml.safe_dump(SPACE))
    Path("out/space").mkdir(parents=True)
    Path("out/space/thesis.tex").write_text("")
    refused(metabench("search", "space.yaml", "--out", "out", "--resume", resume), "choose another name")
    assert [path.name for path in Path("out/space").iterdir()] == ["thesis.tex"]


def test_a_search_without_ray_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("space.yaml").write_text(yaml.safe_dump(SPACE))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(metabench("search", "space.yaml"), "needs ray", "pip install")


def test_several_flags_with_mistakes_are_reported_together() -> None:
    Path("space.yaml").write_text(yaml.safe_dump(SPACE))
    flags = ["--trials", "0", "--seeds", "0", "--algorithms", "mml"]
    refused(metabench("search", "space.yaml", *flags), "--trials=0", "--seeds=0", "Did you mean 'maml'?")


def search_with(**task: Any) -> Result:
    Path("space.yaml").write_text(yaml.safe_dump({**SPACE, "task": {**TASK, **task}}))
    return metabench("search", "space.yaml", "--out", "out")


@pytest.mark.usefixtures("small_data")
def test_a_task_that_the_data_cannot_fill_is_refused() -> None:
    refused(search_with(way=7), "way=7", "only 6 classes")
    refused(search_with(shot=5), "shot=5", "query=2", "only 6")
    refused(search_with(shot=2, test_query=5), "shot=2", "test_query=5", "meta_test")
    assert not Path("out").exists()


def test_a_missing_data_folder_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("METABENCH_DATA", raising=False)
    refused(search_with(dataset="quickdraw"), "METABENCH_DATA")
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "nowhere"))
    refused(search_with(dataset="quickdraw"), "nowhere")
    refused(search_with(dataset="omniglot"), "nowhere")
    assert not Path("out").exists()


def test_a_truncated_zip_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "omniglot"
    folder.mkdir(parents=True)
    for name in ("images_background.zip", "images_evaluation.zip"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("images/a.png", os.urandom(2000))
        (folder / name).write_bytes((folder / name).read_bytes()[:1000])
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "data"))
    refused(search_with(dataset="omniglot"), "images_background.zip")


def test_a_truncated_drawing_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "quickdraw" / "numpy_bitmap"
    folder.mkdir(parents=True)
    (folder / "cat.npy").write_bytes(b"\x93NUMPY")
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "data"))
    refused(search_with(dataset="quickdraw"), "quickdraw")


NO_RUNS: dict[str, Callable[[], object]] = {
    "missing": lambda: None,
    "empty": lambda: Path("run").mkdir(),
    "a file": lambda: Path("run").write_text(""),
    "broken": lambda: (Path("run").mkdir(), Path("run/config.json").write_text("{")),
}


@pytest.mark.parametrize("make", NO_RUNS.values(), ids=NO_RUNS.keys())
def test_a_folder_that_is_no_run_is_refused(make: Callable[[], object]) -> None:
    make()
    refused(metabench("test", "run"), "run")
    refused(metabench("tensorboard", "run"), "run")
    refused(metabench("leaderboard", "run"), "run")


def test_a_description_of_something_else_is_refused() -> None:
    Path("run").mkdir()
    Path("run/config.json").write_text("[1]")
    refused(metabench("test", "run"), "config.json")


def test_one_test_task_is_refused() -> None:
    refused(metabench("test", "run", "--tasks", 1), "--tasks")


def test_an_unknown_format_is_refused() -> None:
    Path("run").mkdir()
    refused(metabench("leaderboard", "run", "--format", "xml"), "xml")


def test_an_unknown_command_is_refused() -> None:
    refused(metabench("serach"), "serach")
