"""Searches and runs in MLflow: one experiment a search, one run a trial and a final run."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import metabench.leaderboard as board
from metabench.core import MetabenchError
from metabench.report.exports.records import Experiment, RunRecord
from metabench.search.journal.ledger import COMPLETE, INFEASIBLE, PRUNED
from metabench.storage import files

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"
FILES = (DATABASE, ARTIFACTS)
ADDRESS = "MLFLOW_TRACKING_URI"

STATUS: Mapping[str, str] = {
    COMPLETE: "FINISHED",
    PRUNED: "KILLED",
    INFEASIBLE: "KILLED",
    "running": "RUNNING",
    "waiting": "RUNNING",
}
"""MLflow's words for how a run ended; FAILED for all others."""

MOST_METRICS = 1000
MOST_PARAMETERS = 100
"""What MLflow takes at once."""


def write(experiments: Sequence[Experiment], out: Path | None) -> str:
    """Write experiments into a database in a folder, or to $MLFLOW_TRACKING_URI; say how to look at it."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between MLflow and what it stands on
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        address, artifacts = os.environ.get(ADDRESS, ""), None
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            address = f"sqlite:///{out.absolute() / DATABASE}"
            artifacts = (out.absolute() / ARTIFACTS).as_uri()
        try:
            client = MlflowClient(tracking_uri=address)
            for name in (experiment.name for experiment in experiments):
                if client.get_experiment_by_name(name) is not None:
                    raise MetabenchError(
                        f"MLflow has an experiment {name} already; rename or delete it for good there, or "
                        "give another address or folder"
                    )
            for experiment in experiments:
                _write(client, experiment, artifacts)
        except MlflowException as error:
            raise MetabenchError(f"{address}: MLflow says: {error}") from error
    return f"{address}; look at it with: mlflow ui --backend-store-uri {address}"


def _write(client: MlflowClient, experiment: Experiment, artifacts: str | None) -> None:
    tags = _texts(experiment.facts)
    number = client.create_experiment(experiment.name, artifact_location=artifacts, tags=tags)
    began = None if experiment.began is None else int(1000 * experiment.began.timestamp())
    for record in experiment.records:
        _write_run(client, number, record, began)
    if experiment.search is not None:
        name, leaderboard = files.LEADERBOARD, board.assemble([experiment.search])
        run = client.create_run(number, start_time=began, tags={"kind": name}, run_name=name)
        for suffix, text in (("json", board.as_json), ("md", board.as_markdown)):
            client.log_text(run.info.run_id, text(leaderboard), f"{name}.{suffix}")
        client.set_terminated(run.info.run_id, "FINISHED")


def _write_run(client: MlflowClient, experiment: str, record: RunRecord, began: int | None) -> None:
    """Write a run, which begins with its search, as the journal keeps no clock, and lasts what it took."""
    from mlflow.entities import Metric, Param

    tags = {"kind": record.kind, "algorithm": record.algorithm, "status": record.status}
    run = client.create_run(
        experiment, start_time=began, tags={**tags, **_texts(record.facts)}, run_name=record.name
    )
    start = run.info.start_time
    metrics = [
        Metric(key, value, start + int(1000 * values.get("system/seconds", record.seconds)), seen)
        for seen, values in record.points.items()
        for key, value in values.items()
    ]
    parameters = [Param(key, text) for key, text in _texts(record.settings).items()]
    for first in range(0, max(len(metrics), 1), MOST_METRICS):
        client.log_batch(run.info.run_id, metrics=metrics[first : first + MOST_METRICS])
    for first in range(0, len(parameters), MOST_PARAMETERS):
        client.log_batch(run.info.run_id, params=parameters[first : first + MOST_PARAMETERS])
    status = STATUS.get(record.status, "FAILED")
    if status != "RUNNING":
        client.set_terminated(run.info.run_id, status, start + int(1000 * record.seconds))


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}
