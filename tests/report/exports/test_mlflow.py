"""MLflow's own reader says of exported searches and runs what their journals and reports say."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from typer.testing import Result

from metabench.leaderboard import folders
from metabench.search.journal.ledger import look
from metabench.storage import files

# MLflow meets deprecations in what it stands on.
pytestmark = pytest.mark.filterwarnings("ignore")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
pytest.importorskip("mlflow", reason="mlflow-skinny is not installed: pip install 'metabench[mlflow]'")

Export = Callable[..., Result]

STATUS = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "diverged": "FAILED",
    "failed": "FAILED",
    "running": "RUNNING",
    "waiting": "RUNNING",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def out(searched: Path, home: Path, calls: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export in a process of its own, in which MLflow cannot see that it is tested and hold its tongue."""
    folder = tmp_path_factory.mktemp("out")
    single = searched / files.FINAL / "protonet-tuned-seed0"
    silent = ("PYTEST", "MLFLOW", "CI", "DO_NOT_TRACK", "GITHUB")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(silent)}
    command = [sys.executable, "-c", "from metabench.cli import main; main()", "export", searched, single]
    done = subprocess.run(
        [*map(str, command), "--to", "mlflow", "--out", str(folder)],
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"mlflow ui --backend-store-uri sqlite:///{folder}/mlflow.db" in done.stdout
    return folder


@pytest.fixture
def client(out: Path) -> Iterator[Any]:
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{out}/mlflow.db")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


def runs(**tags: str) -> Any:
    import mlflow

    text = " and ".join(f"tags.{key} = '{value}'" for key, value in tags.items())
    return mlflow.search_runs(experiment_names=["tried"], filter_string=text, output_format="list")


def history(client: Any, run: Any, name: str) -> dict[int, float]:
    return {one.step: one.value for one in client.get_metric_history(run.info.run_id, name)}


def test_each_trial_is_a_run_that_says_what_the_journal_says(searched: Path, client: Any) -> None:
    by_name = {run.info.run_name: run for run in runs(kind="trial")}
    trials = look(searched).trials
    code = files.read_json(searched / files.SEARCH)["code"]
    assert by_name.keys() == trials.keys()
    for name, trial in trials.items():
        run = by_name[name]
        assert run.info.status == STATUS[trial.state]
        assert run.data.params == {key: str(value) for key, value in trial.hyperparameters.items()}
        tags = {"algorithm": trial.algorithm, "status": trial.state, "seed": str(trial.seed)}
        tags |= {"code": code, "search": str(searched)}
        assert tags.items() <= run.data.tags.items()
        assert run.data.tags.get("error") == trial.error
        for metric, key in (("meta_validation/accuracy", "val_score"), ("meta_validation/loss", "val_loss")):
            values = {one["tasks_seen"]: one[key] for one in trial.reports if one[key] is not None}
            assert history(client, run, metric) == values
        if trial.status is not None:
            seconds = trial.reports[-1]["seconds"] if trial.reports else 0
            assert run.info.end_time - run.info.start_time == 1000 * seconds


def test_each_final_run_tells_its_meta_test_at_the_tasks_that_its_weights_saw(
    searched: Path, client: Any
) -> None:
    search = folders.read_search(searched)
    by_name = {run.info.run_name: run for run in runs(kind="final")}
    finals = {run.folder.name: run for group in search.runs.values() for run in group}
    assert by_name.keys() == finals.keys()
    for name, final in finals.items():
        run = by_name[name]
        values = {one["tasks_seen"]: one["val_score"] for one in final.reports}
        assert history(client, run, "meta_validation/accuracy") == values
        if final.test is None:
            assert (run.info.status, run.data.tags["status"]) == ("FAILED", "failed")
            assert "no memory" in run.data.tags["error"]
            assert "meta_test/accuracy" not in run.data.metrics
            continue
        assert (run.info.status, run.data.tags["variant"]) == ("FINISHED", "tuned")
        mean = math.fsum(final.test["accuracy"]) / len(final.test["accuracy"])
        assert history(client, run, "meta_test/accuracy") == {final.reports[-1]["tasks_seen"]: mean}


def test_the_leaderboard_is_an_artifact_within_the_folder(searched: Path, out: Path, client: Any) -> None:
    (run,) = runs(kind="leaderboard")
    names = sorted(one.path for one in client.list_artifacts(run.info.run_id))
    assert names == ["leaderboard.json", "leaderboard.md"]
    place = Path(url2pathname(urlsplit(run.info.artifact_uri).path))
    assert out in place.parents
    board = json.loads((place / "leaderboard.json").read_text())
    assert {"maml_pp", "protonet"} <= {row["algorithm"] for row in board["rows"]}


def test_runs_given_by_themselves_share_an_experiment(searched: Path, client: Any) -> None:
    (run,) = client.search_runs([client.get_experiment_by_name("runs").experiment_id])
    assert run.info.run_name == str(searched / files.FINAL / "protonet-tuned-seed0")
    assert run.data.tags["kind"] == "run"


def test_nothing_was_sent_or_left_at_home(out: Path, home: Path, calls: list[Any]) -> None:
    assert calls == []
    assert not [path for path in home.rglob("*") if "mlflow" in str(path)]


def test_what_is_there_is_not_written_over(
    searched: Path, export: Export, out: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(runs(kind="trial"))
    again = export(searched, "--to", "mlflow", "--out", out)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{out}/mlflow.db")
    there = export(searched, "--to", "mlflow")
    assert (again.exit_code, there.exit_code) == (2, 2)
    assert "is there already" in again.stderr
    assert "has an experiment tried already" in there.stderr
    assert len(runs(kind="trial")) == before


def test_the_address_of_the_environment_serves_where_no_folder_is_given(
    searched: Path, export: Export, out: Path, tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{out}/mlflow.db")
    single = searched / files.FINAL / "maml_pp-tuned-seed0"
    client.rename_experiment(client.get_experiment_by_name("runs").experiment_id, "earlier")
    result = export(single, "--to", "mlflow")
    assert result.exit_code == 0, (result.output, result.exception)
    assert len(client.search_runs([client.get_experiment_by_name("runs").experiment_id])) == 1


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "gopher://somewhere"])
def test_an_address_where_no_mlflow_is_gets_one_message(
    searched: Path, export: Export, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    result = export(searched, "--to", "mlflow")
    assert result.exit_code == 2, (result.output, result.exception)
    assert f"metabench: {address}: MLflow says" in result.stderr
