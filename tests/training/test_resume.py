"""An interrupted run goes on from what is whole, and only one process goes on with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from metabench import algorithms
from metabench.core import MetabenchError
from metabench.core.config import RunConfig
from metabench.storage import files
from metabench.training import loop
from metabench.training import resume as resumption
from metabench.training import run as runs
from metabench.training.resume import FencingToken, resume
from tests.predict.trained import config as config_of
from tests.predict.trained import quickly, splits
from tests.support import small

CONFIG: RunConfig = small.config().model_copy(update={"tasks": 24, "rungs": [8, 16, 24]})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run's folder with the states after 16 and 24 tasks, and all three reports."""
    folder = tmp_path_factory.mktemp("run")
    for report, state in loop.train(CONFIG, small.splits()):
        files.append_line(folder / files.REPORTS, report._asdict())
        loop.save_state(folder / files.STATE, state)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def damage(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / files.STATE / name
        path.write_bytes(path.read_bytes()[:-1] + b"?")


def seen(folder: Path) -> list[int]:
    return [line["tasks_seen"] for line in files.read_lines(folder / files.REPORTS)]


def test_what_is_whole_is_gone_on_with_and_not_written_again(folder: Path) -> None:
    written = (folder / files.REPORTS).stat().st_mtime_ns
    resumed = resume(CONFIG, small.splits(), folder)
    assert resumed.state is not None
    assert (resumed.state.tasks_seen, [line["tasks_seen"] for line in resumed.reports]) == (24, [8, 16, 24])
    assert resumed.damaged == []
    assert (folder / files.REPORTS).stat().st_mtime_ns == written


def test_a_damaged_state_is_named_and_the_one_before_it_taken(folder: Path) -> None:
    damage(folder, loop.STATES[0])
    resumed = resume(CONFIG, small.splits(), folder)
    assert resumed.state is not None
    assert resumed.state.tasks_seen == 16
    assert [line["tasks_seen"] for line in resumed.reports] == seen(folder) == [8, 16]
    (message,) = resumed.damaged
    assert message.startswith(f"{folder / files.STATE / loop.STATES[0]}: is damaged")


def test_without_a_whole_state_the_run_begins_anew(folder: Path) -> None:
    damage(folder, *loop.STATES)
    resumed = resume(CONFIG, small.splits(), folder)
    assert (resumed.state, resumed.reports, len(resumed.damaged)) == (None, [], 2)
    assert seen(folder) == []
    assert not (folder / files.STATE).exists()


@pytest.mark.parametrize("damaged", [b"", b'{"tasks_seen": 8}\n', b"{not json}\n"])
def test_a_state_whose_reports_are_lost_is_not_gone_on_with(folder: Path, damaged: bytes) -> None:
    (folder / files.REPORTS).write_bytes(damaged)
    resumed = resume(CONFIG, small.splits(), folder)
    assert (resumed.state, resumed.reports) == (None, [])
    assert any(files.REPORTS in message for message in resumed.damaged)


def test_the_state_before_is_taken_where_reports_are_lost_after_it(folder: Path) -> None:
    files.write_lines(folder / files.REPORTS, files.read_lines(folder / files.REPORTS)[:2])
    resumed = resume(CONFIG, small.splits(), folder)
    assert resumed.state is not None
    assert resumed.state.tasks_seen == 16


def test_a_run_that_diverged_between_two_rungs_has_not_lost_a_report(folder: Path) -> None:
    last = loop.load_state(folder / files.STATE, CONFIG, small.splits())._replace(tasks_seen=20)
    loop.save_state(folder / files.STATE, last)
    lines = files.read_lines(folder / files.REPORTS)
    files.write_lines(folder / files.REPORTS, [*lines[:2], {**lines[2], "tasks_seen": 20, "finite": False}])
    resumed = resume(CONFIG, small.splits(), folder)
    assert resumed.state is not None
    assert (resumed.state.tasks_seen, resumed.damaged) == (20, [])


def test_a_damaged_run_is_trained_again_to_the_same_numbers_and_says_so(tmp_path: Path) -> None:
    splits, messages = small.splits(), []
    runs.train_run(CONFIG, splits, tmp_path / "whole")
    whole = files.read_lines(tmp_path / "whole" / files.REPORTS)
    runs.train_run(CONFIG, splits, tmp_path / "damaged")
    reports = tmp_path / "damaged" / files.REPORTS
    files.write_lines(reports, files.read_lines(reports)[:2])  # as if it had been killed after the third
    damage(tmp_path / "damaged", loop.STATES[0])
    runs.train_run(CONFIG, splits, tmp_path / "damaged", damaged=messages.append)
    again = files.read_lines(reports)
    assert [line["val_scores"] for line in again] == [line["val_scores"] for line in whole]
    assert [line["val_loss"] for line in again] == [line["val_loss"] for line in whole]
    assert len(messages) == 1


def test_who_took_the_turn_last_may_write(tmp_path: Path) -> None:
    first = FencingToken(tmp_path)
    first.check()
    second = FencingToken(tmp_path)
    second.check()
    with pytest.raises(resumption.Superseded, match="another process goes on with this run"):
        first.check()
    (tmp_path / resumption.TURN).unlink()
    with pytest.raises(resumption.Superseded):
        second.check()


def test_a_process_that_was_given_up_for_dead_writes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state = loop.save_state

    def replaced(folder: Path, state: loop.State) -> None:
        save_state(folder, state)
        FencingToken(tmp_path)

    monkeypatch.setattr(loop, "save_state", replaced)
    with pytest.raises(resumption.Superseded):
        runs.train_run(CONFIG, small.splits(), tmp_path)
    assert seen(tmp_path) == [8]


def test_a_setting_that_a_recorded_run_lacks_means_its_default(tmp_path: Path) -> None:
    config = config_of("finetune").model_copy(update={"hyperparameters": FINETUNE})
    with quickly():
        runs.train_run(config, splits(), tmp_path)
    before = files.read_json(tmp_path / files.CONFIG)
    expected = runs.test_run(tmp_path, splits(), 4)
    lacking = {key: FINETUNE[key] for key in FINETUNE if key not in ("adapt_block", "support_copies")}
    files.write_json(
        tmp_path / files.CONFIG, {**before, "run": {**before["run"], "hyperparameters": lacking}}
    )
    with quickly():
        runs.train_run(config, splits(), tmp_path)  # goes on, and finds all done
    assert runs.read_config(tmp_path).hyperparameters == FINETUNE
    assert runs.test_run(tmp_path, splits(), 4)["accuracy"] == expected["accuracy"]
    other = config.model_copy(update={"hyperparameters": {**FINETUNE, "support_copies": 2}})
    with pytest.raises(MetabenchError, match="other settings"):
        runs.train_run(other, splits(), tmp_path)


@pytest.mark.parametrize("name", algorithms.names())
def test_a_run_recorded_without_settings_is_one_of_all_defaults(name: str) -> None:
    recorded = {"algorithm": name, "hyperparameters": {}}
    assert runs.with_defaults(recorded)["hyperparameters"] == vars(algorithms.hparams(name, {}))


FINETUNE = vars(algorithms.hparams("finetune", {"inner_steps": 2}))
"""Every setting of an algorithm, as a run records them."""
