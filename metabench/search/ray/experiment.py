"""The search itself as a Tune experiment, which can be stopped at any moment and goes on from the ledger."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.error import TuneError
from ray.tune.execution import class_cache
from ray.tune.search import Searcher

from metabench.core import MetabenchError, signals
from metabench.core.config import SearchSpace
from metabench.search.journal import rule
from metabench.search.journal.ledger import ENDED, WAITS, Ledger
from metabench.search.journal.rule import HasRoom, always, scalars
from metabench.search.progress.watch import Watch
from metabench.search.propose import warm
from metabench.search.propose.feasible import SizeOf, uncounted
from metabench.search.propose.searcher import FairSearcher
from metabench.search.ray.cluster import Cluster
from metabench.search.ray.failures import RetryPolicy
from metabench.search.ray.reevaluation import ReevaluationActor
from metabench.search.ray.scheduler import RungScheduler
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
    has_room: HasRoom = always,
    is_cut: Callable[[], bool] = lambda: False,
    size_of: SizeOf = uncounted,
) -> None:
    """Run what is left of every algorithm's trials, until that is cut short."""
    endings = Endings(ledger, watch)
    retries = RetryPolicy()
    ledger.gpus = cluster.gpus
    for _ in range(ROUNDS):
        earlier = warm.earlier_trials(folder)
        searcher = FairSearcher(space, ledger, seed, earlier, has_room=has_room, size_of=size_of)
        if was_cut := is_cut():
            rule.cut_short(ledger, space.budget)
        if was_cut or not searcher.remaining():
            searcher.finish()
            endings.catch_up()
            return
        _fit(folder, searcher, cluster, endings, retries, trainable, is_cut)
        while not searcher.left and searcher.remaining() and not is_cut():
            _fit(folder, searcher, cluster, endings, retries, trainable, is_cut)
    lost = ", ".join(trial.name for trial in ledger.running())
    raise MetabenchError(f"{folder}: these trials never end: {lost}; the same command tries them again")


def _fit(
    folder: Path,
    searcher: FairSearcher,
    cluster: Cluster,
    endings: Endings,
    retries: RetryPolicy,
    trainable: Callable[..., None],
    is_cut: Callable[[], bool],
) -> None:
    """Run Tune once over what is left, or as much of it as one start of Tune may run."""
    space = searcher.space
    searcher.start_round(ROUND_TRIALS * cluster.slots)
    endings.searcher = searcher
    # Ray's own notes on what has ended; nobody reads them.
    shutil.rmtree(folder / files.RAY, ignore_errors=True)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is said, and written down, here
    actor = None if space.budget.borderline_tasks is None else ReevaluationActor()
    bound = tune.with_parameters(
        trainable,
        place=remote.canonical_url(folder),
        space=space.model_dump(mode="json"),
        **({} if actor is None else {"reevaluation": actor}),
    )
    say = endings.watch.say
    scheduler = RungScheduler(
        *(searcher.ledger, space.budget, actor, retries, cluster.excluded, say),
        *(searcher.has_room, searcher.goes_on),
    )
    _without_usage()
    _without_credentials()
    try:
        _tuner(folder, bound, cluster, TuneSearcher(searcher), scheduler, endings, Cut(is_cut)).fit()
    except TuneError as error:
        raise _cause(error) from None
    finally:
        shutil.rmtree(folder / files.RAY, ignore_errors=True)
    searcher.catch_up()
    if actor is not None:
        actor.close()


def _tuner(
    folder: Path,
    trainable: Any,
    cluster: Cluster,
    searcher: TuneSearcher,
    scheduler: RungScheduler,
    endings: Endings,
    cut: Cut,
) -> tune.Tuner:
    return tune.Tuner(
        # Asked for each trial, since nodes may turn out to be out of order.
        tune.with_resources(trainable, lambda config: cluster.request()),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,  # the searcher says when all is done: what a dead worker left is handed out again
            max_concurrent_trials=cluster.slots,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="experiment",
            storage_path=str((folder / files.RAY).absolute()),
            callbacks=[endings],
            stop=cut,
            verbose=0,
        ),
    )


def _without_usage() -> None:
    """Keep Tune from its report of usage, which is off: it imports every logger that is installed.

    That costs seconds a start and nothing else, so a Ray that keeps this elsewhere is as good.
    """
    with contextlib.suppress(ImportError):
        from ray.air._internal import usage

        usage.tag_callbacks = lambda callbacks: False


def _without_credentials() -> None:
    """Keep Tune from handing credentials to each worker: Ray logs what it hands out.

    A worker has those of its node, which on this machine are those of the driver.
    """
    names = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in names if name.startswith(("RAY_", "TUNE_"))}


def _cause(error: BaseException) -> BaseException:
    """Return what Tune has made its own error of: of what we raise while it asks us, it keeps the text."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MetabenchError | OSError):
        cause = cause.__cause__ or cause.__context__
    return error if cause is None else cause


def _name(trial: Any) -> str:
    return f"{trial.config['trial']}-{trial.trial_id}"


class Cut(tune.Stopper):
    """Ends all trials, where they are, once what is left of them is to be left out."""

    def __init__(self, is_cut: Callable[[], bool]) -> None:
        self.is_cut = is_cut

    def __getstate__(self) -> dict[str, Any]:
        """Leave all out of what Tune pickles and nobody reads."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no trial by what it reports; that is the scheduler's."""
        return False

    def stop_all(self) -> bool:
        """Tell whether all are to end."""
        return self.is_cut()


class TuneSearcher(Searcher):
    """Hand out the trials of a searcher."""

    def __init__(self, searcher: FairSearcher) -> None:
        super().__init__()
        self.source = searcher  # not `searcher`: Ray would take it for a searcher of its own

    def __getstate__(self) -> dict[str, Any]:
        """Leave all out of what Tune pickles and nobody reads."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the configuration of the next trial, None for not yet, or FINISHED when all is done."""
        return self.source.suggest(trial_id)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Have what has not ended handed out again; how a trial ended the ledger knows."""
        self.source.hand_back(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a searcher is rebuilt from the ledger."""


class Endings(tune.Callback):
    """Keep the watchers informed, and the searcher of what Tune lost."""

    def __init__(self, ledger: Ledger, watch: Watch) -> None:
        self.ledger = ledger
        self.watch = watch
        self.searcher: FairSearcher | None = None
        self._heard = len(ledger.history)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Listen to signals again, as Tune takes SIGUSR1 for itself when it starts, and look what runs.

        What Tune lost without a word is handed out again: the searcher would wait for it for ever.
        """
        if iteration <= 1:
            signals.keep_listening()
        signals.check()
        self.catch_up()
        self.watch.catch_up(self.ledger)
        # Who runs stands near the end.
        if self.searcher is not None and all(trial.is_finished() for trial in reversed(trials)):
            for trial_id in list(self.searcher.handed):
                self.searcher.hand_back(trial_id)

    def on_trial_start(self, **info: Any) -> None:
        """Show a trial that starts, or one that reports."""
        self.watch.refresh(self.ledger)

    on_trial_result = on_trial_start

    def on_trial_complete(self, *, trial: Any, **info: Any) -> None:
        """Show an ending, if it is one; drop statistics that Tune would keep of it and nobody reads."""
        trial.metric_analysis.clear()
        trial.metric_n_steps.clear()
        self.catch_up()

    def on_trial_error(self, **info: Any) -> None:
        """Show an ending, if the trial is not tried again."""
        self.catch_up()

    def catch_up(self) -> None:
        """Show which trials have ended, or begun to wait, since they were last shown."""
        history = self.ledger.history
        for what, name, _ in history[self._heard :]:
            if what == WAITS:
                self.watch.waits(self.ledger, name)
            elif what == ENDED:
                self._ended(name)
        self._heard = len(history)
        self.watch.refresh(self.ledger)

    def _ended(self, name: str) -> None:
        """Show an ending, and leave it in the trial's TensorBoard folder."""
        trial = self.ledger.trials[name]
        # The worker cannot know: a crash may be tried again, and how a report was answered is decided here.
        # And only now: TensorBoard leaves a file for good once there is a newer one, so that a file for
        # each decision would hide what the trial goes on to write.
        events = Events(self.ledger.folder / files.TENSORBOARD / trial.algorithm / name)
        for seen, details in trial.details.items():
            events.scalars(seen, scalars(details, self.ledger.objective.metric.sign))
        events.end(str(trial.status))
        events.close()
        self.watch.ended(self.ledger, name)
