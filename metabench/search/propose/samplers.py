"""Optuna's samplers by name, each made anew for a proposal, which then depends on history and seed alone."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from metabench.core import MetabenchError
from metabench.core.config import Choices, Range

STARTUP = 10
"""Random settings before a sampler learns from results; fewer where the whole budget is small."""

KEEPS_NOTES = ("cma-es", "qmc")
"""Samplers that leave notes in a study as they propose: to rebuild the study, they must propose again."""


def check(name: str) -> None:
    """Raise MetabenchError where a sampler's packages are not installed."""
    if name == "cma-es" and importlib.util.find_spec("cmaes") is None:
        raise MetabenchError(
            "budget.sampler=cma-es: needs cmaes, which is not installed; do: pip install cmaes, "
            "or choose another sampler"
        )


def distribution(parameter: Range | Choices) -> BaseDistribution:
    """Say in Optuna's words what a parameter of a search space may be."""
    if isinstance(parameter, Choices):
        return CategoricalDistribution(parameter.choices)
    low, high, step = parameter.low, parameter.high, parameter.step
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=parameter.log, step=int(step or 1))
    return FloatDistribution(low, high, log=parameter.log, step=step)


def suggest(trial: optuna.Trial, name: str, parameter: Range | Choices) -> Any:
    """Ask a study's trial for one parameter of a search space."""
    allowed = distribution(parameter)
    if isinstance(allowed, CategoricalDistribution):
        return trial.suggest_categorical(name, allowed.choices)
    method = trial.suggest_int if isinstance(allowed, IntDistribution) else trial.suggest_float
    return method(name, allowed.low, allowed.high, log=allowed.log, step=allowed.step)


class Retold(InMemoryStorage):
    """Trials in memory, of which one that was told as ended may be told anew."""

    def check_trial_is_updatable(self, trial_id: int, trial_state: TrialState) -> None:
        """Allow every change."""

    def reopen(self, trial_id: int) -> None:
        """Have a trial that was told as ended run again; no state but WAITING leads to RUNNING."""
        self.set_trial_state_values(trial_id, TrialState.WAITING)
        self.set_trial_state_values(trial_id, TrialState.RUNNING)

    def change(
        self, trial_id: int, sampled: Mapping[str, Any], allowed: Mapping[str, BaseDistribution]
    ) -> None:
        """Give a trial another setting than was sampled for it."""
        trial = self.get_trial(trial_id)
        trial.params, trial.distributions = dict(sampled), dict(allowed)


class WithoutNotes(Retold):
    """The same without what a sampler notes beside a trial that it proposes.

    TPE notes values for conditions that do not hold, and learns from them while the trial runs: the next
    proposal would depend on what the ledger, from which a study is rebuilt, does not know.
    """

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Forget a note."""


def start_study(name: str) -> tuple[Retold, optuna.Study]:
    """Start the study in which a sampler, or one of the same name, will propose."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # whatever is wrong with a space is said before
    storage = Retold() if name in KEEPS_NOTES else WithoutNotes()
    study = optuna.create_study(storage=storage, direction="maximize", sampler=RandomSampler(seed=0))
    return storage, study


class Points(QMCSampler):
    """Quasi-random points over all parameters of a space; those that conditions exclude are left out of each.

    Optuna's own takes the parameters of whichever trial ended first, so that conditional ones may be missing.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], series: int, seed: int) -> None:
        """Continue the series of points named by one seed; another is for what is drawn beside it."""
        super().__init__(
            qmc_type="sobol", scramble=True, seed=series, independent_sampler=RandomSampler(seed=seed)
        )
        self._whole = dict(space)

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        """Return the whole space."""
        return self._whole


def make(
    name: str, parameters: Mapping[str, Range | Choices], startup: int, series: int, seed: int
) -> BaseSampler:
    """Make a sampler for one proposal.

    Args:
        parameters: of the algorithm, without its constants.
        startup: random settings before it learns.
        series: a seed that is the same for all proposals of a study.
        seed: a seed that no other proposal has.
    """
    if name == "random":
        return RandomSampler(seed=seed)
    # What a sampler cannot model, such as parameters that not every trial has, it draws at random: that is
    # meant, so it need not warn of it.
    quiet: dict[str, Any] = {"warn_independent_sampling": False}
    common: dict[str, Any] = {"n_startup_trials": startup, "seed": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "qmc":
            return Points({key: distribution(one) for key, one in parameters.items()}, series, seed)
        if name == "gp":
            return GPSampler(**quiet, **common)
        if name == "cma-es":
            return CmaEsSampler(consider_pruned_trials=True, **quiet, **common)
        return TPESampler(multivariate=True, group=True, constant_liar=True, **common)
