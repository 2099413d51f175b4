"""The search: one budget an algorithm, confirmation on fresh tasks, final runs over seeds, meta-test once.

Whatever decides imports no Ray, and the rule of stopping no Optuna either. A search is resumed from its own
journal (`ledger`), never from Ray's pickled state: Ray forgets the rungs on restore, needs unpickling, and
knows nothing of the stages after its own. So every start is a new Tune experiment over what the journal says
is left, each trial goes on from the state that it saved itself, and a kill at any moment is harmless.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from metabench import CalledPackage
from metabench.core import MetabenchError, Splits, utc_now
from metabench.core.config import NetworkConfig, SearchSpace
from metabench.storage import files

if TYPE_CHECKING:
    from metabench.search.journal.ledger import Ledger
    from metabench.search.progress.terminal import Terminal
    from metabench.search.progress.watch import Watch
    from metabench.search.ray.cluster import Cluster
    from metabench.search.space.automatic import Timing

sys.modules[__name__].__class__ = CalledPackage


def search(
    space: SearchSpace,
    out: Path,
    name: str,
    *,
    storage: str | None = None,
    address: str | None = None,
    workers: int | None = None,
    resume: Literal["auto", "never", "must"] = "auto",
    accept: bool = False,
    warm_start: str | None = None,
    seed: int = 0,
    quiet: bool = False,
    cpus: int | None = None,
    fetch: str | None = None,
    finish_now: bool = False,
    cpus_per_trial: int = 1,
    gpus_per_trial: float | None = None,
    timing: Timing | None = None,
    terminal: Terminal | None = None,
) -> Path:
    """Run a search, or what is left of it, and return its folder with the leaderboard in it.

    Args:
        storage: address under which the search folder is kept in object storage, such as s3://bucket/searches.
        address, workers: Ray cluster to join, else this machine; and how many nodes it may grow to.
        resume: continue what is there if it is the same search (auto), never, or insist on it (must).
        accept: continue with a larger budget, more algorithms or another version, and record that.
        warm_start: folder of an earlier search whose trials this one is to know of.
        cpus: cores of this machine to use; all where it is not given.
        fetch: whence this machine and each node download data that they lack: official, or a mirror.
        finish_now: leave out what is left of the trials, or of the final runs where those have begun.
        gpus_per_trial: a share of one, or a whole number; as fits the cores where it is not given.
        timing: of a search within a time, as `stages.automatic.choose` returns it.
        terminal: one that shows already what goes on.
    """
    from metabench.search.progress.terminal import Terminal

    with Terminal(quiet) if terminal is None else contextlib.nullcontext(terminal) as shown:
        from metabench.core.objectives import OBJECTIVES
        from metabench.search import folder
        from metabench.search.progress.watch import Watch
        from metabench.search.propose import samplers
        from metabench.search.ray import cluster

        files.check_name(name, "name")
        samplers.check(space.budget.sampler)
        place, url = (out / name).absolute(), storage and f"{storage}/{name}"
        if url is None:
            folder.check_resume(place, resume, warm_start)
        loaded = _load(space, fetch)
        watch = Watch(place, space, quiet, OBJECTIVES[loaded[0].kind], shown)
        with folder.opened(place, url, resume, watch.say):
            watch.space, continued = folder.create_or_resume(
                place, space, loaded[0], seed, accept, warm_start, watch.say, timing and timing.record
            )
            watch.say(f"{('starting', 'continuing')[continued]} {place}{f', kept at {url}' if url else ''}")
            trial = cluster.TrialResources(cpus_per_trial, gpus_per_trial)
            connection = functools.partial(cluster.connect, address, place, trial, cpus, watch.say, workers)
            _drive(place, loaded, seed, watch, timing, connection, address, fetch, finish_now)
        return place


def _drive(
    place: Path,
    loaded: tuple[Splits, list[Path]],
    seed: int,
    watch: Watch,
    timing: Timing | None,
    connection: Callable[[], AbstractContextManager[Cluster]],
    address: str | None,
    fetch: str | None,
    finish_now: bool,
) -> None:
    """Do what is left of a search, and write its board."""
    from metabench.search.progress import finish
    from metabench.search.stages import final

    splits, kept = loaded
    if not final.is_tested(place, watch.say):
        if finish_now:
            watch.say(finish.ask(place))
        watch.terminal.enter("starting Ray")
        with connection() as joined:
            _prepare(watch.space, address, splits, kept, fetch, watch.say)
            _run_stages(place, watch.space, splits, seed, joined, watch, timing)
    _write_board(place)


def _write_board(place: Path) -> None:
    """Write the leaderboard, and refuse to call a search done that is not."""
    from metabench.search.progress.watch import write_leaderboard
    from metabench.search.stages import final

    write_leaderboard(place)
    if not final.is_tested(place):
        raise MetabenchError(f"{place}: not all final runs are tested; the same command tries again")


def _load(space: SearchSpace, fetch: str | None) -> tuple[Splits, list[Path]]:
    """Load a search's data, and return them with the files of the cache that hold them."""
    from metabench import data, nets
    from metabench.data.reading import cache
    from metabench.search import space as spaces
    from metabench.search.propose import feasible
    from metabench.training import features, inputs

    if fetch is not None:
        data.download(space.task, fetch)
    with cache.noted() as kept:
        splits = data.load(space.task)
    data.check(space.task, splits)
    shape = inputs.of(splits).shape
    feasible.check(space, splits)
    for network in spaces.networks(space):
        if network.freeze == "all":
            features.backbone_of(network)
        else:
            nets.build(network, space.task.ways[1], shape)
    return splits, kept


def _networks(space: SearchSpace) -> list[NetworkConfig]:
    """List the networks that are tried first, from which others of the space differ in what they learn."""
    published = [space.network_of(algorithm).published for algorithm in space.algorithms]
    return [*{one.model_dump_json(): one for one in published}.values()]


def _prepare(
    space: SearchSpace,
    address: str | None,
    splits: Splits,
    kept: list[Path],
    fetch: str | None,
    say: Callable[[str], None],
) -> None:
    """Check each node's data and networks; let all pictures pass the frozen ones before workers ask."""
    from metabench import data
    from metabench.search.ray import nodes
    from metabench.training import features

    if address is not None:
        say(nodes.needs(space.task, splits.name, kept))
    nodes.check(address, space.task, splits, fetch)
    for network in _networks(space):
        nodes.check_network(address, network)
    cuts = data.cuts(space.task, splits)
    for task, cut in cuts:
        data.check(task, cut)
    for network in {features.source(one): one for one in _networks(space)}.values():
        for task, cut in cuts:
            features.embedded(cut, task, network, say)


def _run_trials(
    place: Path,
    space: SearchSpace,
    ledger: Ledger,
    splits: Splits,
    joined: Cluster,
    watch: Watch,
    seed: int,
    timing: Timing | None,
) -> None:
    """Run what is left of the trials; within a time, as long as it leaves enough for what follows them."""
    from metabench.search.journal import rule
    from metabench.search.progress.finish import SEARCH, Finish
    from metabench.search.propose import feasible
    from metabench.search.ray import experiment
    from metabench.search.stages import automatic

    has_room = rule.always
    if timing is not None:
        if (place / files.CHOSEN).exists():
            return  # what has followed them has begun
        deadline = automatic.deadline(space, ledger, joined.slots, timing)
        has_room, seconds = deadline.has_room, deadline.timing.begun + timing.seconds - time.monotonic()
        watch.until = utc_now() + datetime.timedelta(seconds=seconds)
    finish = Finish(place, watch.say)
    experiment.explore(
        place,
        space,
        ledger,
        joined,
        watch,
        seed,
        has_room=has_room,
        is_cut=lambda: finish.is_cut(SEARCH),
        size_of=feasible.of(space, splits),
    )
    watch.sum_up(ledger)


def _run_stages(
    place: Path,
    space: SearchSpace,
    splits: Splits,
    seed: int,
    joined: Cluster,
    watch: Watch,
    timing: Timing | None = None,
) -> None:
    """Run what is left of the trials, the confirmation, the final runs and the meta-test."""
    from metabench.core import signals
    from metabench.search import space as spaces
    from metabench.search.journal.ledger import Ledger
    from metabench.search.ray import cluster
    from metabench.search.stages import confirm, final

    signals.check()
    watch.slots, watch.nodes = joined.slots, cluster.describe
    its = {algorithm: spaces.of(space, algorithm) for algorithm in space.algorithms}
    ledger = Ledger(
        place,
        space.budget.confirm_top,
        watch.objective,
        space.budget.tasks,
        lambda trial: its[trial.algorithm].where(trial.hyperparameters),
        say=watch.say,
    )
    with watch.showing(ledger):
        _run_trials(place, space, ledger, splits, joined, watch, seed, timing)
        chosen = confirm.choose(place, space, ledger, joined, watch)
        if not any(chosen.values()):
            raise MetabenchError(
                f"{place}: no trial of any algorithm was judged, so no final run is started; see why in "
                "`metabench status`, mend the space, and search under another name"
            )
        planned = final.plan(space, chosen, seed)
        trained = final.train_all(place, planned, watch.objective, joined, watch)
        final.test_all(place, space, splits, trained, joined, watch)
        watch.refresh(ledger)
