"""Networks that are searched: each trial has its own, equal cells are one, what is too large is left out."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any, get_args

import pytest

from metabench.core import MetabenchError, trees
from metabench.core.config import SearchSpace
from metabench.core.metrics import ACCURACY
from metabench.search import space as spaces
from metabench.search.journal.ledger import INFEASIBLE, Ledger, look
from metabench.search.journal.rule import decide
from metabench.search.progress import summary
from metabench.search.propose import feasible
from metabench.search.propose.searcher import FINISHED, FairSearcher
from metabench.search.ray.cluster import DEFAULT_RESOURCES
from metabench.search.stages import plan
from metabench.storage import files, models, tensorboard
from metabench.training import inputs, loop
from tests.search.conftest import SPACE
from tests.search.played import make_report
from tests.support import small

OPERATIONS = ["conv_3x3", "max_pool_3x3", "identity", "none"]
CELL = {
    "layers": 2,
    "reductions": 2,
    "nodes": {"low": 1, "high": 2, "default": 1},
    "node1_op1": {"choices": OPERATIONS[:3], "default": "conv_3x3"},
    "node1_in1": {"choices": [0, 1], "default": 1},
    "node1_op2": {"choices": OPERATIONS, "default": "none"},
    "node2_op1": {"choices": OPERATIONS, "default": "conv_3x3", "when": {"nodes": 2}},
    "node2_in1": {"choices": [0, 1, 2], "default": 2, "when": {"nodes": 2}},
}
TWO, THREE = {"nodes": 2}, {"nodes": 3}
NETWORK = {"name": "cells", "width": {"choices": [4, 8], "default": 4}, "options": CELL}


def space_of(network: dict[str, Any], algorithms: dict[str, Any] | None = None, **budget: Any) -> SearchSpace:
    document = {
        "task": SPACE["task"],
        "network": network,
        "budget": {**SPACE["budget"], **budget},
        "algorithms": algorithms or {"protonet": {}},
    }
    return spaces.check(document, "space")


def play(searcher: FairSearcher, n: int = 10_000) -> None:
    """Run trials to their ends, with made-up scores."""
    for number in range(n):
        config = searcher.suggest(str(number))
        if config == FINISHED:
            return
        assert isinstance(config, dict)
        width = config["hyperparameters"].get("network.width", 4)
        for rung in searcher.rungs:
            report = make_report(rung, 0.5 + width / 100 + len(searcher.ledger.trials) / 1000)
            if decide(searcher.ledger, searcher.space.budget, config["trial"], report) != "continue":
                break
        searcher.hand_back(str(number))


def test_each_trial_has_the_network_that_was_sampled_for_it(tmp_path: Path) -> None:
    space = space_of({"width": {"choices": [4, 8], "default": 4}}, {"maml": {}, "protonet": {}}, trials=2)
    searcher = FairSearcher(space, Ledger(tmp_path, 2), seed=0)
    play(searcher)
    for algorithm in space.algorithms:
        trials = searcher.ledger.of(algorithm)
        runs = [spaces.run_config(space, algorithm, t.hyperparameters, t.seed, [900]) for t in trials]
        assert [run.network.width for run in runs] == [4, 8]
        assert all(not any(name.startswith("network") for name in run.hyperparameters) for run in runs)
    again = SearchSpace.model_validate(space.model_dump(mode="json"))
    assert again.network.parameters == space.network.parameters
    assert spaces.of(again, "maml").n_settings == 2


def test_what_a_condition_excludes_is_the_networks_own_default() -> None:
    shrink = {"choices": ["pool", "stride"], "default": "stride", "when": {"name": "conv4"}}
    network = {"name": {"choices": ["conv4", "resnet12"], "default": "conv4"}, "width": 4, "shrink": shrink}
    space = space_of(network)
    its = spaces.of(space, "protonet")
    assert its.n_settings == 3
    assert its.published == [{"network.name": "conv4", "network.shrink": "stride"}]
    other = its.resolve({"network.name": "resnet12"})
    assert spaces.run_config(space, "protonet", other, 0, [900]).network.shrink == "pool"
    assert its.recognise(other) == {"network.name": "resnet12"}


def test_rows_with_a_label_search_their_own_networks() -> None:
    document = {
        "task": SPACE["task"],
        "network": {"width": 4},
        "networks": {"cells": NETWORK},
        "budget": SPACE["budget"],
        "algorithms": {"protonet": {}, "protonet.cells": {}},
    }
    space = spaces.check(document, "space")
    assert spaces.of(space, "protonet").sampled == {}
    assert "network.options.node2_in1" in spaces.of(space, "protonet.cells").sampled


def test_settings_that_make_one_cell_stand_in_one_place_and_are_trained_once(tmp_path: Path) -> None:
    space = space_of({**NETWORK, "width": 4}, trials=500, scheduler="none")
    its = spaces.of(space, "protonet")
    one = {
        "network.options.nodes": 1,
        "network.options.node1_in1": 1,
        "network.options.node1_op1": "conv_3x3",
        "network.options.node1_op2": "max_pool_3x3",
    }
    swapped = {**one, "network.options.node1_op1": "max_pool_3x3", "network.options.node1_op2": "conv_3x3"}
    assert its.place(one) == its.place(swapped)
    assert its.place(one) != its.place({**one, "network.options.node1_in1": 0})
    searcher = FairSearcher(space, Ledger(tmp_path, 2, place=lambda t: its.where(t.hyperparameters)), seed=0)
    play(searcher, 40)
    places = [its.place(trial.sampled) for trial in searcher.ledger.of("protonet")]
    assert len(places) == len(set(places)) == 40


def test_a_search_ends_once_every_cell_was_tried(tmp_path: Path) -> None:
    cell = {key: CELL[key] for key in ("layers", "reductions", "node1_op1", "node1_op2")}
    space = space_of({"name": "cells", "width": 4, "options": cell}, trials=50, scheduler="none")
    searcher = FairSearcher(space, Ledger(tmp_path, 2), seed=0)
    play(searcher, 60)
    # Of 3 operations and 4: 3 alone, and 6 of two, as the order makes no other.
    assert len(searcher.ledger.of("protonet")) == 9
    assert searcher.suggest("more") == FINISHED


def test_every_file_has_a_word_for_how_a_trial_may_end() -> None:
    assert set(get_args(models.Status)) == set(tensorboard.SESSION_STATUS)
    assert {*get_args(models.Status), "running", "waiting"} == set(summary.STATES)


@pytest.fixture
def splits() -> Any:
    """Return images of 16 pixels."""
    return small.splits()


def test_what_learns_more_than_the_most_is_written_down_and_never_trained(
    tmp_path: Path, splits: Any
) -> None:
    wide = {"width": {"choices": [4, 8, 16, 32], "default": 4}}
    sampled = {"outer_lr": {"low": 1e-3, "high": 1e-2, "log": True, "default": 2e-3}}
    space = space_of(wide, {"protonet": sampled}, max_parameters=3_000, trials=6)
    size_of = feasible.of(space, splits)

    def searcher() -> FairSearcher:
        return FairSearcher(space, Ledger(tmp_path, 2), seed=0, size_of=size_of)

    play(searcher(), 3)  # stopped on the way, and gone on with
    play(searcher())
    trials = look(tmp_path).of("protonet")
    left_out = [trial for trial in trials if trial.status == INFEASIBLE]
    assert len(trials) - len(left_out) == 6  # what is not trained takes nothing of the budget
    assert {trial.hyperparameters["network.width"] for trial in left_out} <= {16, 32}
    assert {trial.hyperparameters["network.width"] for trial in trials} - {16, 32} <= {4, 8}
    assert left_out
    assert "more than max_parameters=3,000" in str(left_out[0].error)
    assert not any(trial.reports for trial in left_out)
    lines = {line["trial"]: line["parameters"] for line in files.read_lines(tmp_path / files.TRIALS)}
    assert lines == {trial.name: trial.parameters for trial in trials if trial.status is not None}
    assert all(
        (size > 3_000) == (trial.status == INFEASIBLE) for trial in trials if (size := lines[trial.name])
    )
    part = summary.summarise(space, look(tmp_path), "protonet", ACCURACY, 6)
    assert (part["proposed"], part[INFEASIBLE], part["errors"]) == (6, len(left_out), {})


def test_what_cannot_be_built_is_infeasible_too(tmp_path: Path, splits: Any) -> None:
    groups = {"choices": [2, 3], "default": 2}
    space = space_of(
        {"norm": "group", "width": {"choices": [6, 12, 8], "default": 6}, "groups": groups}, trials=9
    )
    ledger = Ledger(tmp_path, 2)
    play(FairSearcher(space, ledger, seed=0, size_of=feasible.of(space, splits)))
    ended = {
        (t.hyperparameters["network.width"], t.hyperparameters["network.groups"])
        for t in ledger.of("protonet")
        if t.status == INFEASIBLE
    }
    assert ended == {(8, 3)}
    assert len(ledger.of("protonet")) == 6


def test_settings_that_do_not_go_together_are_infeasible_where_each_goes_with_the_defaults(
    tmp_path: Path, splits: Any
) -> None:
    rows = {"choices": [2, 32], "default": 32}
    mann = {"memory_rows": rows, "reads": {"choices": [1, 4], "default": 1}, "hidden_size": 4}
    space = space_of({"width": 4}, {"mann": mann}, trials=9)
    ledger = Ledger(tmp_path, 2)
    play(FairSearcher(space, ledger, seed=0, size_of=feasible.of(space, splits)))
    pairs = {
        (t.hyperparameters["memory_rows"], t.hyperparameters["reads"]): (t.status == INFEASIBLE, t.error)
        for t in ledger.of("mann")
    }
    assert pairs.pop((2, 4)) == (
        True,
        "mann: reads=4: more than memory_rows=2; lower reads, or raise memory_rows",
    )
    assert pairs == {(32, 1): (False, None), (2, 1): (False, None), (32, 4): (False, None)}


def test_the_count_is_that_of_what_a_run_learns_across_tasks(splits: Any) -> None:
    space = space_of({"width": 4}, {"maml": {}, "protonet": {}}, max_parameters=10**6)
    for algorithm in space.algorithms:
        its = spaces.of(space, algorithm)
        run = spaces.run_config(space, algorithm, its.resolve(its.published[0]), 0, [900])
        state = loop.start(run, loop.build(run, splits))
        n = sum(leaf.numel() for leaf in trees.leaves(state.meta))
        assert feasible.count(run, inputs.of(splits)) == n


def test_beside_networks_that_are_searched_each_setting_of_another_is_counted(splits: Any) -> None:
    document = {
        "task": SPACE["task"],
        "network": {"width": 4},
        "networks": {"cells": NETWORK},
        "budget": SPACE["budget"],
        "algorithms": {"maml_pp": {}, "protonet.cells": {}},
    }
    size = feasible.of(space := spaces.check(document, "space"), splits)
    defaults = spaces.of(space, "maml_pp").defaults
    counts = [size("maml_pp", {**defaults, "inner_steps": steps}).parameters for steps in (1, 5)]
    assert None not in counts
    assert counts[0] != counts[1]  # a rate of each step is learnt


def test_what_is_too_large_is_counted_and_not_drawn(splits: Any) -> None:
    space = space_of({"width": 4_000}, {"protonet": {}})
    run = spaces.run_config(space, "protonet", {}, 0, [900])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert feasible.count(run, inputs.of(splits)) > 400_000_000  # of four bytes each
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_default_that_is_too_large_is_refused_also_by_a_plan(
    splits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = space_of({"width": 32}, max_parameters=1_000)
    task = space.task.model_copy(update={"query": 2, "test_query": 2})
    space = space.model_copy(update={"task": task})
    monkeypatch.setattr(plan.data, "load", lambda task: splits)
    message = r"protonet: its default, which is trained first: 28,.* allows"
    with pytest.raises(MetabenchError, match=message):
        feasible.check(space, splits)
    with pytest.raises(MetabenchError, match=message):
        plan.plan(space, None, 0, DEFAULT_RESOURCES)


@pytest.mark.parametrize(
    ("network", "advice"),
    [
        (
            {"width": {"low": 0, "high": 8, "default": 4}},
            r"network.width=0: should be greater than or equal to 1",
        ),
        (
            {"norm": {"choices": ["batch", "layer"], "default": "batch"}},
            r"network.norm='layer': should be 'batch'",
        ),
        (
            {"weights": {"choices": ["a"], "default": "a"}},
            r"network.weights: decides which weights there are",
        ),
        (
            {"name": {"choices": ["conv4", "timm/x"], "default": "conv4"}},
            r"network.name: may be one of several of",
        ),
        (
            {"groups": {"choices": [1, 2], "default": 2, "when": {"norm": "group"}}},
            "never has this value here",
        ),
        (
            {"groups": {"choices": [1, 2], "default": 2, "when": {"nrm": "group"}}},
            "Did you mean 'network.norm'",
        ),
        ({"width": {"choices": [4, 4], "default": 4}}, "4 stands more than once"),
        ({"width": {"chocies": [4], "default": 4}}, r"network.width.chocies: unknown key"),
        (
            {**NETWORK, "options": {**CELL, "node2_in1": {"choices": [1, 5], "default": 1, "when": TWO}}},
            r"network.options.node2_in1=5: must be <= 2",
        ),
        (
            {**NETWORK, "options": {**CELL, "node1_in1": {"low": 0, "high": 1, "default": 1, "when": THREE}}},
            r"node1_in1.when.network.options.nodes=3: network.options.nodes never has this value here",
        ),
    ],
)
def test_what_no_network_may_be_is_refused_with_advice(network, advice) -> None:
    with pytest.raises(MetabenchError, match=advice):
        space_of(network)


def test_what_is_wrong_with_a_labels_network_is_told_where_it_stands() -> None:
    labelled = {"networks": {"cells": {**NETWORK, "options": {**CELL, "node1_op1": "conv_7x7"}}}}
    document = {
        **SPACE,
        "network": {"width": 4},
        **labelled,
        "algorithms": {"protonet": {}, "protonet.cells": {}},
    }
    with pytest.raises(MetabenchError, match=r"networks\.cells\.options\.node1_op1='conv_7x7'"):
        spaces.check(document, "space")


def test_a_when_may_give_the_whole_name() -> None:
    for name in ("norm", "network.norm"):
        groups = {"choices": [1, 2], "default": 1, "when": {name: "group"}}
        norm = {"choices": ["batch", "group"], "default": "group"}
        its = spaces.of(space_of({"norm": norm, "groups": groups}), "protonet")
        assert its.parameters["network.groups"].when == {"network.norm": "group"}
