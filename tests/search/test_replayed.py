"""The study that can only play what was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from metabench.core.config import SearchSpace
from metabench.search import space as spaces
from metabench.search.journal.ledger import CONTINUE, Ledger
from metabench.search.progress.watch import Watch
from metabench.search.ray import cluster, experiment
from metabench.search.replay import curves, simulate
from metabench.search.replay.replayed import RecordedStudy, distance
from metabench.search.replay.scenario import describe
from metabench.storage import files
from tests.search.played import smooth_trial
from tests.search.recorded import curve, many, only_maml, play, recording


def test_the_distance_is_that_of_unit_scaled_parameters(space: SearchSpace) -> None:
    parameters = spaces.of(space, "maml_pp").parameters
    here = {"inner_lr": 0.01, "inner_steps": 1, "multi_step_loss": False}
    assert distance(parameters, here, here) == 0
    assert distance(parameters, here, here | {"inner_lr": 0.1}) == pytest.approx(0.5)  # half of two decades
    assert distance(parameters, here, here | {"inner_steps": 3}) == pytest.approx(0.5)
    there = here | {"inner_lr": 1.0, "inner_steps": 5}
    assert distance(parameters, here, there) == distance(parameters, there, here) == pytest.approx(2**0.5)
    # another choice, and a parameter that only the one has
    conditional = here | {"multi_step_loss": True, "multi_step_fraction": 0.1}
    assert distance(parameters, here, conditional) == pytest.approx(2**0.5)
    more = conditional | {"multi_step_fraction": 0.5}
    assert distance(parameters, conditional, more) == pytest.approx(0.4 / 0.45)


@pytest.mark.parametrize("order", ["tpe", "random", "gp"])
def test_a_proposal_is_played_by_the_nearest_left_and_the_study_is_told_that_one(
    space: SearchSpace, order: str
) -> None:
    rates = [0.02, 0.1, 0.5]
    recorded = [curve(f"{rate}", [0.5], inner_lr=rate) for rate in rates]
    study = RecordedStudy(only_maml(space, sampler=order), "maml", 0, curves=recorded, is_in_order=False)
    assert study.propose() == {"inner_lr": 0.1, "inner_steps": 1}  # the published one was recorded
    assert study.distances == [0.0]
    rest = [study.propose()["inner_lr"] for _ in range(2)]
    assert sorted(rest) == [0.02, 0.5]
    assert all(how_far > 0 for how_far in study.distances[1:])
    asked = study.study.trials
    assert [trial.params["inner_lr"] for trial in asked] == [0.1, *rest]
    assert [trial.state for trial in asked] == [TrialState.RUNNING] * 3
    assert [one.name for one in study.played] == ["0.1", *map(str, rest)]


def test_the_recorded_order_proposes_nothing(space: SearchSpace) -> None:
    recorded = many(5, seed=0)
    study = RecordedStudy(only_maml(space), "maml", 0, curves=recorded, is_in_order=True)
    assert [study.propose() for _ in recorded] == [one.sampled for one in recorded]
    assert study.distances == [0.0] * 5


def test_seeds_draw_other_orders_and_the_published_setting_stays_first(space: SearchSpace) -> None:
    recorded = [curve("published", [0.5, 0.5, 0.5]), *many(11, seed=4)]
    made = recording(only_maml(space, trials=12), recorded)
    orders = [
        play(made, describe(made, {"sampler": "random"}), seed).played["maml"].curves for seed in range(4)
    ]
    assert len({tuple(order) for order in orders}) == 4
    assert {order[0] for order in orders} == {"published"}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray leaves sockets to the garbage collector
def test_a_search_on_one_worker_replays_itself(
    tmp_path: Path, space: SearchSpace, ray_folder: None, workers_without_torch: None
) -> None:
    space = only_maml(space, trials=10)  # three are random, then the sampler learns
    ledger = Ledger(tmp_path, keep=2)
    with cluster.connect(None, tmp_path, cpus=1) as connected:
        watch = Watch(tmp_path, space, quiet=True)
        experiment.explore(tmp_path, space, ledger, connected, watch, seed=7, trainable=smooth_trial)
    record = {"protocol": 1, "space": space.model_dump(mode="json"), "data_fingerprint": "0"}
    files.write_json(tmp_path / files.SEARCH, record)
    recorded = curves.read([tmp_path])
    played = play(recorded, describe(recorded, {}), seed=7).played["maml"]
    study = simulate.play(recorded, describe(recorded, {}), seed=7).studies["maml"]
    searched = ledger.of("maml")
    assert not any(study.distances)  # every proposal is the very setting that the search proposed then
    assert played.curves == [trial.name for trial in searched]
    decisions = [(event.trial, event.tasks_seen, event.score, event.decision) for event in played.events]
    assert decisions == [
        (trial.name, report["tasks_seen"], report["val_score"], trial.decisions[report["tasks_seen"]])
        for trial in searched
        for report in trial.reports
    ]
    assert {CONTINUE, "pruned", "complete"} == {decision for *_, decision in decisions}
