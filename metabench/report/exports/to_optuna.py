"""A search as Optuna studies in an SQLite file, which optuna-dashboard opens: one study an algorithm."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from metabench.core import MetabenchError
from metabench.core.config import SearchSpace
from metabench.leaderboard.folders import Search
from metabench.report.exports.records import Experiment, RunRecord
from metabench.search import space as spaces
from metabench.search.journal.ledger import COMPLETE, PRUNED, Trial
from metabench.search.propose import samplers
from metabench.storage import files

FILES = ("optuna.db",)

FACTS = ("created", "seed", "protocol", "version", "code", "commit", "data_fingerprint")
"""What a study says of its search, beside the task and the budget."""


def write(experiments: Sequence[Experiment], out: Path) -> str:
    """Write a study an algorithm of searches, SEARCH/ALGORITHM, and say which and how to look at them.

    The file appears when it is whole.
    """
    path = out / FILES[0]
    if all(experiment.search is None for experiment in experiments):
        raise MetabenchError("a run has no trials to make a study of; give the folder of a search")
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.unlink(missing_ok=True)
    storage = RDBStorage(f"sqlite:///{unfinished}")
    names = []
    for experiment in experiments:
        if experiment.search is not None:
            space = SearchSpace.model_validate(experiment.search.config["space"])
            names += [_add(storage, experiment, experiment.search, space, name) for name in space.algorithms]
    storage.remove_session()
    storage.engine.dispose()
    unfinished.rename(path)
    return f"{path}: {', '.join(names)}; look at them with: optuna-dashboard sqlite:///{path}"


def _add(
    storage: RDBStorage, experiment: Experiment, search: Search, space: SearchSpace, algorithm: str
) -> str:
    name, metric = f"{experiment.name}/{algorithm}", search.metric
    direction = "maximize" if metric.sign > 0 else "minimize"
    study = optuna.create_study(storage=storage, study_name=name, direction=direction)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([f"meta_validation/{metric}"])
    facts = {"search": str(search.folder), "algorithm": algorithm}
    facts |= {key: search.config[key] for key in FACTS if key in search.config}
    facts |= {key: getattr(space, key).model_dump(mode="json") for key in ("task", "network", "budget")}
    for key, value in facts.items():
        study.set_user_attr(key, files.plain(value))
    sampled = spaces.of(space, algorithm).sampled
    distributions = {key: samplers.distribution(parameter) for key, parameter in sampled.items()}
    study.add_trials(
        [
            _frozen(experiment, record, distributions, space.budget.tasks)
            for record in experiment.records
            if record.trial is not None and record.algorithm == algorithm
        ]
    )
    return name


def _frozen(
    experiment: Experiment, record: RunRecord, distributions: Mapping[str, BaseDistribution], budget: int
) -> FrozenTrial:
    """Return a trial in Optuna's words; values that an extended search no longer allows are attributes only.

    The journal keeps no clock: a trial starts when its search did, and lasts as long as it took.
    """
    search, trial, began = experiment.search, record.trial, experiment.began
    assert search is not None
    assert trial is not None
    sampled = {key: value for key, value in trial.sampled.items() if _allows(distributions.get(key), value)}
    key = f"meta_validation/{search.metric}"
    scores = {seen: figures[key] for seen, figures in record.points.items() if key in figures}
    state = _state(trial, budget)
    frozen = optuna.create_trial(
        state=state,
        value=scores.get(trial.tasks_seen) if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        params=sampled,
        distributions={key: distributions[key] for key in sampled},
        intermediate_values=scores,
        user_attrs=_attributes(trial),
    )
    if began is not None:
        frozen.datetime_start = began.astimezone().replace(tzinfo=None)  # Optuna's times are local
        if state.is_finished():
            frozen.datetime_complete = frozen.datetime_start + datetime.timedelta(seconds=record.seconds)
    return frozen


def _allows(distribution: BaseDistribution | None, value: Any) -> bool:
    if distribution is None:
        return False
    try:
        optuna.create_trial(value=0.0, params={"it": value}, distributions={"it": distribution})
    except ValueError:
        return False
    return True


def _state(trial: Trial, budget: int) -> TrialState:
    """Return what the search's own study is told, but that a trial which waits has not ended."""
    if trial.status is None:
        return TrialState.RUNNING
    if trial.status == COMPLETE and trial.tasks_seen >= budget and trial.score is not None:
        return TrialState.COMPLETE
    return TrialState.PRUNED if trial.status in (COMPLETE, PRUNED) else TrialState.FAIL


def _attributes(trial: Trial) -> dict[str, Any]:
    last = trial.reports[-1] if trial.reports else {}
    attributes = {
        "trial": trial.name,
        "status": trial.state,
        **{key: getattr(trial, key) for key in ("is_default", "seed", "parameters", "tasks_seen")},
        "hyperparameters": trial.hyperparameters,
        **{key: last.get(key) for key in ("seconds", "peak_memory", "val_ci")},
        "error": trial.error,
    }
    return {key: files.plain(value) for key, value in attributes.items() if value is not None}
