"""`metabench predict`: what it prints, and the one message of each mistake."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import metabench
from metabench.cli import app
from metabench.storage import files, tensors
from tests.predict import trained


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay out a run, a support set and pictures to classify."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.run(), "run")
    trained.classes_on_disk(Path("new"))
    trained.classes_on_disk(Path("photos"), n_classes=1, shots=3)
    Path("photos/class0/notes.txt").write_text("not a picture")


def predict(*args: str) -> Result:
    return CliRunner().invoke(app, ["predict", *args])


def output(*args: str) -> str:
    result = predict(*args)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_a_line_a_picture_has_all_classes_the_likeliest_first() -> None:
    lines = output("run", "--support", "new", "photos", "new/class1/0.png").splitlines()
    assert [line.split(":")[0] for line in lines] == [
        *(f"photos/class0/{number}.png" for number in range(3)),
        "new/class1/0.png",
    ]
    shares = [float(word.strip("%,()")) for word in lines[0].split() if "%" in word]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert all(f"class{number}" in lines[0].split(": ")[1] for number in range(3))


def test_json_and_csv_are_what_python_predicts() -> None:
    support, labels = metabench.predict.class_folders("new")
    pictures = metabench.predict.find_pictures(["photos/class0/*.png"])
    expected = metabench.load("run").fit(support, labels).predict_proba(pictures)
    answer = json.loads(output("run", "--support", "new", "photos/**/*.png", "--json"))
    assert [list(one["probabilities"].values()) for one in answer["predictions"]] == expected.tolist()
    assert (answer["row"], answer["runs"]) == ("protonet:run", ["run"])
    head, *rows = csv.reader(io.StringIO(output("run", "--support", "new", "photos", "--csv")))
    assert head == ["picture", "label", "class0", "class1", "class2"]
    assert [[float(share) for share in row[2:]] for row in rows] == expected.tolist()
    assert [row[1] for row in rows] == [one["label"] for one in answer["predictions"]]


def sets(coverage: float) -> list[list[str]]:
    """Return what Python says of the same pictures, the likelier first."""
    classifier = metabench.load("run").fit(*metabench.predict.class_folders("new"))
    pictures = metabench.predict.find_pictures("photos")
    assert pictures == metabench.predict.find_pictures(["photos"])
    shares, is_in = classifier.predict_proba(pictures), classifier.predict_set(pictures, coverage)
    order = np.argsort(-shares, axis=1)
    return [[f"class{one}" for one in row if of[one]] for row, of in zip(order, is_in, strict=True)]


@pytest.mark.parametrize("coverage", [0.05, 0.4, 0.9])
def test_sets_are_printed_in_every_form_and_are_what_python_says(coverage: float) -> None:
    expected, args = sets(coverage), ("run", "--support", "new", "photos", "--coverage", str(coverage))
    lines = output(*args).splitlines()
    before = f"; at {100 * coverage:g} %: "
    assert [line.split(before)[1] for line in lines] == [", ".join(one) or "none" for one in expected]
    answer = json.loads(output(*args, "--json"))
    assert answer["coverage"] == coverage
    assert [one["set"] for one in answer["predictions"]] == expected
    head, *rows = csv.reader(io.StringIO(output(*args, "--csv")))
    assert head[-1] == "set"
    assert [row[-1] for row in rows] == ["/".join(one) for one in expected]


@pytest.mark.parametrize("coverage", [None, 0.05, 0.4])
def test_a_picture_whose_set_is_not_of_one_class_gets_no_answer(coverage: float | None) -> None:
    expected = sets(coverage or 0.9)
    asked = () if coverage is None else ("--coverage", str(coverage))
    args = ("run", "--support", "new", "photos", "--abstain", *asked)
    labels = [one[0] if len(one) == 1 else None for one in expected]
    assert [one["label"] for one in json.loads(output(*args, "--json"))["predictions"]] == labels
    _, *rows = csv.reader(io.StringIO(output(*args, "--csv")))
    assert [row[1] or None for row in rows] == labels
    firsts = [line.split(": ")[1].split()[0] for line in output(*args).splitlines()]
    assert firsts == [label or "?" for label in labels]


def test_a_search_says_on_stderr_which_row_and_how_many_seeds_predict() -> None:
    trained.search(Path("search"), {"protonet": 0.6, "maml": 0.5}, seeds=2)
    result = predict("search", "--support", "new", "photos")
    assert "search: protonet:tuned is the best tuned row by confirmation" in result.stderr
    assert "mean over 2 seeds, an ensemble" in result.stderr
    answer = json.loads(output("search", "--support", "new", "photos", "--row", "maml:default", "--json"))
    assert answer["row"] == "maml:default"
    assert answer["runs"] == [f"search/final/maml-default-seed{seed}" for seed in range(2)]


def test_a_name_that_is_a_formula_is_none_in_a_spreadsheet() -> None:
    Path("new/class0").rename("new/=1+1")
    assert "'=1+1" in output("run", "--support", "new", "photos", "--csv").splitlines()[0]


def damage(path: str) -> None:
    Path(path).write_bytes(Path(path).read_bytes()[:40])


def other_weights() -> None:
    shutil.copy(trained.run("protonet", width=8) / files.WEIGHTS, "run")


def seven_classes() -> None:
    shutil.rmtree("run")
    shutil.copytree(trained.run("maml"), "run")
    trained.classes_on_disk(Path("more"), n_classes=7)
    shutil.rmtree("new")
    Path("more").rename("new")


def one_class() -> None:
    for number in (1, 2):
        shutil.rmtree(f"new/class{number}")


def heic() -> None:
    Path("new/class0/one.heic").write_bytes(b"0000ftypheic")


def nested() -> None:
    Path("deep").mkdir()
    Path("new").rename("deep/new")
    Path("deep").rename("new")


def one_level_low() -> None:
    Path("new").rename("above")
    Path("above/class0").rename("new")


def nan_weights() -> None:
    path = Path("run") / files.WEIGHTS
    flat, text = tensors.load(path)
    tensors.save(path, {name: torch.full_like(leaf, torch.nan) for name, leaf in flat.items()}, text)


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "empty support": (lambda: (shutil.rmtree("new"), Path("new").mkdir()), "holds no folder; give one"),
    "no support": (lambda: shutil.rmtree("new"), "new: no such folder"),
    "a class that is empty": (lambda: Path("new/x").mkdir(), "class 'x' is empty"),
    "pictures beside classes": (
        lambda: shutil.copy("new/class0/0.png", "new"),
        "a picture outside the folders of classes",
    ),
    "folders one too deep": (
        nested,
        "holds only 'new', which holds the folders of classes; give 'new/new'",
    ),
    "a folder inside a class": (
        lambda: Path("new/class0/more").mkdir(),
        "a folder inside the class 'class0'",
    ),
    "a class itself": (one_level_low, "holds pictures, and no folders of classes; give the folder above it"),
    "a file as support": (lambda: (shutil.rmtree("new"), Path("new").touch()), "new: is no folder; give a"),
    "another format": (heic, "no format that is read; convert it"),
    "no picture in support": (lambda: damage("new/class0/0.png"), "'new/class0/0.png': "),
    "no picture in queries": (lambda: damage("photos/class0/1.png"), "'photos/class0/1.png': "),
    "one class": (one_class, "classes in the support set: 1; give pictures of 2 or more"),
    "too many classes": (seven_classes, "was trained for 3 ways, here are up to 7"),
    "weights of another run": (
        other_weights,
        "weights.safetensors: are of another network than",
    ),
    "weights that are damaged": (lambda: damage("run/weights.safetensors"), "is damaged"),
    "weights that are no numbers": (nan_weights, "adapting to this support set diverged"),
    "no weights": (lambda: Path("run/weights.safetensors").unlink(), "has no weights.safetensors"),
    "an unfinished run": (trained.unfinished, "has seen 4 of 8 tasks; the command that trains it goes on"),
    "a run of regression": (trained.regression, "was trained for regression; predictions are of classes"),
    "a file as run": (lambda: (shutil.rmtree("run"), Path("run").touch()), "run: is no folder"),
    "no run": (lambda: shutil.rmtree("run"), "run: no such folder"),
    "a folder that is no run": (lambda: Path("run/config.json").unlink(), "holds neither a search nor a run"),
    "an older run": (
        lambda: Path("run/inputs.json").unlink(),
        "`metabench train --config run --out run` adds it",
    ),
    "data that say nothing of pictures": (trained.no_pictures, "give inputs of shape [1, 16, 16] as arrays"),
    "no queries": (lambda: shutil.rmtree("photos"), "'photos': no picture; give files"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_message(name: str) -> None:
    make, message = MISTAKES[name]
    make()
    result = predict("run", "--support", "new", "photos")
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert message in result.stderr
    assert result.stderr.count("metabench: ") == 1
    assert "Traceback" not in result.stderr


def test_an_older_run_learns_to_predict_by_the_command_that_is_named() -> None:
    shutil.rmtree("run")
    options = ["--dataset", "glyphs", "--option", "n_classes=40", "--option", "n_examples=8"]
    small_run = ["--tasks", "4", "--reports", "1", "--validation-tasks", "2", "--width", "4", "--query", "2"]
    train = ["train", "--algorithm", "protonet", *options, *small_run, "--test-query", "2", "--out", "run"]
    with trained.quickly():
        assert CliRunner().invoke(app, train).exit_code == 0
        Path("run/inputs.json").unlink()
        before = Path("run/weights.safetensors").read_bytes()
        assert CliRunner().invoke(app, ["train", "--config", "run", "--out", "run"]).exit_code == 0
    assert Path("run/weights.safetensors").read_bytes() == before
    assert "pictures are taken as dark on light" in predict("run", "--support", "new", "photos").stderr


@pytest.mark.parametrize("coverage", ["0", "1", "1.5", "0.999"])
def test_a_coverage_that_none_can_promise_is_refused(coverage: str) -> None:
    result = predict("run", "--support", "new", "photos", "--coverage", coverage)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert f"--coverage {coverage}" in result.stderr
    assert result.stderr.count("metabench: ") == 1


def test_sets_of_a_run_without_a_calibration_name_what_adds_it() -> None:
    Path("run/calibration.safetensors").unlink()
    result = predict("run", "--support", "new", "photos", "--abstain")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "`metabench train --config run --out run` adds it" in result.stderr


def test_json_and_csv_together_are_refused() -> None:
    result = predict("run", "--support", "new", "photos", "--json", "--csv")
    assert result.exit_code == 2
    assert "print one of them" in result.stderr


def test_a_path_s_characters_move_no_cursor() -> None:
    Image.fromarray(np.zeros((16, 16), np.uint8)).save("photos/a\x1b[2J.png")
    assert "\x1b" not in output("run", "--support", "new", "photos")
