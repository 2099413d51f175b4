"""A second look before a decision within the noise: on which tasks, and the same whatever comes between."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray.tune.schedulers import TrialScheduler

from metabench.core.config import SearchSpace
from metabench.data.tasks import frozen
from metabench.search import space as spaces
from metabench.search.journal.ledger import CONTINUE, DIVERGED, JOURNAL, PRUNED, WORK, Arrival, Ledger
from metabench.search.journal.rule import REEVALUATE, decide, rank
from metabench.search.ray import worker
from metabench.search.ray.reevaluation import Answers
from metabench.search.ray.scheduler import RungScheduler
from metabench.storage import files as store
from metabench.storage import records
from metabench.training import evaluate, loop
from tests.search.played import make_report
from tests.support import small

FIRST = [0.8, 0.4, 0.6]
"""Scores of the tasks that every trial is validated on; each test adds further ones."""


@pytest.fixture
def space(space: SearchSpace) -> SearchSpace:
    """Return a space with three validation tasks, and five before a decision within their noise."""
    budget = space.budget.model_copy(update={"validation_tasks": 3, "borderline_tasks": 5})
    return space.model_copy(update={"budget": budget})


def tell(ledger: Ledger, space: SearchSpace, name: str, scores: Sequence[float]) -> str:
    """Report the scores of the first three tasks, or of all five, as a trial does, and return the answer."""
    report = make_report(100, statistics.fmean(scores[:3]), scores=scores)
    if len(scores) > 3:
        report["borderline_score"] = statistics.fmean(scores)
    store.write_lines(ledger.folder / WORK / name / store.REPORTS, [report])
    return decide(ledger, space.budget, name, report)


def begin(folder: Path, space: SearchSpace) -> tuple[Ledger, str]:
    """Let one trial arrive, and another that is within the noise of it."""
    ledger = Ledger(folder, keep=2)
    first, second = (ledger.propose("maml", {}, {}, False, 0).name for _ in range(2))
    assert tell(ledger, space, first, FIRST) == CONTINUE  # nobody to be compared with
    assert tell(ledger, space, second, [0.3, 0.8, 0.6]) == REEVALUATE
    return ledger, second


def test_a_doubtful_trial_is_decided_by_the_tasks_that_both_have(tmp_path: Path, space: SearchSpace) -> None:
    ledger, second = begin(tmp_path, space)
    assert ledger.trials[second].status is None
    assert len(ledger.rung("maml", 100)) == 1  # it has not arrived
    # Its further tasks are easy: over all five it would be ahead, on the three that both have it is behind.
    assert tell(ledger, space, second, [0.3, 0.8, 0.6, 1.0, 1.0]) == PRUNED
    third, fourth, fifth = (ledger.propose("maml", {}, {}, False, 0).name for _ in range(3))
    assert tell(ledger, space, third, [0.8, 0.6, 0.4]) == REEVALUATE
    # It ties with the first on three tasks, and has 0.76 on five where the second has 0.74.
    assert tell(ledger, space, third, [0.8, 0.6, 0.4, 1.0, 1.0]) == CONTINUE
    basis = ledger.trials[third].details[100]
    assert (basis["against"], basis["tasks"], basis["margin"], basis["rank"]) == ("maml-000", 3, 0, 1)
    # Ahead of all on three tasks, but behind the second and the third on the five that those have too.
    assert tell(ledger, space, fourth, [0.7, 0.45, 0.7]) == REEVALUATE
    assert tell(ledger, space, fourth, [0.7, 0.45, 0.7, 1.0, 0.8]) == PRUNED
    basis = ledger.trials[fourth].details[100]
    assert (basis["against"], basis["tasks"], basis["rank"]) == (third, 5, 3)
    assert basis["margin"] == pytest.approx(0.73 - 0.76)
    assert tell(ledger, space, fifth, [0.8, 0.45, 0.6]) == REEVALUATE
    assert tell(ledger, space, fifth, [0.8, 0.45, 0.6, 1.0, 0.9]) == PRUNED  # 0.75, behind the third alone
    assert ledger.trials[fifth].details[100]["cutoff"] == pytest.approx(0.76)
    assert ledger.trials[fifth].details[100]["rank"] == 2


def test_pairs_are_compared_on_common_tasks_and_the_rank_counts_who_is_ahead() -> None:
    others = [
        Arrival("a", 0.60),
        Arrival("b", 0.58, 0.70),
        Arrival("c", 0.64, 0.50),
        Arrival("d", 0.50, 0.66),
    ]
    decision = rank(Arrival("own", 0.61, 0.65), others, 2)
    # Ahead of a (0.61 to 0.60) and c (0.65 to 0.50), behind b (0.70) and d (0.66); of five two go on.
    assert (decision.rank, decision.arrived, decision.against) == (3, 5, "d")
    assert (decision.cutoff, decision.margin) == (0.66, pytest.approx(-0.01))
    assert not decision.is_promoted
    plain = rank(Arrival("own", 0.61), others, 2)  # only c is ahead on what all have
    assert (plain.rank, plain.against, plain.cutoff) == (2, "a", 0.60)
    assert plain.is_promoted


@pytest.mark.parametrize("restart", [False, True])
def test_whatever_happens_between_the_two_reports_the_decision_is_the_same(
    tmp_path: Path, space: SearchSpace, restart: bool
) -> None:
    ledger, second = begin(tmp_path, space)
    others = [ledger.propose("maml", {}, {}, False, 0).name for _ in range(2)]
    if restart:
        ledger = Ledger(tmp_path, keep=2)
    for name in others:  # two that are far better arrive first
        assert tell(ledger, space, name, [0.95, 0.96, 0.97]) == CONTINUE
    if restart:
        ledger = Ledger(tmp_path, keep=2)
    assert tell(ledger, space, second, [0.3, 0.8, 0.6]) == REEVALUATE  # told again after a crash
    assert tell(ledger, space, second, [0.5, 0.8, 0.6, 0.9, 0.9]) == CONTINUE  # only the first counts
    basis = ledger.trials[second].details[100]
    assert (basis["arrived"], basis["against"]) == (2, "maml-000")
    for scores in ([0.3, 0.8, 0.6], [0.5, 0.8, 0.6, 0.9, 0.9]):  # decided once, however it is told
        assert tell(ledger, space, second, scores) == CONTINUE
    events = [e for e in store.read_lines(tmp_path / JOURNAL) if e["trial"] == second]
    assert [event["event"] for event in events] == ["proposed", "doubted", "report"]
    assert [arrival.trial for arrival in ledger.rung("maml", 100)] == ["maml-000", *others, second]


def test_the_cost_of_looking_again_is_written_down_and_its_scores_are_not(
    tmp_path: Path, space: SearchSpace
) -> None:
    ledger, second = begin(tmp_path, space)
    tell(ledger, space, second, [0.3, 0.8, 0.6, 0.1, 0.1])
    line = records.trials(tmp_path)[second]
    assert (line["validation_tasks"], line["reports"][0]["val_tasks"]) == (5, 5)
    assert line["val_accuracy"] == pytest.approx(statistics.fmean([0.3, 0.8, 0.6]))
    assert line["reports"][0]["borderline_score"] == pytest.approx(0.38)
    assert ledger.trials["maml-000"].reports[0]["val_tasks"] == 3
    assert "val_scores" not in (tmp_path / JOURNAL).read_text()


def test_a_trial_that_diverges_on_the_further_tasks_has_diverged(tmp_path: Path, space: SearchSpace) -> None:
    ledger, second = begin(tmp_path, space)
    report = make_report(100, 0.5, scores=[0.3, 0.8, 0.6])
    assert decide(ledger, space.budget, second, {**report, "finite": False}) == DIVERGED


def test_without_the_option_a_doubtful_trial_is_decided_at_once(tmp_path: Path, space: SearchSpace) -> None:
    budget = space.budget.model_copy(update={"borderline_tasks": None})
    ledger = Ledger(tmp_path, keep=2)
    first, second = (ledger.propose("maml", {}, {}, False, 0).name for _ in range(2))
    plain = space.model_copy(update={"budget": budget})
    tell(ledger, plain, first, FIRST)
    assert tell(ledger, plain, second, [0.3, 0.8, 0.6]) == PRUNED
    assert ledger.trials[second].is_borderline


def test_the_scheduler_leaves_the_answer_before_it_lets_a_trial_go_on(
    tmp_path: Path, space: SearchSpace
) -> None:
    ledger, second = begin(tmp_path, space)
    answers = Answers()
    scheduler = RungScheduler(ledger, space.budget, answers)
    for name, scores, decision, wanted in (
        (second, [0.3, 0.8, 0.6], TrialScheduler.CONTINUE, True),
        (second, [0.3, 0.8, 0.6, 0.9, 0.9], TrialScheduler.STOP, False),
        ("maml-000", FIRST, TrialScheduler.CONTINUE, False),
    ):
        report = make_report(100, statistics.fmean(scores[:3]), scores=scores)
        report |= {"borderline_score": statistics.fmean(scores)} if len(scores) > 3 else {}
        trial = SimpleNamespace(config={"trial": name})
        assert scheduler.on_trial_result(None, trial, {"report": json.dumps(report)}) == decision
        assert answers.ask(name, 100) is wanted
    with pytest.raises(AssertionError, match="asks for 300"):
        answers.ask(second, 300)


def test_further_tasks_are_the_next_of_the_same_pool_and_none_of_the_confirmations() -> None:
    splits = small.splits()

    def tasks(pool: Any, n_tasks: int) -> list[tuple[list[int], ...]]:
        ((_, _, indices),) = frozen.frozen(splits, "meta_validation", small.TASK, n_tasks, pool).groups
        return [tuple(row) for row in torch.cat([indices.classes, indices.examples.flatten(1)], 1).tolist()]

    whole = frozen.frozen(splits, "meta_validation", small.TASK, 9, "search")
    ((_, positions, indices),) = frozen.between(whole, 6).groups
    assert positions.tolist() == [6, 7, 8]
    rows = torch.cat([indices.classes, indices.examples.flatten(1)], 1).tolist()
    assert [tuple(row) for row in rows] == tasks("search", 20)[6:9]
    assert not set(tasks("search", 20)) & set(tasks("confirm", 20))


class Stopped(Exception):
    """The process is killed."""


@pytest.fixture
def tiny(space: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> SearchSpace:
    """Return a space whose trials report after 8 and 16 tasks, on 4 validation tasks or 9."""
    monkeypatch.setattr(worker, "prepare", lambda: "cpu")
    monkeypatch.setattr(worker, "splits", lambda task, network, place: small.splits())
    changed = {"tasks": 16, "grace": 8, "reduction_factor": 2, "validation_tasks": 4, "borderline_tasks": 9}
    budget = space.budget.model_copy(update=changed)
    return space.model_copy(update={"budget": budget, "task": small.TASK})


def run(folder: Path, space: SearchSpace, wanted_at: int, stop: str = "") -> list[dict[str, Any]]:
    """Run a trial that is to be looked at again at one rung; kill it at a moment, and return what it told."""
    reports: list[dict[str, Any]] = []
    answers = Answers()

    def report(metrics: dict[str, Any]) -> None:
        line = json.loads(metrics["report"])
        reports.append(line)
        is_second = "borderline_score" in line
        if stop == ("second" if is_second else "first") and line["tasks_seen"] == wanted_at:
            raise Stopped
        answers.answer("maml-000", line["tasks_seen"], line["tasks_seen"] == wanted_at and not is_second)

    its = spaces.of(space, "maml")
    values = {**its.resolve(its.published[0]), "task_batch_size": 4}
    config = {"algorithm": "maml", "trial": "maml-000", "hyperparameters": values, "seed": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.tune, "report", report)
        if stop == "look":
            patch.setattr(worker, "reevaluate", lambda *args: (_ for _ in ()).throw(Stopped))
        try:
            worker.run_trial(config, str(folder), space.model_dump(mode="json"), answers)
        except Stopped:
            assert stop
        else:
            assert not stop
    return reports


@pytest.mark.parametrize("wanted_at", [8, 16])
@pytest.mark.parametrize("stop", ["first", "look", "second"])
def test_a_trial_looks_again_once_and_a_crash_in_between_changes_nothing(
    tmp_path: Path, tiny: SearchSpace, wanted_at: int, stop: str
) -> None:
    whole = run(tmp_path / "whole", tiny, wanted_at)
    seen = [(line["tasks_seen"], len(line["val_scores"])) for line in whole]
    assert seen == ([(8, 4), (8, 9), (16, 4)] if wanted_at == 8 else [(8, 4), (16, 4), (16, 9)])
    short, long = (line for line in whole if line["tasks_seen"] == wanted_at)
    assert long["val_scores"][:4] == short["val_scores"]
    assert long["val_score"] == short["val_score"]
    assert long["borderline_score"] == pytest.approx(statistics.fmean(long["val_scores"]))
    assert long["seconds"] == pytest.approx(short["seconds"] + long["borderline_seconds"])
    run(tmp_path / "killed", tiny, wanted_at, stop)
    again = run(tmp_path / "killed", tiny, wanted_at)
    files = [store.read_lines(tmp_path / f / WORK / "maml-000" / store.REPORTS) for f in ("whole", "killed")]
    keys = ("tasks_seen", "val_score", "val_scores", "borderline_score", "val_loss", "train_loss")
    assert [[line.get(key) for key in keys] for line in files[0]] == [
        [line.get(key) for key in keys] for line in files[1]
    ]
    assert len(files[0]) == 2  # one line a rung
    assert again[-1]["val_scores"] == whole[-1]["val_scores"]


def test_what_a_second_look_took_is_counted_at_the_next_rung_too(
    tmp_path: Path, tiny: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    reevaluate = worker.reevaluate

    def slowly(*args: Any) -> dict[str, Any]:
        line = reevaluate(*args)
        return {**line, "borderline_seconds": 100.0, "seconds": line["seconds"] + 100}

    monkeypatch.setattr(worker, "reevaluate", slowly)
    reports = run(tmp_path / "whole", tiny, wanted_at=8)
    assert [line["seconds"] > 100 for line in reports] == [False, True, True]
    run(tmp_path / "killed", tiny, wanted_at=8, stop="second")
    assert run(tmp_path / "killed", tiny, wanted_at=8)[-1]["seconds"] > 100


def test_the_second_look_finds_what_one_look_at_all_tasks_finds(tmp_path: Path, tiny: SearchSpace) -> None:
    *_, long = run(tmp_path, tiny, wanted_at=16)
    its = spaces.of(tiny, "maml")
    values = {**its.resolve(its.published[0]), "task_batch_size": 4}
    config = spaces.run_config(tiny, "maml", values, 3, spaces.rungs(tiny.budget))
    loaded = small.splits()
    state = loop.load_state(tmp_path / WORK / "maml-000" / store.STATE, config, loaded)
    learner = loop.build(config, loaded)
    tasks = frozen.frozen(loaded, "meta_validation", tiny.task, 9, "search")
    evaluated = evaluate.evaluate(loop.model(learner, state), loaded.meta_validation.images, tasks)
    np.testing.assert_allclose(evaluated.score, long["val_scores"], atol=1e-6)
