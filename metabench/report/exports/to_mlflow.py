"""Searches and runs in MLflow: one experiment a search, one run a trial and a final run."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metabench import leaderboard
from metabench.core import MetabenchError
from metabench.report.exports.run_record import Experiment, Told
from metabench.search.journal.ledger import COMPLETE, PRUNED
from metabench.storage import files

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"
ADDRESS = "MLFLOW_TRACKING_URI"

STATUS: Mapping[str, str] = {
    COMPLETE: "FINISHED",
    PRUNED: "KILLED",
    "running": "RUNNING",
    "waiting": "RUNNING",
}
"""MLflow's words for how a run ended; FAILED for all others."""

MOST_METRICS = 1000
MOST_PARAMETERS = 100
"""What MLflow takes at once."""


def write(experiments: Iterable[Experiment], out: Path | None) -> str:
    """Write experiments into a database in a folder, or to $MLFLOW_TRACKING_URI, and return the address."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between MLflow and what it stands on
        from mlflow.exceptions import MlflowException

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        address, artifacts = os.environ.get(ADDRESS, ""), None
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            address = f"sqlite:///{out.absolute() / DATABASE}"
            artifacts = (out.absolute() / ARTIFACTS).as_uri()
        try:
            _write_all(address, artifacts, list(experiments))
        except MlflowException as error:
            raise MetabenchError(f"{address}: MLflow says: {error}") from error
    return address


def _write_all(address: str, artifacts: str | None, experiments: Sequence[Experiment]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address)
    _refuse_known(client, experiments)
    for experiment in experiments:
        _write(client, experiment, artifacts)


def _refuse_known(client: MlflowClient, experiments: Iterable[Experiment]) -> None:
    for experiment in experiments:
        if client.get_experiment_by_name(experiment.name) is not None:
            raise MetabenchError(
                f"MLflow has an experiment {experiment.name} already; rename or delete it for good there, "
                "or give another address or --out"
            )


def _write(client: MlflowClient, experiment: Experiment, artifacts: str | None) -> None:
    number = client.create_experiment(
        experiment.name, artifact_location=artifacts, tags=_texts(experiment.facts)
    )
    began = None if experiment.began is None else int(1000 * experiment.began.timestamp())
    for told in experiment.told:
        _write_run(client, number, told, began)
    if experiment.board is not None:
        run = client.create_run(number, start_time=began, tags={"kind": files.LEADERBOARD})
        client.update_run(run.info.run_id, name=files.LEADERBOARD)
        for suffix, text in (("json", leaderboard.as_json), ("md", leaderboard.as_markdown)):
            client.log_text(run.info.run_id, text(experiment.board), f"{files.LEADERBOARD}.{suffix}")
        client.set_terminated(run.info.run_id, "FINISHED")


def _write_run(client: MlflowClient, experiment: str, told: Told, began: int | None) -> None:
    """Write a run, which begins with its search, as the journal keeps no clock, and lasts what it took."""
    from mlflow.entities import Metric, Param

    tags = {"kind": told.kind, "algorithm": told.algorithm, "status": told.status, **_texts(told.facts)}
    run = client.create_run(experiment, start_time=began, tags=tags, run_name=told.name)
    start = run.info.start_time
    metrics = [
        Metric(key, value, start + int(1000 * values.get("system/seconds", told.seconds)), seen)
        for seen, values in told.points.items()
        for key, value in values.items()
    ]
    parameters = [Param(key, text) for key, text in _texts(told.settings).items()]
    for first in range(0, max(len(metrics), 1), MOST_METRICS):
        client.log_batch(run.info.run_id, metrics=metrics[first : first + MOST_METRICS])
    for first in range(0, len(parameters), MOST_PARAMETERS):
        client.log_batch(run.info.run_id, params=parameters[first : first + MOST_PARAMETERS])
    status = STATUS.get(told.status, "FAILED")
    if status != "RUNNING":
        client.set_terminated(run.info.run_id, status, start + int(1000 * told.seconds))


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}
