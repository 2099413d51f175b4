"""`search --time`: what may be typed, what it says, and that it leaves nothing behind before it starts."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from metabench.api import automatic
from metabench.core import MetabenchError
from metabench.core.config import SearchSpace
from metabench.search import space as spaces
from metabench.search.stages import automatic as stage
from tests.cli.test_bad_input import SPACE, metabench, refused
from tests.search.test_automatic import pictures


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "LEAST", 0.05)
    monkeypatch.setattr(stage, "MOST", 0.05)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("1h30m", 5400), ("1.5h", 5400)]
)
def test_a_time_is_read(text: str, seconds: float) -> None:
    assert automatic.seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "m", "0m", "-5m", "30 m", "5d", "1h30", "inf", "1m30m", "30m1h", "1m1m", "8761h"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(MetabenchError, match="must be a time such as 90s, 30m or 1h30m"):
        automatic.seconds(text)


def test_what_is_neither_file_nor_folder_nor_data_set_is_told_all_three() -> None:
    parts = ("omnigolt: no such file", "YAML file", "folder or archive of pictures", "data set's name")
    refused(metabench("search", "omnigolt", "--time", "30m"), *parts, "Did you mean 'omniglot'?")
    refused(metabench("search", "omnigolt"), *parts)


def test_a_folder_or_a_data_set_needs_a_time() -> None:
    pictures(Path("mine"), 8)
    refused(metabench("search", "mine"), "mine: is a folder of pictures", "--time 30m")
    refused(metabench("search", "glyphs"), "glyphs: is a data set", "--time 30m")


@pytest.mark.parametrize("name", ["My pictures", "写真", "a.b & c"])
def test_a_folder_may_be_called_anything_and_be_the_one_where_one_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = pictures(Path(name), 8)
    refused(metabench("search", name, "--time", "1s"), "is too short here")
    monkeypatch.chdir(place)
    refused(metabench("search", ".", "--time", "1s"), "is too short here")


def test_what_a_space_says_cannot_be_chosen_beside_it() -> None:
    Path("space.yaml").write_text(yaml.safe_dump(SPACE))
    typed = ["--time", "30m", "--way", "5", "--option", "n_classes=30"]
    refused(metabench("search", "space.yaml", *typed), "--time and --way and --option: choose what stands in")


def test_what_a_time_chooses_cannot_be_set_beside_it() -> None:
    pictures(Path("mine"), 8)
    typed = ["--time", "30m", "--trials", "5", "--seeds", "3", "--accept-changes"]
    refused(
        metabench("search", "mine", *typed), "--trials, --seeds, --accept-changes: with --time the budget"
    )
    refused(
        metabench("search", "mine", "--time", "30m", "--algorithms", "snail"), "snail: with --time choose"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mine", "--time", "soon"], "time=soon: must be a time"),
        (["mine", "--time", "30m", "--option", "sizze=28"], "Did you mean 'size'?"),
        (
            ["few", "--time", "30m"],
            "5, 5, 5 classes in meta-train, meta-validation and meta-test, the smallest",
        ),
        (["mine", "--time", "30m", "--shot", "9"], "the smallest with 4 examples"),
        (["sinusoid", "--time", "30m"], "sinusoid: holds no pictures"),
        (["mine", "--time", "3s"], "is too short here"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(words: list[str], message: str) -> None:
    pictures(Path("mine"), 8)
    pictures(Path("few"), 5)
    refused(metabench("search", *words), message)
    assert not Path("runs").exists()


def test_a_plan_is_said_in_five_lines_and_prints_a_space_that_can_be_searched() -> None:
    pictures(Path("mine"), 12)
    shown = metabench("search", "mine", "--time", "30m", "--way", "2", "--plan")
    assert shown.exit_code == 0, shown.output
    lines = shown.stderr.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("mine: 12 classes (8/2/2 ")
    assert "2-way 1-shot" in lines[1]
    Path("space.yaml").write_text(shown.stdout)
    space = spaces.load("space.yaml")
    assert space == SearchSpace.model_validate(yaml.safe_load(shown.stdout))
    assert space.task.options["path"] == str(Path("mine").absolute())
    assert sorted(path.name for path in Path().iterdir()) == ["mine", "space.yaml"]


@pytest.mark.slow
def test_a_folder_is_searched_and_what_is_printed_names_its_pictures() -> None:
    pictures(Path("mine"), 12)
    words = [sys.executable, "-m", "metabench", "search", "mine", "--time", "2m", "--algorithms", "protonet"]
    first, again = (subprocess.run(words, capture_output=True, text=True) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert again.returncode == 0, again.stderr
    ending = first.stdout.splitlines()[-3:]
    assert again.stdout.splitlines()[-3:] == ending
    assert "protonet" in ending[0]
    command = shlex.split(ending[1].partition(": ")[2])
    new, folder = Path("new"), Path("mine/class0")
    shutil.copytree("mine/class0", new / "a")
    shutil.copytree("mine/class1", new / "b")
    real = {"NEW_CLASSES/": str(new), "PICTURES": str(folder)}
    shown = metabench(*(real.get(word, word) for word in command[1:]))
    assert shown.exit_code == 0, shown.output
    assert len(shown.stdout.splitlines()) == len(list(folder.iterdir()))
