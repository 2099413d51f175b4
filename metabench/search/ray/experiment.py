"""The search itself as a Tune experiment, which can be stopped at any moment and goes on from the ledger."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.air._internal import usage
from ray.tune.error import TuneError

from metabench.core import MetabenchError, signals
from metabench.core.config import SearchSpace
from metabench.search import space as spaces
from metabench.search.journal.ledger import Ledger
from metabench.search.progress.watch import Watch
from metabench.search.propose import warm
from metabench.search.propose.searcher import FairSearcher
from metabench.search.ray.asha import RungScheduler, choose_top, scalars
from metabench.search.ray.cluster import Cluster
from metabench.search.ray.failures import Attempts
from metabench.search.ray.reevaluation import Desk
from metabench.search.ray.worker import run_trial
from metabench.storage import files, remote
from metabench.storage.tensorboard import Events

ROUNDS = 3
"""How often Tune is started again for trials that it lost without a word."""

ROUND_TRIALS = 500
"""Trials for each place after which Tune is started anew, as it keeps something of every trial.

Places stand empty until the last trial of a round has ended: with so many, for about a hundredth of the time.
"""


def explore(
    folder: Path,
    space: SearchSpace,
    ledger: Ledger,
    cluster: Cluster,
    watch: Watch,
    seed: int,
    trainable: Callable[..., None] = run_trial,
) -> None:
    """Run what is left of every algorithm's trials."""
    endings = Endings(ledger, watch)
    attempts = Attempts(ledger, watch.say)
    ledger.gpus = cluster.gpus
    for _ in range(ROUNDS + (space.budget.scheduler == "top_k")):
        for algorithm in space.algorithms:
            for name in choose_top(ledger, space.budget, algorithm, spaces.n_trials(space, algorithm)):
                endings.ended(name)
        searcher = FairSearcher(space, ledger, seed, warm.known(folder))
        if not searcher.remaining():
            return
        _fit(folder, space, searcher, cluster, endings, attempts, trainable)
        while not searcher.left and searcher.remaining():
            _fit(folder, space, searcher, cluster, endings, attempts, trainable)
    lost = ", ".join(trial.name for trial in ledger.unfinished())
    raise MetabenchError(f"{folder}: these trials never end: {lost}; the same command tries them again")


def _fit(
    folder: Path,
    space: SearchSpace,
    searcher: FairSearcher,
    cluster: Cluster,
    endings: Endings,
    attempts: Attempts,
    trainable: Callable[..., None],
) -> None:
    searcher.start_round(ROUND_TRIALS * cluster.slots)
    # Ray's own notes on what has ended; nobody reads them.
    shutil.rmtree(folder / files.RAY, ignore_errors=True)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is told, and written down, here
    desk = None if space.budget.borderline_tasks is None else Desk()
    given = {"place": remote.place_of(folder), "space": space.model_dump(mode="json")}
    bound = tune.with_parameters(trainable, **given, **({} if desk is None else {"desk": desk}))
    tuner = tune.Tuner(
        # Asked for each trial, since nodes may be found to be out of order.
        tune.with_resources(bound, lambda config: cluster.request()),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=RungScheduler(searcher.ledger, space.budget, desk, attempts, cluster.avoided),
            num_samples=-1,  # the searcher says when all is done: what a dead worker left is handed out again
            max_concurrent_trials=cluster.slots,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="experiment",
            storage_path=str((folder / files.RAY).absolute()),
            callbacks=[endings, Lost(searcher)],
            verbose=0,
        ),
    )
    # For its report of usage, which is off, Ray would import every logger that is installed: seconds a start.
    usage.tag_callbacks = lambda callbacks: False
    try:
        tuner.fit()
    except TuneError as error:
        raise _cause(error) from None
    searcher.catch_up()
    if desk is not None:
        desk.close()


def _cause(error: BaseException) -> BaseException:
    """Return what Tune has made its own error of: of what we raise while it asks us, it keeps the text."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, MetabenchError | OSError):
        found = found.__cause__ or found.__context__
    return error if found is None else found


def _name(trial: Any) -> str:
    return f"{trial.config['trial']}-{trial.trial_id}"


class Endings(tune.Callback):
    """Keep the watchers informed."""

    def __init__(self, ledger: Ledger, watch: Watch) -> None:
        self.ledger = ledger
        self.watch = watch

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Listen to signals again: Tune takes SIGUSR1 for itself when it starts."""
        if iteration <= 1:
            signals.keep_listening()
        signals.check()
        self.watch.catch_up(self.ledger)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show a trial that starts."""
        self.watch.refresh(self.ledger)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Show a report."""
        self.watch.refresh(self.ledger)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show an ending, if it is one; drop statistics that Tune would keep of it and nobody reads."""
        trial.metric_analysis.clear()
        trial.metric_n_steps.clear()
        self.ended(trial.config["trial"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show an ending, if the trial is not tried again."""
        self.ended(trial.config["trial"])

    def ended(self, name: str) -> None:
        """Show an ending, and leave it in the trial's TensorBoard folder."""
        trial = self.ledger.trials[name]
        if trial.status is None:
            self.watch.refresh(self.ledger)
            return
        # The worker cannot know: a crash may be tried again, and how a report was answered is decided here.
        # And only now: TensorBoard leaves a file for good once there is a newer one, so that a file for
        # each decision would hide what the trial goes on to write.
        events = Events(self.ledger.folder / files.TENSORBOARD / trial.algorithm / name)
        for seen, basis in trial.bases.items():
            events.scalars(seen, scalars(basis, self.ledger.objective.sign))
        events.end(str(trial.status))
        events.close()
        self.watch.ended(self.ledger, name)


class Lost(tune.Callback):
    """Have what Tune lost without a word handed out again, for which the searcher would wait for ever."""

    def __init__(self, searcher: FairSearcher) -> None:
        self.searcher = searcher

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look whether anything runs."""
        if all(trial.is_finished() for trial in reversed(trials)):  # who runs is found soonest from the end
            for trial_id in list(self.searcher.handed):
                self.searcher.on_trial_complete(trial_id)
