"""Which runs the final stage plans, and how candidates become a chosen setting."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from metabench import search
from metabench.core import MetabenchError
from metabench.core.config import SearchSpace
from metabench.core.objectives import OBJECTIVES
from metabench.search import space as spaces
from metabench.search.journal.ledger import Ledger
from metabench.search.progress.watch import Watch
from metabench.search.propose.searcher import TRIAL_SEEDS
from metabench.search.ray import cluster, experiment
from metabench.search.ray.cluster import Cluster
from metabench.search.stages import confirm, final
from metabench.storage import files
from tests.predict import trained
from tests.search.played import make_error_report, make_report
from tests.support import small

NOWHERE = Cluster(slots=1, cpus=1, gpus=0)


def published(space: SearchSpace, algorithm: str) -> dict[str, object]:
    its = spaces.of(space, algorithm)
    return its.resolve(its.published[0])


def test_tuned_and_default_are_planned_with_the_same_seeds_and_ten_reports(space: SearchSpace) -> None:
    tuned = {**published(space, "maml"), "inner_lr": 0.3}
    chosen = {"maml": {"hyperparameters": tuned}, "maml_pp": None}
    planned = {run.name: run for run in final.plan(space, chosen, seed=4)}
    assert sorted(planned) == [
        "maml-default-seed0",
        "maml-default-seed1",
        "maml-tuned-seed0",
        "maml-tuned-seed1",
        "maml_pp-default-seed0",  # nothing was chosen: every trial diverged or failed
        "maml_pp-default-seed1",
    ]
    assert [planned[f"maml-{variant}-seed1"].config.seed for variant in ("tuned", "default")] == [5, 5]
    assert planned["maml-tuned-seed0"].config.rungs == list(range(90, 901, 90))
    assert planned["maml-tuned-seed0"].config.hyperparameters["inner_lr"] == 0.3
    assert all(run.copy_of is None for run in planned.values())
    assert max(run.config.seed for run in planned.values()) < TRIAL_SEEDS  # no final run repeats a trial


def test_full_runs_take_the_folds_in_turn(space: SearchSpace) -> None:
    options = {"split_by": "pictures", "folds": 2}
    task = space.task.model_copy(update={"dataset": "folder", "options": options})
    chosen = {"maml": {"hyperparameters": published(space, "maml")}, "maml_pp": None}
    planned = final.plan(space.model_copy(update={"task": task}), chosen, seed=0)
    assert {run.name[-1]: run.config.task.options["fold"] for run in planned} == {"0": 0, "1": 1}


def test_a_default_that_was_chosen_is_trained_once(space: SearchSpace) -> None:
    # As chosen.json gives it back.
    tuned = json.loads(json.dumps(published(space, "maml")))
    chosen = {"maml": {"hyperparameters": tuned}, "maml_pp": None}
    copies = {run.name: run.copy_of for run in final.plan(space, chosen, seed=0) if run.copy_of}
    assert copies == {f"maml-default-seed{k}": f"maml-tuned-seed{k}" for k in range(2)}


@pytest.mark.parametrize("name", [files.INPUTS, files.DIAGNOSTICS, files.CALIBRATION, files.REPORTS])
def test_a_final_run_that_lacks_what_follows_from_its_training_is_not_done(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.run(), tmp_path / "run"))
    assert final._is_trained(folder, OBJECTIVES["classification"])
    (folder / name).unlink()
    assert not final._is_trained(folder, OBJECTIVES["classification"])
    is_for_pictures = name == files.CALIBRATION
    assert final._is_trained(folder, OBJECTIVES["regression"]) == is_for_pictures


def test_the_best_on_fresh_tasks_is_chosen_and_without_candidates_nothing(
    tmp_path: Path, space: SearchSpace
) -> None:
    ledger = Ledger(tmp_path, keep=2)
    scores = {"maml-000": 0.5, "maml-001": 0.7, "maml-002": 0.6}
    for name, score in scores.items():
        ledger.propose("maml", {}, {"inner_lr": score}, name == "maml-000", 0)
        ledger.record(name, make_report(900, score), "complete", {})
    ledger.propose("maml_pp", {}, {}, True, 0)
    ledger.fail("maml_pp-000", "broken")
    fresh = {"maml-001": [0.4, 0.5], "maml-002": [0.5, 0.6]}  # the other way round than in the search
    for name, accuracy in fresh.items():
        files.write_json(tmp_path / files.CONFIRM / f"{name}.json", {"trial": name, "accuracy": accuracy})
    watch = Watch(tmp_path, space, quiet=True)
    chosen = confirm.choose(tmp_path, space, ledger, NOWHERE, watch)  # all confirmed: no cluster is asked
    assert chosen["maml_pp"] is None
    assert chosen["maml"] == {
        "trial": "maml-002",
        "hyperparameters": {"inner_lr": 0.6},
        "is_default": False,
        "val_accuracy": 0.6,
        "confirm_accuracy": 0.55,
    }
    assert files.read_json(tmp_path / files.CHOSEN) == chosen
    assert confirm.choose(tmp_path, space, Ledger(tmp_path, 2), NOWHERE, watch) == chosen


def test_the_lowest_error_on_fresh_tasks_is_chosen_and_one_that_is_not_finite_never(
    tmp_path: Path, space: SearchSpace
) -> None:
    only = space.model_copy(update={"algorithms": {"maml": {}}})
    ledger = Ledger(tmp_path, 3, OBJECTIVES["regression"])
    fresh = {"maml-000": [0.5, 0.7], "maml-001": [0.1, None], "maml-002": [0.4, 0.5]}
    for number, (name, errors) in enumerate(fresh.items()):
        ledger.propose("maml", {}, {"inner_lr": number}, number == 0, 0)
        ledger.record(name, make_error_report(900, 0.1 * (number + 1)), "complete", {})
        files.write_json(tmp_path / files.CONFIRM / f"{name}.json", {"trial": name, "error": errors})
    budget = only.budget.model_copy(update={"confirm_top": 3})
    watch = Watch(tmp_path, only, True, OBJECTIVES["regression"])
    chosen = confirm.choose(tmp_path, only.model_copy(update={"budget": budget}), ledger, NOWHERE, watch)
    assert chosen["maml"]["trial"] == "maml-002"
    assert chosen["maml"]["val_error"] == 0.1 * 3
    assert chosen["maml"]["confirm_error"] == 0.45
    assert not any("accuracy" in key for key in chosen["maml"])


def test_where_no_trial_was_judged_no_final_run_is_started(
    tmp_path: Path, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = dict.fromkeys(space.algorithms)
    monkeypatch.setattr(experiment, "explore", lambda *arguments, **options: None)
    monkeypatch.setattr(confirm, "choose", lambda *arguments: nothing)
    monkeypatch.setattr(cluster, "describe", list)  # of a Ray that is not started
    watch = Watch(tmp_path, space, quiet=True)
    with pytest.raises(MetabenchError, match="no trial of any algorithm was judged, so no final run"):
        search._run_stages(tmp_path, space, small.splits(), 0, NOWHERE, watch)
    assert not (tmp_path / files.FINAL).exists()
