"""Samplers by name: what they propose depends on the history alone, and each does what it is named for."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from metabench.core import MetabenchError
from metabench.core.config import Choices, Range, SearchSpace
from metabench.search import search
from metabench.search.journal.ledger import Ledger
from metabench.search.propose import samplers
from metabench.search.propose.searcher import FairSearcher
from tests.search import proposals
from tests.search.proposals import SAMPLERS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, Any]:
    """Return what a process of its own, with other hashes of strings, proposes."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-m", "tests.search.proposals"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_history_has_the_same_proposals_in_any_process_and_after_restarts(
    sampler: str, elsewhere: dict[str, Any]
) -> None:
    here = proposals.proposals(sampler, restarts=(1, 4, 6, 15))
    assert here == elsewhere[sampler]
    assert len({json.dumps(values) for values in here}) == len(here)


def test_samplers_differ_in_what_they_propose(elsewhere: dict[str, Any]) -> None:
    assert len({json.dumps(elsewhere[sampler][-1]) for sampler in SAMPLERS}) == len(SAMPLERS)


def test_quasi_random_proposals_fill_every_eighth_of_every_range_across_a_restart(tmp_path: Path) -> None:
    space = proposals.space_of(sampler="qmc", trials=9)
    proposed = proposals.play(tmp_path, space, restarts=(3,))[1:]  # the published setting is no part of it
    log_low, log_high = math.log(0.01), math.log(1.0)
    rates = [(math.log(values["inner_lr"]) - log_low) / (log_high - log_low) for values in proposed]
    # Eight points of a scrambled Sobol sequence have one in each eighth of each axis.
    assert sorted(int(8 * rate) for rate in rates) == list(range(8))
    assert sum(values["multi_step_loss"] for values in proposed) == 4
    fractions = [values["multi_step_fraction"] for values in proposed if values["multi_step_loss"]]
    assert len({int(8 * (value - 0.05) / 0.45) for value in fractions}) == 4


def test_quasi_random_points_have_parameters_that_the_published_setting_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = proposals.space_of(sampler="qmc", trials=9).model_dump()
    space["algorithms"]["maml_pp"]["multi_step_loss"]["default"] = False

    def refuse(*args: Any) -> None:
        pytest.fail(f"{args[3]} is drawn apart from the sequence")

    monkeypatch.setattr(samplers.Points, "sample_independent", refuse)
    proposed = proposals.play(tmp_path, SearchSpace.model_validate(space), restarts=(4,))
    assert "multi_step_fraction" not in proposed[0]
    assert sum("multi_step_fraction" in values for values in proposed) == 4


def test_tpe_draws_all_parameters_of_a_branch_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone: list[str] = []
    independent = optuna.samplers.TPESampler.sample_independent

    def note(self: Any, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        alone.append(f"{trial.number} {name}")
        return independent(self, study, trial, name, distribution)

    monkeypatch.setattr(optuna.samplers.TPESampler, "sample_independent", note)
    proposed = proposals.play(tmp_path, proposals.space_of(sampler="tpe", trials=30))
    assert {values["multi_step_loss"] for values in proposed[12:]} == {True, False}
    assert alone  # at the start, before it learns
    assert not [entry for entry in alone if int(entry.split()[0]) >= 12], alone


@pytest.mark.parametrize("sampler", ["tpe", "cma-es"])
def test_what_learns_gets_nearer_than_what_does_not(tmp_path: Path, sampler: str) -> None:
    def late(name: str) -> float:
        space = proposals.space_of(sampler=name, scheduler="none", trials=45)
        proposals.play(tmp_path / name, space)
        trials = Ledger(tmp_path / name, keep=2).of("maml_pp")[-15:]
        return statistics.fmean(trial.score for trial in trials if trial.score is not None)

    assert late(sampler) > late("random") + 0.02


def test_a_sampler_without_its_package_is_refused_before_anything_starts(
    tmp_path: Path, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cmaes" else find(name))
    budget = space.budget.model_copy(update={"sampler": "cma-es"})
    with pytest.raises(MetabenchError, match="needs cmaes, which is not installed; do: pip install cmaes"):
        search(space.model_copy(update={"budget": budget}), tmp_path, "it", quiet=True)
    assert list(tmp_path.iterdir()) == []
    for name in ("tpe", "random", "gp", "qmc"):
        samplers.check(name)


def test_every_kind_of_parameter_has_the_distribution_that_it_is_asked_from(tmp_path: Path) -> None:
    parameters = {
        "rate": Range(low=1e-3, high=1.0, log=True, default=0.1),
        "grid": Range(low=0.0, high=1.0, step=0.25, default=0.5),
        "whole": Range(low=1, high=9, step=2, default=3),
        "scale": Range(low=1, high=64, log=True, default=8),
        "word": Choices(choices=["a", "b"], default="a"),
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    for name, parameter in parameters.items():
        assert samplers.distribution(parameter)._contains(
            samplers.distribution(parameter).to_internal_repr(samplers.suggest(trial, name, parameter))
        )
    assert trial.distributions == {name: samplers.distribution(kind) for name, kind in parameters.items()}


def test_optuna_says_nothing_while_samplers_propose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for sampler in ("tpe", "random", "cma-es", "qmc"):
        proposals.play(tmp_path / sampler, proposals.space_of(sampler=sampler, trials=12))
    searcher = FairSearcher(proposals.space_of(trials=12), Ledger(tmp_path / "tpe", keep=2), seed=3)
    assert searcher.remaining() == 0
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
