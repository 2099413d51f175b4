"""What an earlier search found is known to a new one, and is none of its own trials."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState

from metabench.core import MetabenchError, Split, Splits
from metabench.core.config import SearchSpace
from metabench.core.objectives import OBJECTIVES
from metabench.data.reading.splits import make_splits
from metabench.search.folder import create_or_resume
from metabench.search.journal.ledger import Ledger
from metabench.search.propose import warm
from metabench.search.propose.searcher import FairSearcher
from metabench.storage import files, records
from tests.search import proposals

ACCURACY = OBJECTIVES["classification"]


@pytest.fixture(scope="module")
def splits() -> Splits:
    """Return a data set of black squares."""
    split = Split(torch.zeros(6, 30, 1, 28, 28, dtype=torch.uint8), tuple("abcdef"), ("x",) * 6)
    return make_splits("squares", split, split, split)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, splits: Splits) -> Path:
    """Return the folder of a search of 24 trials of MAML++."""
    folder = tmp_path_factory.mktemp("earlier")
    space = proposals.space_of(trials=24)
    create_or_resume(folder, space, splits, seed=0)
    proposals.play(folder, space)
    return folder


def play(folder: Path, space: SearchSpace, prior: warm.Earlier, restarts: tuple[int, ...] = ()) -> list[Any]:
    """Run trials one after the other, with a driver that is killed before some of them."""
    searcher = FairSearcher(space, Ledger(folder, keep=2), 3, prior)
    for index in range(space.budget.trials):
        if index in restarts:
            searcher = FairSearcher(space, Ledger(folder, keep=2), 3, prior)
        config = searcher.suggest(str(index))
        assert isinstance(config, dict)
        proposals.finish(searcher, config)
    return searcher.ledger.of("maml_pp")


def test_the_best_known_setting_is_tried_after_the_published_one_and_none_counts_here(
    tmp_path: Path, earlier: Path, splits: Splits
) -> None:
    space = proposals.space_of(trials=6)
    prior, messages = warm.read(str(earlier), space, splits, ACCURACY)
    before = records.trials(earlier).values()
    assert messages == [f"known from {earlier}: maml_pp {len(before)}"]
    trials = play(tmp_path, space, prior)
    assert len(trials) == 6
    furthest = [line for line in before if line["status"] == "complete"]
    best = max(furthest, key=lambda line: line["val_accuracy"])
    assert trials[0].is_default
    assert trials[1].sampled == best["sampled"]
    assert len(Ledger(tmp_path, keep=2).rung("maml_pp", 100)) == 6
    study = FairSearcher(space, Ledger(tmp_path, keep=2), 3, prior).studies["maml_pp"].study
    assert len(study.trials) == len(before) + 6
    states = [trial.state for trial in study.trials[: len(before)]]
    assert states.count(TrialState.COMPLETE) == len(furthest)
    assert {TrialState.COMPLETE, TrialState.PRUNED} == set(states)


def test_trials_that_wait_in_an_interrupted_search_are_known_by_what_they_reached(
    tmp_path: Path, splits: Splits
) -> None:
    space = proposals.space_of(trials=24, pause=True)
    create_or_resume(tmp_path, space, splits, seed=0)
    searcher = FairSearcher(space, Ledger(tmp_path, keep=2), seed=3)
    for number in range(6):
        config = searcher.suggest(str(number))
        assert isinstance(config, dict)
        proposals.finish(searcher, config)
    waiting = {trial.name: trial for trial in searcher.ledger.of("maml_pp") if trial.is_waiting}
    assert waiting
    assert not (tmp_path / files.TRIALS).is_file()
    earlier, _ = warm.read(str(tmp_path), space, splits, ACCURACY)
    scores = {trial["trial"]: list(trial["scores"].values()) for trial in earlier["maml_pp"]}
    assert {name: scores[name][-1] for name in waiting} == {n: t.score for n, t in waiting.items()}
    assert TrialState.PRUNED in {t.state for t in warm.frozen(space, "maml_pp", earlier["maml_pp"])}


@pytest.mark.parametrize("sampler", ["tpe", "cma-es", "qmc"])
def test_a_resumed_search_with_known_trials_proposes_the_same(
    tmp_path: Path, earlier: Path, splits: Splits, sampler: str
) -> None:
    space = proposals.space_of(trials=8, sampler=sampler)
    prior, _ = warm.read(str(earlier), space, splits, ACCURACY)
    whole = [trial.sampled for trial in play(tmp_path / "whole", space, prior)]
    assert [t.sampled for t in play(tmp_path / "cut", space, prior, restarts=(1, 3, 6))] == whole


def test_what_is_known_makes_the_first_proposals_better(
    tmp_path: Path, earlier: Path, splits: Splits
) -> None:
    space = proposals.space_of(trials=12, scheduler="none")
    prior, _ = warm.read(str(earlier), space, splits, ACCURACY)
    scores = [
        statistics.fmean(trial.score for trial in play(tmp_path / name, space, start)[2:])
        for name, start in (("cold", {}), ("warm", prior))
    ]
    assert scores[1] > scores[0] + 0.02


def test_where_a_full_run_is_longer_what_was_complete_is_known_as_stopped(
    earlier: Path, splits: Splits
) -> None:
    longer = proposals.space_of(trials=6, tasks=2700)
    prior, _ = warm.read(str(earlier), longer, splits, ACCURACY)
    frozen_trials = warm.frozen(longer, "maml_pp", prior["maml_pp"])
    assert {trial.state for trial in frozen_trials} == {TrialState.PRUNED}
    shorter = proposals.space_of(trials=6, tasks=100)
    assert {t.state for t in warm.frozen(shorter, "maml_pp", prior["maml_pp"])} == {TrialState.COMPLETE}
    assert frozen_trials[0].intermediate_values == {
        int(k): v for k, v in prior["maml_pp"][0]["scores"].items()
    }


def test_trials_outside_the_new_ranges_are_left_out_and_counted(earlier: Path, splits: Splits) -> None:
    space = proposals.space_of(trials=6)
    shared = {**space.model_dump()["shared"], "inner_lr": {"low": 0.09, "high": 0.5, "default": 0.1}}
    narrow = SearchSpace.model_validate({**space.model_dump(), "shared": shared})
    prior, messages = warm.read(str(earlier), narrow, splits, ACCURACY)
    rates = [line["sampled"]["inner_lr"] for line in records.trials(earlier).values()]
    inside = [rate for rate in rates if 0.09 <= rate <= 0.5]
    assert [trial["sampled"]["inner_lr"] for trial in prior["maml_pp"]] == inside
    assert f"maml_pp {len(inside)}, {len(rates) - len(inside)} outside this space" in messages[0]


def test_a_condition_that_does_not_hold_needs_no_value_and_a_new_parameter_takes_the_constant_it_had(
    earlier: Path, splits: Splits
) -> None:
    space = proposals.space_of(trials=6).model_dump()
    wider = {**space["shared"], "outer_lr": {"low": 1e-4, "high": 1e-2, "log": True, "default": 1e-3}}
    prior, _ = warm.read(
        str(earlier), SearchSpace.model_validate({**space, "shared": wider}), splits, ACCURACY
    )
    before = list(records.trials(earlier).values())
    assert len(prior["maml_pp"]) == len(before)
    for trial, line in zip(prior["maml_pp"], before, strict=True):
        assert trial["sampled"] == {**line["sampled"], "outer_lr": line["hyperparameters"]["outer_lr"]}


def test_another_task_is_said_and_allowed(earlier: Path, splits: Splits, tmp_path: Path) -> None:
    space = proposals.space_of(trials=6)
    other = space.model_copy(update={"task": space.task.model_copy(update={"shot": 5})})
    _, messages = warm.read(str(earlier), other, splits, ACCURACY)
    assert messages[1] == "they were found on another task: shot 1 there, 5 here"
    _, messages = warm.read(str(earlier), space, splits._replace(fingerprint="other"), ACCURACY)
    assert messages[1] == "they were found on another task: other data"
    (tmp_path / files.TRIALS).write_bytes((earlier / files.TRIALS).read_bytes())
    prior, messages = warm.read(str(tmp_path / files.TRIALS), space, splits, ACCURACY)
    assert prior["maml_pp"]
    assert "is not known" in messages[1]


def test_what_cannot_be_known_is_refused(earlier: Path, splits: Splits, tmp_path: Path) -> None:
    space = proposals.space_of(trials=6)

    def refused(place: Path, part: str, wanted: SearchSpace = space, metric: str = "classification") -> None:
        with pytest.raises(MetabenchError, match=part):
            warm.read(str(place), wanted, splits, OBJECTIVES[metric])

    refused(tmp_path / "nowhere", "`warm_start` .*nowhere: is not there; give the folder of a search")
    refused(tmp_path, "is not there")
    other = space.model_copy(update={"algorithms": {"fomaml": {}}})
    refused(earlier, "no trial there lies in this space; judged there: 24, of maml_pp", other)
    refused(earlier, "judged by accuracy there and by error here", metric="regression")
    (tmp_path / files.TRIALS).write_text('{"trial": 1}\n')
    refused(tmp_path, "trials.jsonl: line 1 holds something else than it should: trial")
    (tmp_path / files.TRIALS).write_text("{]\n")
    refused(tmp_path, "is not JSON")


def test_a_search_records_what_it_knew_and_reads_it_once(
    tmp_path: Path, earlier: Path, splits: Splits
) -> None:
    space, said = proposals.space_of(trials=6), []
    source = tmp_path / "source"
    source.mkdir()
    for name in (files.TRIALS, files.SEARCH):
        (source / name).write_bytes((earlier / name).read_bytes())
    folder = tmp_path / "new"
    create_or_resume(folder, space, splits, 0, warm_start=str(source), say=said.append)
    assert said == [f"known from {source}: maml_pp 24"]
    record = files.read_json(folder / files.SEARCH)
    assert record["warm_start"] == str(source)
    assert warm.earlier_trials(folder) == record["known"]
    assert len(record["known"]["maml_pp"]) == 24
    for name in (files.TRIALS, files.SEARCH):
        (source / name).unlink()  # it is not looked at again
    _, continued = create_or_resume(folder, space, splits, 0, warm_start=str(source), say=said.append)
    assert continued
    assert len(said) == 1
    with pytest.raises(MetabenchError, match=r"warm_start: .* there, None given"):
        create_or_resume(folder, space, splits, 0, accept=True)
    assert warm.earlier_trials(tmp_path) == {}
