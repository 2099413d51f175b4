"""The controls: everybody goes on, or the best of all who have arrived at one rung."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from optuna.trial import TrialState

from metabench.core.config import SearchSpace
from metabench.search import space as spaces
from metabench.search.journal.ledger import (
    COMPLETE,
    CONTINUE,
    DIVERGED,
    FAILED,
    JOURNAL,
    PRUNED,
    WAIT,
    Ledger,
)
from metabench.search.journal.rule import decide, resume, stop_waiting
from metabench.search.propose.searcher import FINISHED, FairSearcher
from metabench.storage import files, records
from tests.search import proposals
from tests.search.played import make_report

SCORES = {0: 0.5, 1: 0.7, 2: 0.4, 3: None, 4: 0.7, 5: 0.6, 6: 0.9, 7: 0.3}
"""At the first rung, by number; the fourth diverges."""


@pytest.fixture
def control() -> SearchSpace:
    """Return a space with eight trials, of which the best of three goes on from 100 tasks to 900."""
    return proposals.space_of(scheduler="top_k", trials=8)


def arrive(folder: Path, space: SearchSpace, last: int = 8) -> Ledger:
    """Let trials arrive at the first rung."""
    ledger = Ledger(folder, keep=2)
    for number in range(last):
        name = ledger.propose("maml_pp", {}, {}, False, 0).name
        decision = decide(ledger, space.budget, name, make_report(100, SCORES[number]))
        assert decision == (DIVERGED if SCORES[number] is None else WAIT)
    return ledger


def test_nobody_is_stopped_where_there_is_no_scheduler(tmp_path: Path, space: SearchSpace) -> None:
    budget = space.budget.model_copy(update={"scheduler": "none"})
    assert spaces.rungs(budget) == [100, 300, 900]  # where a trial saves its state
    ledger = Ledger(tmp_path, keep=2)
    for scores, ending in (((0.9, 0.8, 0.7), COMPLETE), ((0.1, 0.1, 0.1), COMPLETE), ((0.5, None), DIVERGED)):
        name = ledger.propose("maml", {}, {}, False, 0).name
        decided = [
            decide(ledger, budget, name, make_report(*one))
            for one in zip((100, 300, 900), scores, strict=False)
        ]
        assert decided == [CONTINUE] * (len(scores) - 1) + [ending]


def choose(ledger: Ledger, space: SearchSpace) -> list[str]:
    """Let go on who may, as free workers do, and stop the rest; return who was stopped."""
    while resume(ledger, space.budget, "maml_pp", full=900) is not None:
        pass
    stop_waiting(ledger, space.budget, "maml_pp", 0)
    return [trial.name for trial in ledger.of("maml_pp") if trial.status == PRUNED]


def test_the_best_share_of_all_goes_on_once_the_last_has_arrived(
    tmp_path: Path, control: SearchSpace
) -> None:
    assert spaces.rungs(control.budget) == [100, 900]
    ledger = arrive(tmp_path, control)
    assert resume(ledger, control.budget, "maml_pp", full=0) is None
    # Of seven that arrived two go on: 0.9, and the two 0.7 that tie.
    stopped = choose(ledger, control)
    assert stopped == [f"maml_pp-00{number}" for number in (0, 2, 5, 7)]
    goes_on = [trial.number for trial in ledger.of("maml_pp") if trial.decisions[100] == CONTINUE]
    assert goes_on == [1, 4, 6]
    basis = ledger.trials["maml_pp-005"].details[100]
    assert (basis["rank"], basis["arrived"], basis["cutoff"]) == (4, 7, 0.7)
    assert basis["margin"] == pytest.approx(-0.1)
    lines = records.trials(tmp_path)
    assert {name for name, line in lines.items() if line["status"] == PRUNED} == set(stopped)
    for number in goes_on:
        name = f"maml_pp-00{number}"
        assert decide(ledger, control.budget, name, make_report(100, SCORES[number])) == CONTINUE
        assert decide(ledger, control.budget, name, make_report(900, 0.1)) == COMPLETE


def test_a_kill_between_two_choices_changes_none(tmp_path: Path, control: SearchSpace) -> None:
    ledger = arrive(tmp_path / "whole", control)
    choose(ledger, control)
    whole = {trial.name: trial.decisions for trial in ledger.of("maml_pp")}
    journal = files.read_lines(tmp_path / "whole" / JOURNAL)
    assert Counter(event["event"] for event in journal[-7:]) == {"resumed": 3, "settled": 4}
    for kept in range(len(journal) - 7, len(journal)):
        files.write_lines(tmp_path / "cut" / JOURNAL, journal[:kept])
        (tmp_path / "cut" / files.TRIALS).unlink(missing_ok=True)
        again = Ledger(tmp_path / "cut", keep=2)
        choose(again, control)
        assert {trial.name: trial.decisions for trial in again.of("maml_pp")} == whole


def test_who_fails_before_the_rung_holds_nobody_up(tmp_path: Path, control: SearchSpace) -> None:
    ledger = Ledger(tmp_path, keep=2)
    searcher = FairSearcher(control, ledger, seed=3)
    *arrived, last = [searcher.suggest(str(number)) for number in range(8)]
    for number, config in enumerate(arrived):
        decide(ledger, control.budget, config["trial"], make_report(100, number / 10))
        searcher.hand_back(str(number))
    assert searcher.suggest("more") is None  # the last one has yet to arrive
    ledger.fail(last["trial"], "broken")
    searcher.hand_back("7")
    assert searcher.suggest("more")["trial"] == "maml_pp-006"


def test_a_whole_search_learns_from_who_waits_and_trains_the_best_to_the_end(tmp_path: Path) -> None:
    space = proposals.space_of(scheduler="top_k", trials=9)
    ledger = Ledger(tmp_path, keep=2)
    searcher = FairSearcher(space, ledger, seed=3)
    for number in range(9):
        assert searcher.remaining()
        proposals.finish(searcher, searcher.suggest(str(number)))
    assert Counter(trial.state for trial in ledger.of("maml_pp")).keys() == {"waiting", PRUNED}
    states = [trial.state for trial in searcher.studies["maml_pp"].study.trials]
    assert states == [TrialState.PRUNED] * 9  # so that the next proposal would know of them
    searcher = FairSearcher(space, ledger, seed=3)
    assert searcher.remaining()
    best = sorted(ledger.of("maml_pp"), key=lambda trial: -(trial.score or 0))[:3]
    handed = [searcher.suggest(str(index)) for index in range(3)]
    assert {config["trial"] for config in handed} == {trial.name for trial in best}
    for index, config in enumerate(handed):
        proposals.finish(searcher, config)
        searcher.hand_back(str(index))
    assert searcher.suggest("more") == FINISHED
    searcher.finish()
    counted = Counter(trial.state for trial in searcher.studies["maml_pp"].study.trials)
    assert counted == {TrialState.COMPLETE: 3, TrialState.PRUNED: 6}
    assert not any(trial.status in (None, FAILED) for trial in ledger.of("maml_pp"))
