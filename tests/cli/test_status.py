"""How a search stands, read from its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from metabench.cli import app
from metabench.core import MetabenchError, Split, utc_now
from metabench.core.config import SearchSpace
from metabench.data.reading.splits import make_splits
from metabench.search.folder import create_or_resume
from metabench.search.journal.ledger import Ledger
from metabench.search.journal.rule import decide
from metabench.search.progress import summary
from metabench.search.progress.watch import Watch
from metabench.search.propose.searcher import FairSearcher
from metabench.storage import files
from tests.search.conftest import space  # noqa: F401
from tests.search.played import make_report

RECORD = {"protocol": 1, "seed": 0, "data_fingerprint": "f" * 64}


def searched(folder: Path, searching: SearchSpace) -> Path:
    """Return a search of which one trial is complete, one pruned, one failed, one diverged and one runs."""
    split = Split(torch.zeros(6, 30, 1, 28, 28, dtype=torch.uint8), tuple("abcdef"), ("x",) * 6)
    create_or_resume(folder, searching, make_splits("squares", split, split, split), seed=0)
    ledger = Ledger(folder, 2)
    searcher = FairSearcher(searching, ledger, seed=0)
    names = [searcher.suggest(str(number))["trial"] for number in range(6)]
    for rung, accuracy in ((100, 0.4), (300, 0.5), (900, 0.6)):
        decide(ledger, searching.budget, names[0], make_report(rung, accuracy, seconds=rung / 10))
    decide(ledger, searching.budget, names[2], make_report(100, 0.3, seconds=10.0))
    decide(ledger, searching.budget, names[1], make_report(100, None, seconds=10.0))
    ledger.fail(names[3], "Traceback\nValueError: broken")
    watch = Watch(folder, searching, quiet=True)
    watch.slots, watch.nodes = 2, lambda: [{"address": "10.0.0.1", "cpus": 2.0, "gpus": 0.0}]
    watch.terminal.enter("search")
    watch.ended(ledger, names[0])
    return folder


@pytest.fixture
def folder(tmp_path: Path, space: SearchSpace) -> Path:  # noqa: F811
    return searched(tmp_path, space)


def test_trials_rungs_incumbents_and_cost_are_those_of_the_journal(folder: Path) -> None:
    status = summary.read(folder)
    assert status["stage"] == "search"
    assert status["is_driven"]  # its snapshot is fresh
    maml, maml_pp = status["algorithms"]["maml"], status["algorithms"]["maml_pp"]
    assert [maml[state] for state in summary.STATES] == [1, 0, 1, 1, 0, 0, 0]
    assert [maml_pp[state] for state in summary.STATES] == [1, 0, 0, 0, 1, 1, 0]
    assert (maml["planned"], maml["proposed"]) == (9, 3)
    assert maml["rungs"] == {"100": 2, "300": 1, "900": 1}
    assert maml["incumbent"]["trial"] == "maml-000"
    assert maml["incumbent"]["val_accuracy"] == 0.6
    assert maml_pp["incumbent"] is None
    assert maml_pp["errors"] == {"maml_pp-001": "ValueError: broken"}
    assert status["spent"] == {"tasks": 1100, "seconds": 110.0}
    # ended: 900, 100, 100 and 0 tasks, 275 on average; 12 to come, 2 run, 8 final runs of 900
    assert status["expected"]["tasks_left"] == 12 * 275 + 2 * 275 + 8 * 900
    assert status["expected"]["accelerator_seconds_left"] == pytest.approx(1105.0)


def test_where_seconds_are_the_budget_no_more_are_left_than_it_has(
    tmp_path: Path,
    space: SearchSpace,  # noqa: F811
) -> None:
    seconds = space.budget.model_copy(update={"unit": "seconds", "seconds": 104.0})
    space = space.model_copy(update={"budget": seconds})
    expected = summary.read(searched(tmp_path, space))["expected"]
    # maml spent 100 and maml_pp 10: 4 and 94 are left, and 8 final runs of 900 tasks, 10 of them a second
    assert expected["accelerator_seconds_left"] == pytest.approx(4 + 94 + 8 * 90)


def test_an_algorithm_that_has_tried_all_it_should_has_no_seconds_left(
    tmp_path: Path,
    space: SearchSpace,  # noqa: F811
) -> None:
    seconds = space.budget.model_copy(update={"unit": "seconds", "seconds": 1000.0, "trials": 1})
    space = space.model_copy(update={"budget": seconds})
    files.write_json(tmp_path / files.SEARCH, {**RECORD, "space": space.model_dump(mode="json")})
    ledger = Ledger(tmp_path, 2)
    ended, _ = (ledger.propose(name, {}, {}, True, 0).name for name in ("maml", "maml_pp"))
    decide(ledger, space.budget, ended, make_report(900, 0.5, seconds=90.0))
    # 10 tasks a second: one trial of maml_pp, which may take its 1000 s and took no more than the usual 90
    expected = summary.read(tmp_path)["expected"]
    assert expected["accelerator_seconds_left"] == pytest.approx(90 + 8 * 90)


def test_the_command_prints_it_for_people_and_for_programs(folder: Path) -> None:
    shown = CliRunner().invoke(app, ["status", str(folder)])
    assert shown.exit_code == 0
    for part in (
        "search, a process drives it",
        "4 of 18 trials",
        "maml_pp-002: starting",
        "maml-000 after 900 tasks",
        "1100 tasks in 110",
        "10.0.0.1",
    ):
        assert part in shown.output
    assert "maml_pp-001 failed: ValueError: broken" in shown.output
    status = json.loads(CliRunner().invoke(app, ["status", str(folder), "--json"]).output)
    assert status["algorithms"]["maml"]["complete"] == 1


def test_a_folder_without_a_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match="holds no search"):
        summary.read(tmp_path)


def test_reading_changes_nothing_and_a_lock_is_seen(folder: Path) -> None:
    (folder / files.RUNNING).unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert not summary.read(folder)["is_driven"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with files.lock(folder):
        assert summary.read(folder)["is_driven"]


def test_a_trial_that_is_looked_at_again_is_running_and_one_that_waits_waits(
    tmp_path: Path,
    space: SearchSpace,  # noqa: F811
) -> None:
    files.write_json(tmp_path / files.SEARCH, {**RECORD, "space": space.model_dump(mode="json")})
    ledger = Ledger(tmp_path, 2)
    names = [ledger.propose("maml", {}, {"inner_lr": 0.1}, False, 0).name for _ in range(3)]
    ledger.record(names[0], make_report(100, 0.5), "continue", {})
    ledger.mark_borderline(names[1], 100, 1, {})
    ledger.record(names[2], make_report(100, 0.4), "wait", {})
    counted = summary.read(tmp_path)["algorithms"]["maml"]
    assert (counted["running"], counted["waiting"]) == (2, 1)
    ledger.settle(names[2], "pruned", {})
    assert summary.read(tmp_path)["algorithms"]["maml"]["pruned"] == 1


def test_looking_at_a_journal_finishes_nothing_that_a_kill_has_left(
    tmp_path: Path,
    space: SearchSpace,  # noqa: F811
) -> None:
    ledger = Ledger(tmp_path, 2)
    name = ledger.propose("maml", {}, {"inner_lr": 0.1}, False, 0).name
    ledger.record(name, make_report(100, 0.5), "pruned", {})
    (tmp_path / files.TRIALS).unlink()  # as if killed before this was written
    assert Ledger(tmp_path, 0, is_driver=False).trials[name].status == "pruned"
    assert not (tmp_path / files.TRIALS).exists()
    Ledger(tmp_path, 2)
    assert (tmp_path / files.TRIALS).exists()


def test_a_young_search_of_regression_is_judged_by_its_error(
    tmp_path: Path,
    space: SearchSpace,  # noqa: F811
) -> None:
    task = space.task.model_copy(update={"dataset": "sinusoid", "way": 1})
    described = space.model_copy(update={"task": task}).model_dump(mode="json")
    files.write_json(tmp_path / files.SEARCH, {**RECORD, "space": described})
    ledger = Ledger(tmp_path, 2)
    ledger.record(ledger.propose("maml", {}, {}, False, 0).name, make_report(100, -3.2), "continue", {})
    stands = summary.read(tmp_path)  # no trial has ended, so trials.jsonl is not there yet
    assert stands["metric"] == "error"
    assert stands["algorithms"]["maml"]["incumbent"]["val_error"] == 3.2


def test_the_incumbent_got_furthest_and_neither_diverged_nor_failed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 2)
    names = [ledger.propose("maml", {}, {}, False, 0).name for _ in range(5)]
    assert summary.incumbent(ledger.of("maml")) is None
    for name, score in zip(names, (0.9, 0.5, 0.6, 0.8, 0.7), strict=True):
        ledger.record(name, make_report(100, score), "continue", {})
    ledger.fail(names[0], "broken")
    ledger.record(names[3], make_report(300, None), "diverged", {})
    assert summary.incumbent(ledger.of("maml")) is ledger.trials[names[4]]
    ledger.record(names[1], make_report(300, 0.4), "continue", {})
    assert summary.incumbent(ledger.of("maml")) is ledger.trials[names[1]]


def test_what_another_hour_would_gain_and_when_a_modelled_search_is_over(
    tmp_path: Path,
    space: SearchSpace,  # noqa: F811
) -> None:
    budget = space.budget.model_copy(update={"scheduler": "freeze_thaw", "trials": 3})
    space = space.model_copy(update={"budget": budget, "algorithms": {"maml": {}}})
    split = Split(torch.zeros(6, 30, 1, 28, 28, dtype=torch.uint8), tuple("abcdef"), ("x",) * 6)
    create_or_resume(tmp_path, space, make_splits("squares", split, split, split), seed=0)
    searcher = FairSearcher(space, ledger := Ledger(tmp_path, 2), seed=0)
    for number, accuracy in enumerate((0.4, 0.5)):
        name = searcher.suggest(str(number))["trial"]
        rung = 100 if ledger.trials[name].tasks_seen == 0 else 300
        decide(ledger, space.budget, name, make_report(rung, accuracy, seconds=rung / 10))
        searcher.hand_back(str(number))
    stands = summary.read(tmp_path)
    assert stands["stage"] == "search"
    seen = ledger.tasks("maml")
    # three times 100, then 200 and 600 of one; four final runs of 900
    assert stands["expected"]["tasks_left"] == 300 + 200 + 600 - seen + 4 * 900
    led = summary.leaders(space, ledger)
    assert led["maml"]["hourly_gain"] > 0
    now = utc_now().isoformat(timespec="seconds")
    files.write_json(tmp_path / files.RUNNING, {"updated": now, "trials": {}, "leaders": led})
    assert summary.read(tmp_path)["algorithms"]["maml"]["incumbent"]["trial"] == led["maml"]["trial"]
    shown = CliRunner().invoke(app, ["status", str(tmp_path)]).stdout
    assert (
        f"another hour of a worker is expected to gain {100 * led['maml']['hourly_gain']:.1f} points" in shown
    )
    (tmp_path / files.RUNNING).unlink()
    searcher.finish()
    assert summary.read(tmp_path)["stage"] == "confirmation"
