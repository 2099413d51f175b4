"""`metabench datasets`: list, fetch, show and check, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from metabench import data
from metabench.cli import app, inspect_data
from metabench.core import Split, Splits
from metabench.core.config import TaskConfig
from metabench.data.sets import quickdraw
from metabench.data.tasks import frozen
from tests.data.reading.server import serving
from tests.support import small

LOAD = data.load
PARTS = ("meta_train", "meta_validation", "meta_test")
FETCH = ["datasets", "fetch", "quickdraw", "--option", "examples_per_class=20"]
CLI = "from metabench.cli import main; main()"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of its own, with data of its own, where a loaded data set is the small one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(data, "load", lambda task, root=None: small.splits())


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """Make all categories of Quick, Draw!, to be served."""
    folder = tmp_path / "served"
    folder.mkdir()
    names = [name for part in quickdraw.meta_dataset_classes().values() for name in part]
    for number, name in enumerate(names):
        np.save(folder / f"{name}.npy", np.full((25 + number % 3, 784), number % 256, np.uint8))
    return folder


def metabench(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def output(*args: object) -> str:
    result = metabench(*args)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refused(*args: object) -> str:
    result = metabench(*args)
    assert result.exit_code == 2, (result.output, result.exception)
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def start(*args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CLI, *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_both_ways_to_list_say_the_same() -> None:
    listed = json.loads(output("datasets", "list", "--json"))
    assert listed == json.loads(output("datasets", "--json"))
    assert {"quickdraw", "omniglot", "glyphs"} <= {entry["name"] for entry in listed}
    can = {entry["name"]: entry["can_fetch"] for entry in listed}
    assert (can["quickdraw"], can["omniglot"], can["glyphs"]) == (True, True, False)
    assert output("datasets") == output("datasets", "list")
    assert "to get it: metabench datasets fetch omniglot" in output("datasets")


@pytest.mark.parametrize("command", ["list", "fetch", "show", "check"])
def test_every_command_explains_itself(command: str) -> None:
    assert "--help" in output("datasets", command, "--help")


def test_what_is_fetched_is_what_is_loaded(served: Path, tmp_path: Path) -> None:
    with serving(served) as (url, behaviour):
        assert "quickdraw: here, under" in output(*FETCH, "--jobs", 4, "--url", url)
        n_seen = len(behaviour.seen)
        output(*FETCH, "--url", url)
        assert len(behaviour.seen) == n_seen
    assert data.get("quickdraw").is_available(tmp_path / "data")
    options = quickdraw.Options(examples_per_class=20)
    assert quickdraw.load(tmp_path / "data", "cloudera", options).meta_train.images.shape[:2] == (207, 20)


@pytest.mark.slow
def test_two_processes_that_fetch_at_once_do_the_work_once(served: Path, tmp_path: Path) -> None:
    with serving(served) as (url, behaviour):
        both = [start(*FETCH, "--url", url) for _ in range(2)]
        outputs = [process.communicate(timeout=60) for process in both]
        assert [process.returncode for process in both] == [0, 0], outputs
        rows = [path for path, span in behaviour.seen if span and not span.startswith("bytes=0-")]
        assert len(rows) == len(set(rows)) == 345, "no row is fetched twice"
    left = {path.suffix for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert left == {".npz"}


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_half_and_the_same_command_goes_on(served: Path, tmp_path: Path) -> None:
    rows = tmp_path / "data" / "quickdraw" / "numpy_rows"
    with serving(served) as (url, behaviour):
        behaviour.silence = 0.01
        process = start(*FETCH, "--url", url, "--jobs", "2")
        until = time.monotonic() + 60
        while len(list(rows.glob("*.npz"))) < 10 and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        streams = process.communicate(timeout=30)
        assert process.returncode == 130, streams
        assert "The same command continues where it stopped" in streams[1]
        kept = list(rows.iterdir())
        assert 10 <= len(kept) < 345
        assert all(path.suffix == ".npz" and np.load(path)["images"].shape == (20, 784) for path in kept[:1])
        assert {path.suffix for path in kept} == {".npz"}
        behaviour.silence = 0
        behaviour.seen.clear()
        output(*FETCH, "--url", url)
        assert not {f"/{path.stem}.npy" for path in kept} & {path for path, _ in behaviour.seen}


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["nothing"], "dataset='nothing': unknown"),
        (["quickdrw"], "Did you mean 'quickdraw'?"),
        (["quickdraw", "--split", "clodera"], "Did you mean 'cloudera'? Allowed: cloudera, meta_dataset"),
        (["quickdraw", "--option", "examples=3"], "unknown setting"),
        (["quickdraw", "--url", "nowhere"], "url=nowhere: must be an address that starts with https://"),
        (["quickdraw", "--jobs", "0"], "'--jobs'"),
    ],
)
def test_a_mistake_is_told(args: list[str], problem: str) -> None:
    assert problem in refused("datasets", "fetch", *args)


def test_a_404_is_told(tmp_path: Path) -> None:
    with serving(tmp_path) as (url, _):
        assert f"{url}/images_background.zip: HTTP 404" in refused(
            "datasets", "fetch", "omniglot", "--url", url
        )


def test_a_folder_of_data_must_be_named_and_writable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert "METABENCH_DATA must name a folder" in refused("datasets", "fetch", "omniglot")
    monkeypatch.delenv("METABENCH_DATA")
    assert "METABENCH_DATA is not set" in refused("datasets", "fetch", "omniglot")


@pytest.mark.parametrize("name", ["mini_imagenet", "tiered_imagenet", "cub"])
def test_what_may_not_be_passed_on_is_not_fetched_but_told_where_to_get(name: str) -> None:
    message = refused("datasets", "fetch", name)
    assert f"cannot be fetched; get it from {data.get(name).url}" in message
    assert "Allowed: cifar_fs, fc100, omniglot, quickdraw" in message
    assert f"{name} (not here)" in output("datasets", "list")


@pytest.mark.parametrize("name", ["mini_imagenet", "tiered_imagenet", "cub", "cifar_fs", "fc100"])
def test_checking_what_is_not_here_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "load", LOAD)
    message = refused("datasets", "check", name)
    assert str(tmp_path / "data") in message
    assert "To download: " in message or "to get it: " in message


def test_what_is_built_in_needs_no_download() -> None:
    assert "glyphs needs no download" in output("datasets", "fetch", "glyphs")


@pytest.mark.parametrize("form", ["png", "pdf", "svg"])
def test_a_sheet_is_drawn_and_the_classes_counted(form: str) -> None:
    text = output("datasets", "show", "glyphs", "--way", 3, "--query", 2, "--out", f"new/sheet.{form}")
    assert "meta_train: 6 classes of 6 examples, 1x16x16, in 1 domains" in text
    assert Path(f"new/sheet.{form}").stat().st_size > 1000


def test_names_of_every_script_are_drawn_without_empty_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matplotlib warns of a letter that no face of the text has, and warnings are errors here."""
    names = "\N{CJK UNIFIED IDEOGRAPH-732B}", "\N{THAI CHARACTER KO KAI}", "\U0010fffd of none"
    splits = small.splits()
    train = splits.meta_train._replace(classes=(*names, *splits.meta_train.classes[3:]))
    monkeypatch.setattr(data, "load", lambda task, root=None: splits._replace(meta_train=train))
    output("datasets", "show", "glyphs", "--way", 6, "--query", 2)
    assert inspect_data.faces_of(names)[1][2] == "U+10FFFD of none"
    assert inspect_data.faces_of(("cat", "chat"))[0] == ["DejaVu Sans"]


def test_a_sheet_depends_on_the_seed_alone() -> None:
    pictures = []
    for seed in (0, 0, 1):
        output("datasets", "show", "glyphs", "--way", 3, "--query", 2, "--seed", seed)
        pictures.append(np.asarray(Image.open("sheet.png")))
    assert (pictures[0] == pictures[1]).all()
    assert pictures[0].shape != pictures[2].shape or (pictures[0] != pictures[2]).any()


def test_functions_are_drawn_as_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", LOAD)
    args = ["sinusoid", "--option", "functions=100", "--way", 1, "--shot", 10]
    output("datasets", "show", *args)
    assert Path("sheet.png").is_file()
    output("datasets", "check", "sinusoid", "--option", "functions=100")


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--out", "sheet.txt"], "--out sheet.txt: must end in one of .png, .pdf, .svg"),
        (["--way", "7"], "has only 6 classes; lower way"),
        (["--shot", "4"], "shot=4 and query=5 need 9 examples a class"),
        (["--way", "1"], "way must be >= 2"),
    ],
)
def test_a_sheet_that_cannot_be_drawn_is_told(args: list[str], problem: str) -> None:
    assert problem in refused("datasets", "show", "glyphs", *args)
    assert not Path("sheet.png").exists()


def check_of(splits: Splits, monkeypatch: pytest.MonkeyPatch, *args: object) -> tuple[int, Any]:
    monkeypatch.setattr(data, "load", lambda task, root=None: splits)
    result = metabench("datasets", "check", "glyphs", "--query", 5, *args)
    return result.exit_code, json.loads(result.stdout) if "--json" in args else result.stdout


def test_nothing_is_found_where_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    code, report = check_of(small.splits(), monkeypatch, "--json")
    assert code == 0
    kinds = ("in_two_splits", "in_two_classes", "repeated", "blank", "too_small")
    assert report == {"dataset": "small", **{kind: [] for kind in kinds}}


def test_every_planted_fault_is_found_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = small.splits()
    splits.meta_test.images[2, 3] = splits.meta_train.images[4, 1]
    splits.meta_validation.images[0, 5] = 77
    counts = torch.tensor([6, 6, 6, 6, 6, 5])
    splits = splits._replace(meta_test=splits.meta_test._replace(counts=counts))
    splits.meta_test.images[5, 5] = 0  # padding, no example
    code, report = check_of(splits, monkeypatch, "--json")
    assert code == 1
    assert report["in_two_splits"] == [
        "meta_train meta_train-4, example 1 = meta_test meta_test-2, example 3"
    ]
    assert report["blank"] == ["meta_validation meta_validation-0, example 5"]
    assert report["too_small"] == ["meta_test meta_test-5: 5 examples, needs 6"]
    code, text = check_of(splits, monkeypatch)
    assert code == 1
    assert "images in two splits: 1" in text


def test_images_that_repeat_within_a_split_or_a_class_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = small.splits()
    train, test = splits.meta_train.images, splits.meta_test.images
    train[0, 0] = train[1, 1]
    test[3, 1:4] = test[3, 0]
    code, report = check_of(splits, monkeypatch, "--json")
    assert code == 1
    assert report["in_two_splits"] == []
    assert report["in_two_classes"] == [
        "meta_train meta_train-0, example 0 = meta_train meta_train-1, example 1"
    ]
    assert report["repeated"] == ["meta_test meta_test-3, example 0: 4 times"]
    text = check_of(splits, monkeypatch)[1]
    assert "images in two classes of one split: 1" in text
    assert "images several times in one class: 1" in text


def test_images_that_nearly_repeat_are_named_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = small.splits()
    near = splits.meta_train.images[4, 1].clone()
    near[0, 3, 3] ^= 8
    splits.meta_test.images[2, 3] = near
    assert check_of(splits, monkeypatch)[0] == 0, "it is no exact copy"
    code, report = check_of(splits, monkeypatch, "--near", 4, "--json")
    assert code == 1
    (line,) = report["near"]
    assert line.startswith("meta_train meta_train-4, example 1 ~ meta_test meta_test-2, example 3: ")
    assert "images nearly like one before (--near 4): 1" in check_of(splits, monkeypatch, "--near", 4)[1]


def test_near_repeats_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    assert "--near needs imagehash; do: pip install 'metabench[near]'" in refused(
        "datasets", "check", "glyphs", "--near", 4
    )


def test_many_findings_are_cut_short_and_json_has_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = small.splits()
    same: Split = splits.meta_train
    code, text = check_of(splits._replace(meta_test=same), monkeypatch)
    assert code == 1
    assert "images in two splits: 36" in text
    assert "and 26 more; --json lists all" in text
    assert len(check_of(splits._replace(meta_test=same), monkeypatch, "--json")[1]["in_two_splits"]) == 36


def test_tasks_writes_a_list_once_and_says_its_hash(tmp_path: Path) -> None:
    command = [
        "datasets",
        "tasks",
        "glyphs",
        "--way",
        "2-3",
        "--query",
        "2",
        "--tasks",
        "5",
        "--out",
        "a/list",
    ]
    printed = json.loads(output(*command, "--json"))
    record = frozen.describe(tmp_path / "a" / "list")
    assert printed["hash"] == record["hash"]
    assert record["task"]["way"] == {"low": 2, "high": 3}
    again = metabench(*command)
    assert again.exit_code == 2
    assert "is there already" in again.output
    assert frozen.describe(tmp_path / "a" / "list") == record


def test_tasks_of_every_kind_are_written_and_are_those_that_a_run_is_tested_on(tmp_path: Path) -> None:
    shape = {"way": 2, "shot": 2, "most_shots": 3, "unlabelled": 1, "distractors": 1, "domains": "within"}
    flags = [str(part) for key, value in shape.items() for part in (f"--{key.replace('_', '-')}", value)]
    printed = json.loads(
        output("datasets", "tasks", "glyphs", *flags, "--query", 2, "--tasks", 6, "--out", "list", "--json")
    )
    task = TaskConfig(dataset="glyphs", test_query=2, **shape)  # type: ignore[arg-type]
    drawn = frozen.frozen(small.splits(), "meta_test", task, 6, "test")
    assert printed["hash"] == drawn.hash
    assert frozen.read(Path("list"), small.splits(), "meta_test").hash == drawn.hash


def test_tasks_that_cannot_be_drawn_are_refused(tmp_path: Path) -> None:
    result = metabench("datasets", "tasks", "glyphs", "--way", "9-3", "--query", "2")
    assert result.exit_code == 2
    assert "low must be < high" in result.output
    result = metabench("datasets", "tasks", "glyphs", "--way", "3-x", "--domains", "inside")
    assert result.exit_code == 2
    assert "--way='3-x': must be a whole number, or a range: 3-10 as a flag" in result.output
    assert "--domains='inside': should be 'any', 'within' or 'across'" in result.output
    result = metabench("datasets", "tasks", "glyphs", "--query", "15")
    assert result.exit_code == 2
    assert "lower shot or test_query" in result.output
    assert not list(tmp_path.glob("*.safetensors"))


def test_tasks_from_a_file_have_their_own_shape(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("task,role,label,picture\n")
    command = ["datasets", "tasks", "glyphs", "--from", "list.csv"]
    refused = CliRunner().invoke(app, [*command, "--way", "3", "--tasks", "5"])
    assert refused.exit_code == 2
    assert "--from: says what --tasks and --way would" in refused.stderr
    refused = CliRunner().invoke(app, [*command[:-1], "nowhere.csv"])
    assert "--from nowhere.csv: no such file" in refused.stderr
