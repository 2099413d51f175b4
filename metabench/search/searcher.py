"""What to try next: one Optuna study an algorithm, and the algorithm that has spent least goes first."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.search import Searcher

from metabench import seeds, spaces
from metabench.config import Choices, Range, SearchSpace
from metabench.search.ledger import COMPLETE, PRUNED, Ledger, Trial

STARTUP = 10
"""Random settings before the sampler learns from results; fewer where the whole budget is small."""

TRIAL_SEEDS = 1_000_000
"""Where the seeds of trials start, far from those of the final runs, so that no final run repeats a trial."""


def suggest(trial: optuna.Trial, name: str, parameter: Range | Choices) -> Any:
    """Ask a study's trial for one parameter of a search space."""
    if isinstance(parameter, Choices):
        return trial.suggest_categorical(name, parameter.choices)
    low, high, step = parameter.low, parameter.high, parameter.step
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=parameter.log, step=int(step or 1))
    return trial.suggest_float(name, low, high, log=parameter.log, step=step)


class Study:
    """The Optuna study of one algorithm, told the truth about every trial.

    A trial that reached the full budget is told as complete; one that was stopped as pruned, with what it
    reported at each rung; one that diverged or failed as failed. The sampler is seeded anew for each
    proposal, by search seed, algorithm and number, so a proposal depends on the history alone.
    """

    def __init__(self, space: SearchSpace, algorithm: str, seed: int) -> None:
        self.space = space
        self.algorithm = algorithm
        self.seed = seed
        self.parameters = spaces.parameters(space, algorithm)
        self.asked: dict[int, optuna.Trial] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=0))

    def propose(self) -> dict[str, Any]:
        """Sample the next setting; the published ones come first."""
        number = len(self.asked)
        published = spaces.published(self.space, self.algorithm)
        if number < len(published):
            return self.repeat(published[number])
        self.study.sampler = self._sampler(number)
        return self._ask()

    def repeat(self, sampled: dict[str, Any]) -> dict[str, Any]:
        """Ask for a given setting."""
        self.study.sampler = RandomSampler(seed=0)  # proposes nothing: every value is given
        self.study.enqueue_trial(sampled)
        return self._ask()

    def tell(self, trial: Trial) -> None:
        """Tell how a trial ended; one without an ending failed."""
        asked = self.asked[trial.number]
        for report in trial.reports:
            if report["val_score"] is not None:
                asked.report(report["val_score"], report["tasks_seen"])
        if trial.status == COMPLETE and trial.tasks_seen >= self.space.budget.tasks:
            self.study.tell(asked, trial.score)
        else:  # a trial that completed the smaller budget of a search that was extended counts as pruned
            is_judged = trial.status in (PRUNED, COMPLETE)
            self.study.tell(asked, state=TrialState.PRUNED if is_judged else TrialState.FAIL)

    def _ask(self) -> dict[str, Any]:
        asked = self.study.ask()
        self.asked[len(self.asked)] = asked
        values = spaces.settled(self.space, self.algorithm)
        sampled = {}
        for name, parameter in self.parameters.items():
            if isinstance(parameter, Range | Choices) and spaces.is_active(parameter, values):
                values[name] = sampled[name] = suggest(asked, name, parameter)
        return sampled

    def _sampler(self, number: int) -> BaseSampler:
        seed = seeds.seed("propose", self.seed, self.algorithm, number) % 2**32
        startup = min(STARTUP, max(1, self.space.budget.trials // 3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(
                n_startup_trials=startup, multivariate=True, group=True, constant_liar=True, seed=seed
            )


class FairSearcher(Searcher):
    """Hand out trials: what a stopped search left unfinished, then new ones, to each algorithm alike."""

    def __init__(self, space: SearchSpace, ledger: Ledger, seed: int) -> None:
        """Rebuild the studies from the ledger."""
        super().__init__()
        self.space = space
        self.ledger = ledger
        self.seed = seed
        self.rungs = spaces.rungs(space.budget)
        self.trials = {algorithm: spaces.n_trials(space, algorithm) for algorithm in space.algorithms}
        self.studies = {algorithm: Study(space, algorithm, seed) for algorithm in space.algorithms}
        for trial in ledger.trials.values():
            self.studies[trial.algorithm].repeat(trial.sampled)
            if trial.status is not None:
                self.studies[trial.algorithm].tell(trial)
        self.waiting = [trial.name for trial in ledger.unfinished()]
        self.handed: dict[str, str] = {}  # Tune's trial id -> our name

    def remaining(self) -> int:
        """Count the trials still to be handed out."""
        new = sum(self.trials[algorithm] - len(self.ledger.of(algorithm)) for algorithm in self.studies)
        return len(self.waiting) + new

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Return the configuration of the next trial, or FINISHED when every budget is spent."""
        if self.waiting:
            trial = self.ledger.trials[self.waiting.pop(0)]
        elif self.remaining():
            trial = self._new_trial()
        else:
            return Searcher.FINISHED
        self.handed[trial_id] = trial.name
        return {
            "algorithm": trial.algorithm,
            "trial": trial.name,
            "hyperparameters": trial.hyperparameters,
            "seed": trial.seed,
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how a trial ended, once; the ledger knows."""
        name = self.handed.pop(trial_id, None)
        if name is not None:
            trial = self.ledger.trials[name]
            self.studies[trial.algorithm].tell(trial)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a searcher is rebuilt from the ledger."""

    def _new_trial(self) -> Trial:
        open_ = [a for a in self.studies if len(self.ledger.of(a)) < self.trials[a]]
        algorithm = min(open_, key=lambda a: (self._spent(a), len(self.ledger.of(a))))
        number = len(self.ledger.of(algorithm))
        sampled = self.studies[algorithm].propose()
        hyperparameters = spaces.resolve(self.space, algorithm, sampled)
        seed = TRIAL_SEEDS * (self.seed + 1) + number  # the same for trial k of every algorithm
        return self.ledger.propose(algorithm, sampled, hyperparameters, number == 0, seed)

    def _spent(self, algorithm: str) -> int:
        """Count tasks seen; an unfinished trial counts as having reached the rung that it runs towards."""
        total = 0
        for trial in self.ledger.of(algorithm):
            ahead = [rung for rung in self.rungs if rung > trial.tasks_seen]
            total += ahead[0] if trial.status is None and ahead else trial.tasks_seen
        return total
