"""The search: one budget an algorithm, confirmation on fresh tasks, final runs over seeds, meta-test once.

The only folder that imports Ray or Optuna. A search is resumed from its own journal (`ledger`), never from
Ray's pickled state: Ray forgets the rungs on restore, needs unpickling, and knows nothing of the stages after
its own. So every start is a new Tune experiment over what the journal says is left, each trial goes on from
the state that it saved itself, and a kill at any moment is harmless.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from metabench.config import SearchSpace


def search(
    space: SearchSpace,
    out: Path,
    name: str,
    *,
    address: str | None = None,
    resume: Literal["auto", "never", "must"] = "auto",
    seed: int = 0,
    quiet: bool = False,
    cpus: int | None = None,
) -> Path:
    """Run a search, or what is left of it, and return its folder with the leaderboard in it.

    Args:
        out: folder of search folders.
        name: of the search folder.
        address: Ray cluster to join; without it Ray is started on this machine.
        resume: continue what is there if it is the same search (auto), never, or insist on it (must).
        cpus: trials at once on this machine; every core where it is not given.
    """
    from metabench import board, data, store
    from metabench.data import _cache
    from metabench.objectives import OBJECTIVES
    from metabench.search import cluster, confirm, experiment, final, folder, nodes
    from metabench.search.ledger import Ledger
    from metabench.search.watch import Watch

    place = (out / name).absolute()
    folder.check_resume(place, resume)
    store.check_writable(place)
    with _cache.noted() as kept:
        splits = data.load(space.task)
    data.check(space.task, splits)
    with store.lock(place):
        continued = folder.claim(place, space, splits, seed)
        objective = OBJECTIVES[splits.kind]
        watch = Watch(place, space, quiet, objective)
        watch.say(f"{'continuing' if continued else 'starting'} {place}")
        if not final.is_tested(place):
            watch.say(nodes.needs(space.task, splits.name, kept))
            ledger = Ledger(place, space.budget.confirm_top, objective)
            with cluster.connect(address, place, cpus) as found:
                nodes.check(address, space.task, splits)
                with watch.showing(ledger):
                    experiment.explore(place, space, ledger, found, watch, seed)
                chosen = confirm.choose(place, space, ledger, found, watch)
                planned = final.plan(space, chosen, seed)
                final.train_all(place, planned, objective, found, watch)
                final.test_all(place, space, splits, planned, found, watch)
        board.write(place)
    return place
