"""A search as Optuna studies in an SQLite file, which optuna-dashboard opens: one study an algorithm."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from metabench.core.config import Choices, Range, SearchSpace
from metabench.core.metrics import BETTER, SIGN
from metabench.leaderboard.folders import Search, metric_of, task_of
from metabench.search import space as spaces
from metabench.search.journal.ledger import COMPLETE, PRUNED, Trial, look
from metabench.search.propose import samplers
from metabench.search.propose.importance import is_full
from metabench.storage import files

FACTS = ("created", "seed", "protocol", "version", "code", "commit", "data_fingerprint")
"""What a study says of its search, beside the task and the budget."""


def write(path: Path, searches: Mapping[str, Search]) -> list[str]:
    """Write the studies of searches, and return their names: the search's, a slash and the algorithm's.

    The file appears when it is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.unlink(missing_ok=True)
    storage = RDBStorage(f"sqlite:///{unfinished}")
    names = []
    for name, search in searches.items():
        space = SearchSpace.model_validate(search.config["space"])
        ledger = look(search.folder)
        for algorithm in space.algorithms:
            names.append(f"{name}/{algorithm}")
            _add(storage, names[-1], algorithm, search, space, ledger.of(algorithm))
    storage.remove_session()
    storage.engine.dispose()
    unfinished.rename(path)
    return names


def _add(
    storage: RDBStorage,
    name: str,
    algorithm: str,
    search: Search,
    space: SearchSpace,
    trials: list[Trial],
) -> None:
    metric = metric_of(task_of(search))
    direction = "maximize" if BETTER[metric] == "higher" else "minimize"
    study = optuna.create_study(storage=storage, study_name=name, direction=direction)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([f"meta_validation/{metric}"])
    facts = {"search": str(search.folder), "algorithm": algorithm}
    facts |= {key: search.config[key] for key in FACTS if key in search.config}
    facts |= {key: getattr(space, key).model_dump(mode="json") for key in ("task", "network", "budget")}
    for key, value in facts.items():
        study.set_user_attr(key, files.plain(value))
    known = {
        name: samplers.distribution(parameter)
        for name, parameter in spaces.parameters(space, algorithm).items()
        if isinstance(parameter, Range | Choices)
    }
    created = search.config.get("created")
    began = None if created is None else datetime.datetime.fromisoformat(created)
    study.add_trials([_frozen(trial, known, space, metric, began) for trial in trials])


def _frozen(
    trial: Trial,
    known: Mapping[str, BaseDistribution],
    space: SearchSpace,
    metric: str,
    began: datetime.datetime | None,
) -> FrozenTrial:
    """Return a trial in Optuna's words; values that an extended search no longer allows are attributes only.

    The journal keeps no clock: a trial starts when its search did, and lasts as long as it took.
    """
    sampled = {key: value for key, value in trial.sampled.items() if _allows(known.get(key), value)}
    scores = {
        int(report["tasks_seen"]): SIGN[metric] * report["val_score"]
        for report in trial.reports
        if report["val_score"] is not None
    }
    state = _state(space, trial)
    frozen = optuna.create_trial(
        state=state,
        value=scores.get(trial.tasks_seen) if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        params=sampled,
        distributions={key: known[key] for key in sampled},
        intermediate_values=scores,
        user_attrs=_attributes(trial),
    )
    if began is not None:
        frozen.datetime_start = began.astimezone().replace(tzinfo=None)  # Optuna's times are local
        if state.is_finished():
            seconds = trial.reports[-1]["seconds"] if trial.reports else 0.0
            frozen.datetime_complete = frozen.datetime_start + datetime.timedelta(seconds=seconds)
    return frozen


def _allows(distribution: BaseDistribution | None, value: Any) -> bool:
    if distribution is None:
        return False
    try:
        optuna.create_trial(value=0.0, params={"it": value}, distributions={"it": distribution})
    except ValueError:
        return False
    return True


def _state(space: SearchSpace, trial: Trial) -> TrialState:
    """Return what the search's own study is told, but that a trial which waits has not ended."""
    if trial.status is None:
        return TrialState.RUNNING
    if is_full(space, trial):
        return TrialState.COMPLETE
    return TrialState.PRUNED if trial.status in (COMPLETE, PRUNED) else TrialState.FAIL


def _attributes(trial: Trial) -> dict[str, Any]:
    last = trial.reports[-1] if trial.reports else {}
    told = {
        "trial": trial.name,
        "status": trial.state,
        "is_default": trial.is_default,
        "seed": trial.seed,
        "tasks_seen": trial.tasks_seen,
        "hyperparameters": trial.hyperparameters,
        "seconds": last.get("seconds"),
        "peak_memory": last.get("peak_memory"),
        "val_ci": last.get("val_ci"),
        "error": trial.error,
    }
    return {key: files.plain(value) for key, value in told.items() if value is not None}
