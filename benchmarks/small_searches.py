"""Which scheduler serves small searches: of few trials, and within a time, replayed from recorded curves.

Pausing `asha` and `freeze_thaw` play the same decks: three quarters of the recorded settings, and the tasks
in another order for each. Regret is that of the setting which the confirmation chooses in the end, on tasks
that no search sees; what is lost by freeze-thaw is paired over decks, with a 95 % interval.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from decks import Deck, cut
from efficiency import RECORDED

from metabench import stats
from metabench.core import MetabenchError, metrics
from metabench.search.journal.ledger import Trial, ranked
from metabench.search.replay import curves
from metabench.search.replay.curves import Recording
from metabench.search.replay.scenario import describe
from metabench.search.replay.simulate import Replay, play
from metabench.storage import files

WAYS = {"asha": {"scheduler": "asha", "pause": True}, "freeze_thaw": {"scheduler": "freeze_thaw"}}


class Size(NamedTuple):
    """How much a search may spend: trials, or seconds in full runs."""

    title: str
    trials: int | None = None
    runs: float | None = None


def budget_of(size: Size, deck: Deck) -> dict[str, Any]:
    """Return what of the budget makes a search so small."""
    if size.runs is None:
        return {"trials": size.trials}
    return {"trials": len(deck.true), "seconds": size.runs * deck.run}


def chosen(replay: Replay) -> str:
    """Return the curve of what is confirmed best, as it was trained, of those that got furthest."""
    budget, (algorithm,) = replay.budget, replay.studies

    def confirmed(trial: Trial) -> float:
        points = replay.curve_of(trial).points
        last = next(point for point in points if point.tasks_seen == trial.tasks_seen)
        return float(np.mean(last.per_task[budget.validation_tasks :]))

    candidates = ranked(replay.ledger.of(algorithm))[: budget.confirm_top]
    return replay.curve_of(max(candidates, key=confirmed)).name


def compare(
    recording: Recording, sizes: Sequence[Size], options: argparse.Namespace
) -> dict[str, dict[str, np.ndarray]]:
    """Return by size and scheduler the regret of what is named and the full runs it took, [deck, 2]."""
    fixed = {"grace": recording.points[0], "validation_tasks": options.validation_tasks}
    outcomes: dict[str, dict[str, list[tuple[float, float]]]] = {
        size.title: {way: [] for way in WAYS} for size in sizes
    }
    for number in range(options.decks):
        some, deck = cut(recording, number, options.validation_tasks)
        for size in sizes:
            for way, scheduler in WAYS.items():
                changes = {**fixed, **scheduler, **budget_of(size, deck)}
                replay = play(some, describe(some, changes), number)
                lost = max(deck.true.values()) - deck.true[chosen(replay)]
                outcomes[size.title][way].append((lost, sum(replay.seconds.values()) / deck.run))
    return {title: {way: np.array(each) for way, each in ways.items()} for title, ways in outcomes.items()}


def table(outcomes: dict[str, dict[str, np.ndarray]], metric: metrics.Metric) -> str:
    """Return both regrets, what freeze-thaw loses, and the full runs that both took."""
    rows = ["| searches | asha | freeze_thaw | freeze_thaw minus asha | full runs |", "|---" * 5 + "|"]
    for title, ways in outcomes.items():
        asha, freeze_thaw = (ways[way] for way in WAYS)
        means = [metrics.points(metric, one[:, 0].mean()) for one in (asha, freeze_thaw)]
        lost = [metrics.points(metric, one) for one in (freeze_thaw - asha)[:, 0].tolist()]
        interval = stats.mean_interval(lost)
        cells = [title, *(f"{mean:.2f}" for mean in means)]
        cells += [f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"]
        cells += [", ".join(f"{one[:, 1].mean():.1f}" for one in (asha, freeze_thaw))]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def options_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line."""
    parser.add_argument("curves", type=Path, nargs="*", default=RECORDED, help="files of curves; else all")
    parser.add_argument("--decks", type=int, default=20, help="of three quarters of the settings")
    parser.add_argument("--trials", type=int, nargs="*", default=[4, 6, 8, 12], help="of searches of so many")
    parser.add_argument(
        "--runs", type=float, nargs="*", default=[1, 2, 4], help="of searches within so many full runs' time"
    )
    parser.add_argument("--validation-tasks", type=int, default=50, help="at each rung")
    return parser.parse_args()


def main() -> int:
    """Replay small searches of each space."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options = options_of(parser)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sizes = [Size(f"{n} trials", trials=n) for n in options.trials]
    sizes += [Size(f"{n:g} full runs", runs=n) for n in options.runs]
    print(f"{files.environment()['device']}, {datetime.date.today()}; {options.decks} decks\n")
    try:
        for path in options.curves:
            recording = curves.read([path])
            outcomes = compare(recording, sizes, options)
            print(f"{path.stem}\n\n{table(outcomes, recording.objective.metric)}\n", flush=True)
    except MetabenchError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
