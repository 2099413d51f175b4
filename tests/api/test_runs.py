"""Training and testing from Python: the numbers of the command line, and one message for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import metabench as mb
from metabench import data
from metabench.cli import app
from metabench.data.tasks import frozen
from metabench.storage import files
from tests.predict import trained
from tests.support import small

SHAPE: dict[str, Any] = {"way": 3, "query": 2, "test_query": 3, "width": 4}
SMALL: dict[str, Any] = {**SHAPE, "tasks": 8, "reports": 2, "validation_tasks": 4, "quiet": True}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of its own, where a diagnosis follows few tasks."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every data set be the small one."""
    monkeypatch.setattr(data, "load", lambda task, root=None: small.splits())


def command(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def flags(values: dict[str, Any]) -> list[str]:
    return [part for key, value in values.items() for part in (f"--{key.replace('_', '-')}", str(value))]


def typed(values: dict[str, Any]) -> list[str]:
    return flags({key: value for key, value in values.items() if key != "quiet"})


@pytest.mark.usefixtures("small_data")
def test_training_and_testing_give_what_the_commands_give() -> None:
    with trained.quickly():
        run = mb.train("fomaml", "glyphs", inner_steps=2, distort={"shear": 0.3}, augment="both", **SMALL)
        words = ["--set", "inner_steps=2", "--set", "augment=both", "--distort", "shear=0.3"]
        command(
            "train", "--algorithm", "fomaml", "--dataset", "glyphs", *typed(SMALL), *words, "--out", "typed"
        )
        result = run.test(4, quiet=True)
        printed = json.loads(command("test", "typed", "--tasks", 4, "--json"))
    assert run.folder == Path("runs/fomaml-glyphs-3w1s-seed0")
    assert (run.folder / files.WEIGHTS).read_bytes() == (Path("typed") / files.WEIGHTS).read_bytes()
    assert run.config == mb.Run(Path("typed")).config
    assert (result.accuracy, *result.interval) == (printed["accuracy"], printed["ci_low"], printed["ci_high"])
    assert result.accuracy_one_at_a_time == printed["accuracy_one_at_a_time"]
    assert result.accuracies.mean() == pytest.approx(result.accuracy, abs=1e-12)
    table = result.to_pandas()
    assert (table.accuracy == result.accuracies).all()
    assert {len(classes) for classes in table.classes} == {3}
    assert "over 4 meta-test tasks of small" in repr(result)
    assert [*run.reports.index] == [4, 8]
    (run.folder / files.REPORTS).unlink()
    assert [*run.reports.index] == []
    with pytest.raises(mb.MetabenchError, match="nowhere: is no run folder"):
        _ = mb.Run(Path("nowhere")).reports
    with pytest.raises(AttributeError, match="judged by its accuracy, and has no error"):
        _ = result.error


@pytest.mark.usefixtures("small_data")
def test_what_is_not_given_is_as_on_the_command_line() -> None:
    # The defaults themselves train for minutes; the run is refused just before, where its data are loaded.
    described: list[Any] = []

    def stop(config: Any, *rest: Any) -> None:
        described.append(config)
        raise mb.MetabenchError("enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metabench.api.runs.train_into", stop)
        with pytest.raises(mb.MetabenchError, match="enough"):
            mb.train("maml_pp", "glyphs")
        CliRunner().invoke(app, ["train", "--algorithm", "maml_pp", "--dataset", "glyphs"])
    assert described[0] == described[1]
    assert (described[0].tasks, len(described[0].rungs)) == (10_000, 10)


@pytest.mark.usefixtures("small_data")
def test_a_recorded_run_is_trained_again_but_for_what_is_given() -> None:
    with trained.quickly():
        first = mb.train("protonet", "glyphs", out="first", outer_lr=0.01, **SMALL)
        again = mb.train(config=first, out="again", quiet=True)
        other = mb.train(config="first", out="other", seed=np.int64(1), quiet=True)
    assert (again.folder / files.WEIGHTS).read_bytes() == (first.folder / files.WEIGHTS).read_bytes()
    assert other.config == first.config.model_copy(update={"seed": 1})


def test_the_same_call_goes_on_and_a_folder_without_its_data_predicts() -> None:
    pictures = trained.classes_on_disk(Path("mine"), n_classes=12, shots=6)
    with trained.quickly():
        options = {"size": 16, "channels": 1}
        run = mb.train("protonet", "mine", options=options, **{**SMALL, "way": 2, "width": 8})
        weights = (run.folder / files.WEIGHTS).stat().st_mtime_ns
        same = mb.train("protonet", pictures, options=options, **{**SMALL, "way": 2, "width": 8})
        asked = {"name": "folder", "options": {"path": "mine", "size": 16, "channels": 1}}
        third = mb.train("protonet", asked, **{**SMALL, "way": 2, "width": 8})
    assert run == same == third
    assert (run.folder / files.WEIGHTS).stat().st_mtime_ns == weights
    new = trained.classes_on_disk(Path("new"))
    support, labels = mb.predict.class_folders(new)
    before = run.load().fit(support, labels).predict_proba(support)
    pictures.rename("away")
    assert mb.Run("runs/protonet-folder-2w1s-seed0") == run
    assert (mb.load(run).fit(support, labels).predict_proba(support) == before).all()


def test_a_regression_has_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    sinusoids = small.sinusoids()
    monkeypatch.setattr(data, "load", lambda task, root=None: sinusoids)
    with trained.quickly():
        network = {"network": "mlp", "width": 8, "norm": "none"}
        task = {"way": 1, "shot": 5, "query": 5, "test_query": 10, "options": {"functions": 500}}
        run = mb.train("fomaml", "sinusoid", **{**SMALL, **network, **task})
        result = mb.test(run, 4, quiet=True)
    assert result.errors.mean() == pytest.approx(result.error)
    assert repr(result).startswith("fomaml: error ")
    with pytest.raises(AttributeError, match="has no accuracy"):
        _ = result.accuracies


@pytest.mark.usefixtures("small_data")
def test_a_list_of_tasks_and_other_data_are_tested_on() -> None:
    with trained.quickly():
        run = mb.train("protonet", "glyphs", out="run", **SMALL)
        tasks = frozen.frozen(small.splits(), "meta_test", run.config.task, 6, "other")
        frozen.write(Path("list"), small.splits(), "meta_test", run.config.task, "other", tasks)
        assert mb.test(run, task_list="list", quiet=True).record["tasks"] == 6
        assert mb.test(run, 3, dataset="omniglot", split="vinyals", quiet=True).record["tasks"] == 3


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a typo": ({"shots": 1}, "shots: unknown setting. Did you mean 'shot'?"),
    "another algorithm's": ({"inner_lrate": 1}, "inner_lrate: unknown setting. Did you mean 'inner_lr'?"),
    "out of range": ({"way": 0, "inner_lr": -1.0}, "way=0: should be greater"),
    "all at once": ({"way": 0, "inner_lr": -1.0}, "\ninner_lr=-1.0: must be >= 0"),
    "of the data": ({"options": {"clases": 3}}, "options.clases: unknown setting. Did you mean 'n_classes'?"),
    "of distortions": ({"distort": {"rotate": 400}}, "distort.rotate=400: should be less"),
    "no dict": ({"options": "n_classes=3"}, "options='n_classes=3': must be a dict"),
    "an object": ({"width": object()}, "width: is of type object; give a number"),
    "no reports": ({"reports": 0}, "reports=0: must be >= 1"),
    "a device": ({"device": "cuda:77"}, "`device` cuda:77: not on this machine"),
    "no data set": ({"dataset": "omnglot"}, "dataset='omnglot': unknown. Did you mean 'omniglot'?"),
    "no folder": ({"dataset": "no/folder"}, "no/folder"),
    "a dict of data": ({"dataset": {"nam": "glyphs"}}, "dataset: no 'nam'; give a dict of name, options"),
    "no algorithm": ({"algorithm": "mmal"}, "algorithm 'mmal': unknown. Did you mean 'maml'?"),
    "nothing": ({"algorithm": None, "dataset": None}, "`algorithm`: missing; name one, or give the `config`"),
    "no run": ({"config": "nowhere"}, "nowhere: is no run folder"),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_message_without_flags(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(mb.MetabenchError) as raised:
        mb.train(**{"algorithm": "maml", "dataset": "glyphs", **SMALL, **changes})
    assert message in str(raised.value)
    assert "--" not in str(raised.value)
    assert not Path("runs").exists()


@pytest.mark.usefixtures("small_data")
def test_a_run_that_diverges_says_so() -> None:
    rates = {"inner_lr": 1e30, "outer_lr": 1e30, "norm": "none"}
    with pytest.raises(mb.MetabenchError, match="runs/maml-glyphs-3w1s-seed0: diverged after "):
        mb.train("maml", "glyphs", **{**SMALL, **rates})
