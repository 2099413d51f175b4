"""Which hyperparameters mattered: PED-ANOVA over the trials of one algorithm that saw the full budget.

Trials that were stopped have scores of smaller budgets; beside the others they would say which settings are
quick instead of good, so they are left out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from metabench.core.config import Choices, Range, SearchSpace
from metabench.search import space as spaces
from metabench.search.journal.ledger import COMPLETE, Trial
from metabench.search.propose import samplers

LEAST = 10
"""Trials at the full budget below which shares would be an accident."""

BEST = 5
"""Trials that the others are told from, at least; Optuna advises no fewer."""


class Importance(NamedTuple):
    """What part each hyperparameter has in telling the best trials from all at the full budget."""

    shares: dict[str, float]  # by name, largest first; their sum is 1
    n_trials: int
    n_best: int


def is_full(space: SearchSpace, trial: Trial) -> bool:
    """Tell whether a trial saw the full budget and has a score."""
    return (
        trial.status == COMPLETE
        and trial.tasks_seen >= space.budget.tasks
        and trial.score is not None
        and math.isfinite(trial.score)
    )


def measure(space: SearchSpace, algorithm: str, trials: Iterable[Trial]) -> Importance | None:
    """Return the importance of an algorithm's hyperparameters; None where fewer than LEAST trials tell."""
    known = {
        name: samplers.distribution(parameter)
        for name, parameter in spaces.parameters(space, algorithm).items()
        if isinstance(parameter, Range | Choices)
    }
    full = [_frozen(trial, known) for trial in trials if is_full(space, trial)]
    kept = [trial for trial in full if trial is not None]
    if len(kept) < LEAST or not any(trial.params for trial in kept):
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.add_trials(kept)
    share = max(0.1, BEST / len(kept))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of conditional settings that few trials have
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=share))
    shares = dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))
    return Importance(shares, len(kept), math.ceil(share * len(kept)))


def _frozen(trial: Trial, known: dict[str, optuna.distributions.BaseDistribution]) -> FrozenTrial | None:
    """Return a trial in Optuna's words; None where a search that was extended has other bounds by now."""
    values = {name: value for name, value in trial.sampled.items() if name in known}
    own = {name: known[name] for name in values}
    try:
        return optuna.create_trial(
            state=TrialState.COMPLETE, value=trial.score, params=values, distributions=own
        )
    except ValueError:
        return None
