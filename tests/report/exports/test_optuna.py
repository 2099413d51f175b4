"""Optuna's own reader, and optuna-dashboard's own server, say of an exported search what its journal says."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from typer.testing import Result

from metabench.core.config import SearchSpace
from metabench.leaderboard import folders
from metabench.report.exports import records, to_optuna
from metabench.search.folder import create_or_resume
from metabench.search.journal.ledger import Ledger, look
from metabench.search.journal.rule import decide
from metabench.storage import files
from tests.report import played
from tests.search.played import make_error_report
from tests.support import small

Export = Callable[..., Result]

STATES = {
    "complete": "COMPLETE",
    "pruned": "PRUNED",
    "diverged": "FAIL",
    "failed": "FAIL",
    "running": "RUNNING",
    "waiting": "RUNNING",
}


@pytest.fixture(scope="module")
def database(searched: Path, export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    result = export(searched, "--to", "optuna", "--out", out)
    assert result.exit_code == 0, (result.output, result.exception)
    assert f"optuna-dashboard sqlite:///{out}/optuna.db" in result.stdout
    assert [path.name for path in out.iterdir()] == ["optuna.db"]
    return out / "optuna.db"


@pytest.fixture
def storage(database: Path) -> Iterator[RDBStorage]:
    opened = RDBStorage(f"sqlite:///{database}")
    yield opened
    opened.remove_session()
    opened.engine.dispose()


@pytest.mark.parametrize("algorithm", ["maml_pp", "protonet"])
def test_a_study_holds_what_the_journal_holds(searched: Path, storage: RDBStorage, algorithm: str) -> None:
    study = optuna.load_study(study_name=f"tried/{algorithm}", storage=storage)
    trials = look(searched).of(algorithm)
    assert study.metric_names == ["meta_validation/accuracy"]
    assert study.direction.name == "MAXIMIZE"
    assert len(study.trials) == len(trials)
    for exported, trial in zip(study.trials, trials, strict=True):
        assert (exported.number, exported.user_attrs["trial"]) == (trial.number, trial.name)
        assert exported.state.name == STATES[trial.state]
        assert exported.user_attrs["status"] == trial.state
        assert exported.user_attrs["hyperparameters"] == trial.hyperparameters
        assert exported.user_attrs["seed"] == trial.seed
        assert exported.user_attrs.get("error") == trial.error
        scores = {
            one["tasks_seen"]: one["val_score"] for one in trial.reports if one["val_score"] is not None
        }
        assert exported.intermediate_values == scores
        assert exported.value == (trial.score if trial.state in ("complete", "pruned") else None)
        if exported.state.is_finished():
            seconds = trial.reports[-1]["seconds"] if trial.reports else 0
            assert exported.duration == datetime.timedelta(seconds=seconds)
    best = max((trial for trial in trials if trial.state == "complete"), key=lambda trial: trial.score or 0)
    assert study.best_trial.user_attrs["trial"] == best.name


def test_settings_have_the_ranges_of_the_space_and_those_beyond_are_attributes(
    searched: Path, storage: RDBStorage
) -> None:
    study = optuna.load_study(study_name="tried/maml_pp", storage=storage)
    trials = look(searched).of("maml_pp")
    assert [exported.params for exported in study.trials[:5]] == [trial.sampled for trial in trials[:5]]
    beyond = study.trials[5]
    assert beyond.params == {"inner_lr": 0.3, "inner_steps": 2}
    assert beyond.user_attrs["hyperparameters"]["outer_lr"] == 0.5
    distributions = study.trials[0].distributions
    assert distributions["inner_lr"] == optuna.distributions.FloatDistribution(0.005, 5.0, log=True)
    assert distributions["inner_steps"] == optuna.distributions.CategoricalDistribution((1, 2, 3))
    record = files.read_json(searched / files.SEARCH)
    assert study.user_attrs["code"] == record["code"]
    assert study.user_attrs["budget"]["tasks"] == 2700


def test_the_dashboard_serves_the_studies_and_their_trials(searched: Path, storage: RDBStorage) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    from werkzeug.test import Client

    client = Client(dashboard.wsgi(storage))
    with client.get("/dashboard") as page:
        assert b"<html" in page.data
    studies = json.loads(client.get("/api/studies").data)["study_summaries"]
    assert [one["study_name"] for one in studies] == ["tried/maml_pp", "tried/protonet"]
    for study, algorithm in zip(studies, ("maml_pp", "protonet"), strict=True):
        answer = json.loads(client.get(f"/api/studies/{study['study_id']}").data)
        assert answer["objective_names"] == ["meta_validation/accuracy"]
        trials = look(searched).of(algorithm)
        listed = [(one["state"].upper(), len(one["intermediate_values"])) for one in answer["trials"]]
        n_scores = [sum(one["val_score"] is not None for one in trial.reports) for trial in trials]
        states = [STATES[trial.state] for trial in trials]
        assert listed == list(zip(states, n_scores, strict=True))


def test_an_error_is_minimised(tmp_path: Path) -> None:
    task = {"dataset": "sinusoid", "way": 1, "shot": 5, "query": 5}
    space = SearchSpace.model_validate(
        {**played.SPACE, "task": task, "algorithms": {"maml": {}}, "network": {"name": "mlp", "norm": "none"}}
    )
    create_or_resume(tmp_path / "waves", space, small.splits()._replace(kind="regression"), seed=0)
    ledger = Ledger(tmp_path / "waves", 2)
    for error in (0.7, 0.2):
        trial = ledger.propose("maml", {}, {}, False, 1)
        decide(ledger, space.budget, trial.name, make_error_report(2700, error))
    path = tmp_path / "optuna.db"
    searches = list(records.experiments([folders.read_search(tmp_path / "waves")]))
    assert to_optuna.write(searches, tmp_path).startswith(f"{path}: waves/maml;")
    study = optuna.load_study(study_name="waves/maml", storage=f"sqlite:///{path}")
    assert (study.metric_names, study.direction.name) == (["meta_validation/error"], "MINIMIZE")
    assert (study.best_value, study.best_trial.intermediate_values) == (0.2, {2700: 0.2})


def test_a_second_export_is_refused_and_changes_nothing(
    searched: Path, export: Export, database: Path
) -> None:
    before = database.read_bytes()
    result = export(searched, "--to", "optuna", "--out", database.parent)
    assert result.exit_code == 2
    assert "is there already" in result.stderr
    assert database.read_bytes() == before
