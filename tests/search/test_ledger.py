"""The journal: what is written once, and what a kill at any moment leaves behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from metabench.core.config import SearchSpace
from metabench.core.objectives import OBJECTIVES
from metabench.search.journal.ledger import FAILED, JOURNAL, PRUNED, WORK, Ledger, ranked
from metabench.search.journal.rule import decide
from metabench.storage import files
from tests.search.played import make_error_report, make_report


def play(folder: Path, space: SearchSpace) -> Ledger:
    """Write a small search: two ended trials, one failed, one on its way."""
    ledger = Ledger(folder, keep=1)
    for _ in range(4):
        name = ledger.propose("maml", {"inner_lr": 0.1}, {"inner_lr": 0.1}, False, 0).name
        files.write_text(folder / WORK / name / files.STATE / "state.safetensors", "")
    decide(ledger, space.budget, "maml-000", make_report(100, 0.5))
    decide(ledger, space.budget, "maml-001", make_report(100, 0.4))
    decide(ledger, space.budget, "maml-000", make_report(900, 0.6))
    ledger.fail("maml-002", "Traceback ...\nValueError: no")
    decide(ledger, space.budget, "maml-003", make_report(100, 0.7))
    return ledger


def test_every_finished_trial_stands_once_in_trials_jsonl(tmp_path: Path, space: SearchSpace) -> None:
    play(tmp_path, space)
    lines = files.read_lines(tmp_path / files.TRIALS)
    status = {line["trial"]: line["status"] for line in lines}
    assert status == {"maml-001": "pruned", "maml-000": "complete", "maml-002": "failed"}
    assert len(lines) == 3
    assert lines[1]["val_accuracy"] == 0.6
    assert not any("error" in key for key in lines[1] if key != "error")  # why it failed
    assert [report["tasks_seen"] for report in lines[1]["reports"]] == [100, 900]
    assert lines[2]["error"].endswith("ValueError: no")


def test_of_regression_the_lowest_error_ranks_first_and_is_called_an_error(
    tmp_path: Path, space: SearchSpace
) -> None:
    ledger = Ledger(tmp_path, 2, OBJECTIVES["regression"])
    for error in (0.9, 0.3, 0.6):
        name = ledger.propose("maml", {}, {}, False, 0).name
        decide(ledger, space.budget, name, make_error_report(900, error))
    assert [trial.score for trial in ranked(ledger.of("maml"))] == [-0.3, -0.6, -0.9]
    lines = files.read_lines(tmp_path / files.TRIALS)
    assert [line["val_error"] for line in lines] == [0.9, 0.3, 0.6]
    assert not any("accuracy" in key for line in lines for key in line)


def test_a_journal_cut_anywhere_is_read_and_finished_without_loss(tmp_path: Path, space: SearchSpace) -> None:
    play(tmp_path / "whole", space)
    journal = (tmp_path / "whole" / JOURNAL).read_bytes()
    lines = (tmp_path / "whole" / files.TRIALS).read_bytes()
    for cut in range(0, len(journal) + 1, 37):
        folder = tmp_path / "cut"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / JOURNAL).write_bytes(journal[:cut])
        ledger = Ledger(folder, keep=1)
        written = files.read_lines(folder / files.TRIALS)
        ended = [trial.name for trial in ledger.trials.values() if trial.status is not None]
        assert sorted(line["trial"] for line in written) == sorted(ended)
        ledger.propose("maml", {}, {}, False, 0)  # a torn line swallows nothing
        assert len(Ledger(folder, keep=1).trials) == len(ledger.trials)
    for cut in range(0, len(lines) + 1, 97):  # the journal whole, trials.jsonl behind
        (folder / JOURNAL).write_bytes(journal)
        (folder / files.TRIALS).write_bytes(lines[:cut])
        Ledger(folder, keep=1)
        names = [line["trial"] for line in files.read_lines(folder / files.TRIALS)]
        assert sorted(names) == ["maml-000", "maml-001", "maml-002"]


def test_a_trial_that_has_ended_cannot_fail_any_more(tmp_path: Path, space: SearchSpace) -> None:
    ledger = play(tmp_path, space)
    ledger.fail("maml-001", "late")
    assert ledger.trials["maml-001"].status == PRUNED
    assert ledger.trials["maml-002"].status == FAILED


def test_only_states_that_may_still_be_confirmed_stay_on_disk(tmp_path: Path, space: SearchSpace) -> None:
    ledger = play(tmp_path, space)
    kept = {
        trial.name
        for trial in ledger.trials.values()
        if (tmp_path / WORK / trial.name / files.STATE).exists()
    }
    # 001 was the best when it ended; 002 failed; 003 still runs
    assert kept == {"maml-000", "maml-001", "maml-003"}
    assert Ledger(tmp_path, keep=1).trials["maml-000"].checkpoint == f"{WORK}/maml-000/{files.STATE}"


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_best_in_the_end_still_have_their_states(tmp_path: Path, space: SearchSpace, keep: int) -> None:
    ledger = Ledger(tmp_path, keep)
    for index in range(12):
        name = ledger.propose("maml", {}, {}, False, 0).name
        files.write_text(tmp_path / WORK / name / files.STATE / "state.safetensors", "")
        decide(ledger, space.budget, name, make_report(900 if index % 3 else 100, ((index * 5) % 12) / 12))
    best = ranked(ledger.of("maml"))[:keep]
    assert len(best) == keep
    assert all(trial.checkpoint and (tmp_path / trial.checkpoint).exists() for trial in best)
    assert all(trial.tasks_seen == 900 for trial in best)
