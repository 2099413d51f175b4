"""Cells that grow: each stage has its nodes, and begins with the best of the last and more nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from metabench.core import MetabenchError
from metabench.core.config import NODES, SearchSpace
from metabench.core.metrics import ACCURACY
from metabench.search import space as spaces
from metabench.search.journal.ledger import DIVERGED, FAILED, INFEASIBLE, Ledger, Trial, preference
from metabench.search.progress import summary
from metabench.search.propose import growing
from metabench.search.propose.feasible import Size
from metabench.search.propose.study import Study
from tests.search import growth
from tests.search.growth import GROW, SEARCHES, network, play, space_of, too_large

ROOT = Path(__file__).parents[2]
TWO = {NODES: 2, "network.options.node2_in1": 2, "network.options.node2_op2": "none"}
"""A cell of two nodes, where the rest is the default."""


def sizes(space: SearchSpace, trials: Sequence[Trial]) -> list[int]:
    """Count the nodes of the cells of trials, those alone that an output needs."""
    cells = [spaces.of(space, "protonet").cell(trial.sampled) for trial in trials]
    return [0 if cell is None else len(cell.nodes) for cell in cells]


def parents(space: SearchSpace, trials: Sequence[Trial], number: int) -> list[Trial]:
    """List the trials of the stage before out of which a trial has grown."""
    of_all = sizes(space, trials)
    before = GROW[GROW.index(of_all[number]) - 1]
    return [
        one
        for one, size in zip(trials[:number], of_all, strict=False)
        if size == before and growing.is_part(one.sampled, trials[number].sampled)
    ]


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, Any]:
    """Return what a process of its own, with other hashes of strings, proposes."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-m", "tests.search.growth"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_is_the_same_in_any_process_and_when_it_is_stopped_in_any_stage(
    name: str, tmp_path: Path, elsewhere: dict[str, Any]
) -> None:
    space = space_of(network(), **SEARCHES[name])
    for steps in (4, 1, 7, 9, 8, 5):
        play(tmp_path, space, steps)
    trials = play(tmp_path, space)
    assert [trial.sampled for trial in trials] == elsewhere[name]
    of_all = sizes(space, trials)
    assert of_all == sorted(of_all)
    assert {*of_all} == {*GROW}
    assert len({spaces.of(space, "protonet").place(trial.sampled) for trial in trials}) == len(trials)
    for number in (of_all.index(2), of_all.index(4)):  # what a stage begins with has grown
        assert len(parents(space, trials, number)) == 1


@pytest.mark.parametrize("n_trials", [3, 7, 18, 24])
@pytest.mark.parametrize("sampler", ["random", "cma-es"])
def test_each_stage_has_an_equal_share_of_what_is_trained(
    tmp_path: Path, n_trials: int, sampler: str
) -> None:
    space = space_of(network(), trials=n_trials, sampler=sampler)
    for steps in (5, 6, 10**6):
        trials = play(tmp_path, space, steps, workers=3, size_of=too_large)
    trained = [
        size for size, trial in zip(sizes(space, trials), trials, strict=True) if trial.status != INFEASIBLE
    ]
    assert trained == [GROW[3 * number // n_trials] for number in range(n_trials)]
    of_all = sizes(space, trials)  # what is too large has as many nodes as those beside it
    assert of_all == sorted(of_all)


@pytest.mark.parametrize("budget", [{"trials": 15}, {"trials": 15, "scheduler": "freeze_thaw"}])
def test_the_best_grow_first_by_nodes_that_come_after_their_own(
    tmp_path: Path, budget: dict[str, Any]
) -> None:
    space = space_of(network(), confirm_top=3, sampler="random", **budget)
    its, trials, n_before = spaces.of(space, "protonet"), [], -1
    by_step: list[list[tuple[Any, ...]]] = []  # as it was before each report
    while len(by_step) != n_before:
        n_before = len(by_step)
        trials = play(tmp_path, space, 1, workers=1)
        state = [(trial.name, trial.status, preference(trial)) for trial in trials if trial.score is not None]
        by_step += [state] if not by_step or state != by_step[-1] else []
    of_all = sizes(space, trials)
    for n_nodes, before in ((2, 1), (4, 2)):
        first = of_all.index(n_nodes)
        for number in range(first, first + 3):
            before_it = parents(space, trials, number)
            assert len(before_it) == 1
            parent = before_it[0]
            smaller = {**trials[number].sampled, NODES: before}
            assert its.place(its.sample(lambda name, _: smaller[name])) == its.place(parent.sampled)  # noqa: B023
            assert {key: trials[number].sampled[key] for key in parent.sampled if key != NODES} == {
                key: value for key, value in parent.sampled.items() if key != NODES
            }
            names = {one.name for one, size in zip(trials, of_all, strict=True) if size == before}
            then = next(state for state in by_step if len(state) > number)  # its first report, and no other's
            best = sorted(
                (key, name)
                for name, status, key in then
                if name in names and status not in (FAILED, DIVERGED)
            )
            assert parent.name in [name for _, name in best[:3]]


def test_a_grown_one_that_is_too_large_makes_way_for_the_next() -> None:
    def trial(number: int, score: float | None, status: str | None = "complete") -> Trial:
        reports = [] if score is None else [{"tasks_seen": 9, "val_score": score, "seconds": 1.0}]
        return Trial(str(number), "protonet", number, {}, {}, False, 0, reports=reports, status=status)

    small = [trial(k, score) for k, score in enumerate((0.1, 0.4, 0.3, 0.2))]
    small += [trial(4, None, "failed"), trial(5, 0.9, "diverged")]
    settings: dict[int, dict[str, Any]] = {k: {"rate": k, NODES: 1} for k in range(6)}
    settings |= {k: {"rate": rate, NODES: 2, "more": k} for k, rate in ((6, 1), (7, 2))}

    def names(now: Sequence[Trial], most: int) -> list[str]:
        return [one.name for one in growing.to_grow(small, now, settings, most)]

    assert names([], 2) == ["1", "2"]
    assert names([trial(6, None, None)], 2) == ["2"]
    assert names([trial(6, None, None), trial(7, 0.5)], 2) == []
    assert names([trial(6, None, INFEASIBLE)], 2) == ["2", "3"]
    assert names([], 9) == ["1", "2", "3", "0"]


@pytest.mark.parametrize("budget", [{}, {"scheduler": "freeze_thaw"}])
def test_out_of_one_grows_one_where_small_cells_have_a_setting_that_large_ones_lack(
    tmp_path: Path, budget: dict[str, Any]
) -> None:
    width = {"choices": [4, 8], "default": 4, "when": {NODES: 1}}
    space = space_of({**network(), "width": width}, trials=18, confirm_top=2, **budget)
    trials = play(tmp_path, space)
    of_all = sizes(space, trials)
    first = of_all.index(2)
    grown = [[one.name for one in parents(space, trials, number)] for number in range(first, first + 6)]
    assert len(grown[0]) == len(grown[1]) == 1
    assert grown[0] != grown[1]
    assert all(one not in (grown[0], grown[1]) for one in grown[2:])


def test_five_in_a_row_that_are_too_large_are_followed_by_random_ones(tmp_path: Path) -> None:
    def size_of(algorithm: str, hyperparameters: Any) -> Size:
        return Size(10, None if hyperparameters["outer_lr"] == 0.002 else "too large")

    def proposed(sampler: str) -> list[dict[str, Any]]:
        space = space_of(network(None), trials=3, sampler=sampler)
        trials = play(tmp_path / sampler, space, workers=1, size_of=size_of)
        return [trial.sampled for trial in trials[:40]]

    by_model, at_random = proposed("tpe"), proposed("random")
    assert by_model[0] == at_random[0]
    assert not any(a == b for a, b in zip(by_model[2:6], at_random[2:6], strict=True))
    assert by_model[6:] == at_random[6:]


def test_a_stage_that_has_nothing_left_is_followed_by_the_next(tmp_path: Path) -> None:
    options = {"layers": 1, "reductions": 1, "nodes": {"choices": [1, 2], "default": 1}}
    options |= {"node1_op1": {"choices": ["conv_3x3", "identity", "max_pool_3x3"], "default": "conv_3x3"}}
    described = {"name": "cells", "width": 4, "grow": [1, 2], "options": options}
    space = space_of(described, rate=0.002, trials=40)
    said = []
    for steps in (0, 1, 10**6):
        trials = play(tmp_path, space, steps)
        stage = summary.summarise(space, Ledger(tmp_path, 2), "protonet", ACCURACY, 40)["growing"]
        said.append(stage)
    assert sizes(space, trials) == [1] * 3 + [2] * 3
    assert said == [{"nodes": nodes, "stages": [1, 2]} for nodes in (1, 1, 2)]


def test_other_published_cells_wait_for_their_stage(tmp_path: Path) -> None:
    space = space_of(network(), [TWO], trials=18)
    trials = play(tmp_path, space)
    of_all = sizes(space, trials)
    assert trials[0].is_default
    assert trials[of_all.index(2)].sampled == spaces.of(space, "protonet").published[1]
    assert len(parents(space, trials, of_all.index(2) + 1)) == 1


def test_a_model_chooses_among_cells_of_the_stage_alone() -> None:
    space = space_of(network(), trials=30, scheduler="freeze_thaw")
    study = Study(space, "protonet", 0)
    default = study.its.published[0]
    for spent, n_nodes in ((0.0, 1), (0.34, 2), (0.67, 4), (1.0, 4)):
        offered = study.options(default, spent)
        assert {len(study.its.cell(one).nodes) for one in offered} == {n_nodes}  # type: ignore[union-attr]
        assert len(offered) > 20


@pytest.mark.parametrize(
    ("described", "also", "advice"),
    [
        (network([2, 1]), [], r"network.grow=\[2, 1\]: must ascend, such as \[1, 2, 3, 5\]"),
        (network([1, 1]), [], "must ascend"),
        (network([1, 5]), [], r"network.options.nodes is never 5 here"),
        (
            network([2, 3]),
            [],
            r"the default cell, which is tried first, has 1 node that .* begin with as many",
        ),
        (network([1]), [], r"network.grow=\[1\]: .*at least 2"),
        (network([1, 2], nodes=2), [], r"network.grow=\[1, 2\]: needs `nodes` among the options"),
        ({"name": "conv4", "width": 4, "grow": [1, 2]}, [], r"is of cells alone; set name=cells"),
        (network([1, 3]), [TWO], r"`also` has a cell of 2 nodes, which is none of grow=\[1, 3\]"),
        ({**network(), "grwo": [1]}, [], "Did you mean 'grow'"),
    ],
)
def test_what_cannot_grow_is_refused_with_advice(described: Any, also: Any, advice: str) -> None:
    with pytest.raises(MetabenchError, match=advice):
        space_of(described, also)


def test_what_is_wrong_with_a_labels_growth_is_told_where_it_stands() -> None:
    document = {
        "task": growth.SPACE["task"],
        "network": {"width": 4},
        "networks": {"cells": network([5, 1])},
        "budget": {**growth.SPACE["budget"], "trials": 1},
        "algorithms": {"protonet": {}, "protonet.cells": {}},
    }
    with pytest.raises(MetabenchError) as refused:
        spaces.check(document, "space")
    for line in (
        "must ascend",
        "networks.cells.options.nodes is never 5",
        "more stages than budget.trials=1",
    ):
        assert line in str(refused.value)
    assert "network." not in str(refused.value)


def test_a_space_is_read_again_as_it_was_written() -> None:
    space = space_of(network())
    again = SearchSpace.model_validate(space.model_dump(mode="json"))
    assert again.network.grow == GROW
    assert again == space
    assert "grow" not in space_of(network(None)).model_dump(mode="json")["network"]
