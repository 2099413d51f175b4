"""A search that is asked to finish now: what runs ends where it is, is told so, and nothing is tried anew."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from typer.testing import CliRunner

from metabench.cli import app
from metabench.core.config import SearchSpace
from metabench.leaderboard.folders import read_search
from metabench.search.folder import changes
from metabench.search.journal import rule
from metabench.search.journal.ledger import DIVERGED, FAILED, JOURNAL, PRUNED, WORK, Ledger
from metabench.search.progress import finish
from metabench.search.progress.finish import FINAL, SEARCH, Finish
from metabench.search.progress.watch import Watch
from metabench.search.propose.searcher import FairSearcher
from metabench.search.ray import cluster, experiment, jobs
from metabench.storage import files
from tests.search.played import make_report


@pytest.fixture
def folder(tmp_path: Path, space: SearchSpace) -> Path:
    """Return a search that has just begun."""
    record = {"protocol": 1, "seed": 0, "data_fingerprint": "f" * 64, "space": space.model_dump(mode="json")}
    files.write_json(tmp_path / files.SEARCH, {**record, "planned": {"maml": 9, "maml_pp": 9}})
    return tmp_path


def begin(ledger: Ledger, n_trials: int) -> list[str]:
    return [ledger.propose("maml", {}, {"inner_lr": k}, False, 0).name for k in range(n_trials)]


def test_every_trial_ends_where_it_is_and_a_report_that_nobody_heard_counts(
    folder: Path, space: SearchSpace
) -> None:
    ledger = Ledger(folder, 2)
    waits, runs, begins, unheard, diverges = begin(ledger, 5)
    ledger.record(waits, make_report(100, 0.5), "wait", {"rung": 0})
    ledger.record(runs, make_report(100, 0.6), "continue", {"rung": 0})
    for name, accuracy in ((unheard, 0.7), (diverges, None)):
        files.append_line(folder / WORK / name / files.REPORTS, make_report(100, accuracy, scores=[0.7]))
    rule.cut_short(ledger, space.budget)
    ends = {trial.name: (trial.status, trial.tasks_seen) for trial in ledger.trials.values()}
    assert ends == {
        waits: (PRUNED, 100),
        runs: (PRUNED, 100),
        begins: (FAILED, 0),
        unheard: (PRUNED, 100),
        diverges: (DIVERGED, 100),
    }
    assert ledger.trials[runs].details[100]["is_cut_short"]
    assert [trial.name for trial in ledger.candidates("maml")] == [unheard, runs, waits]
    journal = (folder / JOURNAL).read_bytes()
    again = Ledger(folder, 2)  # as after a crash
    rule.cut_short(again, space.budget)
    assert (folder / JOURNAL).read_bytes() == journal
    assert {trial.name: (trial.status, trial.tasks_seen) for trial in again.trials.values()} == ends
    FairSearcher(space, again, seed=0).finish()  # the studies are told of all that


def test_a_request_is_taken_once_recorded_first_and_known_to_whoever_goes_on(folder: Path) -> None:
    said: list[str] = []
    driver = Finish(folder, said.append)
    assert not driver.is_cut(SEARCH)
    finish.ask(folder)
    driver._looked = 0.0
    assert driver.is_cut(SEARCH)
    assert driver.is_cut(SEARCH)
    assert said == ["finishing now, as was asked: what is left of the search is left out"]
    assert not (folder / files.FINISH).exists()
    assert [entry["stage"] for entry in files.read_json(folder / files.SEARCH)["finish"]] == [SEARCH]
    rebuilt = Finish(folder, said.append)
    assert (rebuilt.is_cut(SEARCH), rebuilt.is_cut(FINAL)) == (True, False)


def test_a_request_for_a_stage_that_has_ended_cuts_no_other(folder: Path) -> None:
    finish.ask(folder)
    driver = Finish(folder, print)
    assert not driver.is_cut(FINAL)
    assert not (folder / files.FINISH).exists()


def test_a_request_for_the_final_runs_waits_for_them_where_the_trials_are_looked_at_first(
    folder: Path,
) -> None:
    files.write_json(folder / files.CHOSEN, {"maml": None, "maml_pp": None})
    finish.ask(folder)
    driver = Finish(folder, print)
    assert not driver.is_cut(SEARCH)
    driver._looked = 0.0
    assert driver.is_cut(FINAL)


def test_a_request_that_is_damaged_is_set_aside_and_said(folder: Path) -> None:
    (folder / files.FINISH).write_text('{"stage": "everything"}')
    said: list[str] = []
    assert not Finish(folder, said.append).is_cut(SEARCH)
    assert "finish.json" in said[0]


def test_the_command_says_what_it_asks_for_and_when_it_will_be_done(folder: Path) -> None:
    shown = CliRunner().invoke(app, ["finish", str(folder)])
    assert shown.exit_code == 0, shown.output
    assert "once the same search command is run again no further trial is begun" in shown.output
    files.write_json(folder / files.CHOSEN, {"maml": None, "maml_pp": None})
    with files.lock(folder):
        shown = CliRunner().invoke(app, ["finish", str(folder)])
    assert "within seconds final runs that have not ended are left out" in shown.output
    assert json.loads((folder / files.FINISH).read_text())["stage"] == FINAL


def test_of_what_is_finished_nothing_is_asked_and_of_no_search_it_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    opened = {"config_hash": "d" * 64, "times_opened": 1, "finished": "2026-01-01T00:00:00+00:00"}
    files.write_json(folder / files.META_TEST, opened)
    assert "is finished" in finish.ask(folder)
    assert not (folder / files.FINISH).exists()
    shown = CliRunner().invoke(app, ["finish", str(tmp_path / "nowhere")])
    assert (shown.exit_code, "holds no search" in shown.output) == (2, True)


def test_the_board_says_what_is_missing(folder: Path, space: SearchSpace) -> None:
    assert read_search(folder).left_out == []
    ledger = Ledger(folder, 2)
    first, _ = begin(ledger, 2)
    ledger.record(first, make_report(100, 0.5), "continue", {"rung": 0})
    finish.ask(folder)
    assert Finish(folder, print).is_cut(SEARCH)
    rule.cut_short(ledger, space.budget)
    (line,) = read_search(folder).left_out
    assert line == "Finished early, as was asked; trials that were judged: maml 1 of 9, maml_pp 0 of 9."


def test_what_was_left_out_goes_on_where_that_is_accepted_and_is_recorded(
    folder: Path, space: SearchSpace
) -> None:
    record = files.read_json(folder / files.SEARCH)
    described = {key: record[key] for key in ("protocol", "seed", "data_fingerprint", "space")}
    files.write_json(folder / files.SEARCH, {**record, "finish": [{"stage": SEARCH}]})
    opened = {"config_hash": "d" * 64, "times_opened": 1, "finished": "2026-01-01T00:00:00+00:00"}
    files.write_json(folder / files.META_TEST, opened)
    changes.reconcile(folder, space, described, False, print)
    assert "finish" in files.read_json(folder / files.SEARCH)
    changes.reconcile(folder, space, described, True, print)
    after = files.read_json(folder / files.SEARCH)
    assert "finish" not in after
    assert after["changes"][0]["changed"] == {"finish": [[{"stage": SEARCH}], None]}
    assert (folder / files.EARLIER / "1" / files.META_TEST).exists()


def test_a_larger_budget_goes_on_where_the_trials_had_been_left_out(folder: Path, space: SearchSpace) -> None:
    record = files.read_json(folder / files.SEARCH)
    described = {key: record[key] for key in ("protocol", "seed", "data_fingerprint", "space")}
    files.write_json(folder / files.SEARCH, {**record, "finish": [{"stage": SEARCH}]})
    larger = space.model_copy(
        update={"budget": space.budget.model_copy(update={"trials": space.budget.trials + 2})}
    )
    changes.reconcile(folder, larger, {**described, "space": larger.model_dump(mode="json")}, True, print)
    assert "finish" not in files.read_json(folder / files.SEARCH)
    assert not Finish(folder, print).is_cut(SEARCH)


def endless_trial(config: dict[str, Any], place: str, space: dict[str, Any]) -> None:
    """Report once, and train for ever."""
    report = make_report(100, 0.5)
    files.append_line(Path(place) / WORK / config["trial"] / files.REPORTS, report)
    tune.report({"tasks_seen": 100, "report": json.dumps(report)})
    time.sleep(3600)


def endless_job(name: str) -> str:
    """End at once, or never."""
    time.sleep(0 if name == "first" else 3600)
    return name


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.Cluster]:
    """Start a small cluster of this machine."""
    with cluster.connect(None, tmp_path_factory.mktemp("ray"), cpus=2) as small:
        yield small


@pytest.mark.slow
def test_trials_that_would_run_for_ever_end_within_seconds_of_the_request(
    folder: Path, space: SearchSpace, joined: cluster.Cluster
) -> None:
    none = space.model_copy(update={"budget": space.budget.model_copy(update={"scheduler": "none"})})
    ledger, watch = Ledger(folder, 2), Watch(folder, none, quiet=True)
    driver = Finish(folder, print)

    def is_cut() -> bool:
        have_reported = [trial for trial in ledger.trials.values() if trial.reports]
        if len(have_reported) == 2 and not (folder / files.FINISH).exists():
            finish.ask(folder)
        return driver.is_cut(SEARCH)

    experiment.explore(folder, none, ledger, joined, watch, 0, endless_trial, is_cut=is_cut)
    assert {(trial.status, trial.tasks_seen) for trial in ledger.trials.values()} == {(PRUNED, 100)}
    assert len(ledger.trials) == 2
    done: list[str] = []
    arguments = {name: (name,) for name in ("first", "second", "third")}
    errors = jobs.run_all(  # whose processes find room: none of those trials is left
        endless_job, arguments, joined, lambda name, result: done.append(name), beside=lambda _, n: n == 0
    )
    assert (done, errors) == (["first"], {})
