"""What is said of a running search."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from metabench.core.config import SearchSpace
from metabench.core.objectives import OBJECTIVES
from metabench.search.journal.ledger import WORK, Ledger
from metabench.search.journal.rule import decide
from metabench.search.progress.watch import NAMED, Watch
from metabench.storage import files
from tests.search.played import make_report


def play(ledger: Ledger, space: SearchSpace, watch: Watch, scores: list[list[float]]) -> None:
    """Let trials arrive at the first rung with these scores of tasks, and end."""
    for one in scores:
        name = ledger.propose("maml", {}, {}, False, 0).name
        report = make_report(100, statistics.fmean(one), scores=one)
        files.append_line(ledger.folder / WORK / name / files.REPORTS, report)
        decide(ledger, space.budget, name, report)
        watch.ended(ledger, name)
    watch.sum_up(ledger)


def test_a_few_trials_stopped_within_the_noise_are_named_and_all_are_counted(
    tmp_path: Path, space: SearchSpace, capsys: pytest.CaptureFixture[str]
) -> None:
    space = space.model_copy(update={"budget": space.budget.model_copy(update={"reduction_factor": 8})})
    watch = Watch(tmp_path, space)
    first, clear, noisy = [0.9, 0.5, 0.7], [0.8, 0.4, 0.6], [0.5, 0.9, 0.68]
    play(Ledger(tmp_path, keep=2), space, watch, [first, clear, *[noisy] * (NAMED + 2)])
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if "within the noise of 3 validation tasks" in line]
    assert [line.split()[0] for line in lines] == ["maml-002", "maml-003", "maml-004"]
    # Differences -0.4, 0.4, -0.02: mean -0.0067, standard error 0.231.
    assert lines[0].startswith("maml-002 was stopped 0.7 points short of the cut-off at 100 tasks, within")
    assert "(23.1 points)" in lines[0]
    assert "of 6 trials stopped early, 5 were within the noise of their validation tasks: maml 5" in said


def test_of_an_error_the_gap_is_told_as_a_number(
    tmp_path: Path, space: SearchSpace, capsys: pytest.CaptureFixture[str]
) -> None:
    objective = OBJECTIVES["regression"]
    watch = Watch(tmp_path, space, objective=objective)
    play(Ledger(tmp_path, 2, objective), space, watch, [[-2.0, -1.0], [-1.0, -2.5]])
    said = capsys.readouterr().err
    assert "maml-001 was stopped 0.250 short of the cut-off at 100 tasks" in said
    assert "%" not in said
    assert "points" not in said


def test_a_search_without_doubt_says_nothing_of_it(
    tmp_path: Path, space: SearchSpace, capsys: pytest.CaptureFixture[str]
) -> None:
    play(Ledger(tmp_path, 2), space, Watch(tmp_path, space), [[0.9, 0.5], [0.8, 0.4]])
    assert "noise" not in capsys.readouterr().err
