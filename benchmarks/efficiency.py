"""How soon a search finds a good setting, replayed from recorded curves: Markdown with 95 % intervals.

Every way of searching plays the same recorded settings. It has found a good one when its incumbent, which is
the setting that it would name if it stopped there (the best where it got furthest), is at the full budget and
on every recorded task within half a point of the best recorded. Seconds are those of training and validation.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metabench import stats
from metabench.core import MetabenchError, metrics
from metabench.search.replay import curves
from metabench.search.replay.curves import Curve, Recording
from metabench.search.replay.outcomes import true_scores
from metabench.search.replay.scenario import Scenario, describe
from metabench.search.replay.simulate import Incumbent, legs, play
from metabench.storage import files

RESAMPLES = 4000
"""Bootstrap draws of a ratio's interval."""


class Search(NamedTuple):
    """What one replayed search named, when, and what it cost as a whole."""

    incumbents: Sequence[Incumbent]
    tasks: int
    seconds: float


def replayed(recording: Recording, scenario: Scenario, seed: int) -> Search:
    """Replay a search."""
    (algorithm,), replay = scenario.space.algorithms, play(recording, scenario, seed)
    return Search(replay.incumbents[algorithm], replay.ledger.tasks(algorithm), replay.seconds[algorithm])


class Way(NamedTuple):
    """A way of searching."""

    title: str
    scenario: Scenario


def ways(recording: Recording, changes: dict[str, int | None], workers: int) -> list[Way]:
    """List what is compared; the last is what the others are measured by.

    Args:
        changes: of the recorded budget.
    """
    trials = changes["trials"] or len(next(iter(recording.curves.values())))
    one_in = f"one in {changes['reduction_factor'] or recording.space.budget.reduction_factor}"
    full = {"scheduler": "none", "grace": recording.points[-1]}  # validated once, at the end
    listed: dict[str, dict[str, Any]] = {
        f"TPE, ASHA {one_in}, pausing (ours)": {"sampler": "tpe", "scheduler": "asha", "pause": True},
        "freeze-thaw": {"scheduler": "freeze_thaw", "seconds": 1e9},
        f"TPE, ASHA {one_in}, stopping": {"sampler": "tpe", "scheduler": "asha", "pause": False},
        f"random, ASHA {one_in}, pausing": {"sampler": "random", "scheduler": "asha", "pause": True},
        f"random, the best {one_in} at one rung": {"sampler": "random", "scheduler": "top_k"},
        "TPE, full budget": {"sampler": "tpe", **full},
        "random, full budget": {"sampler": "random", **full},
    }
    return [
        Way(title, describe(recording, {**changes, "trials": trials, **more}, workers))
        for title, more in listed.items()
    ]


def until_found(search: Search, good: set[str]) -> tuple[float, int] | None:
    """Return seconds and tasks until a good setting led; None where none ever did."""
    return next(((one.seconds, one.tasks) for one in search.incumbents if one.curve in good), None)


def shortfall(search: Search, seconds: float, true: dict[str, float], best: float) -> float:
    """Return by how much the setting that leads after some seconds falls short of the best recorded."""
    leading = [one.curve for one in search.incumbents if one.seconds <= seconds * (1 + 1e-9)]
    return best - true[leading[-1]] if leading else np.nan


def ratio(a: Sequence[float], b: Sequence[float]) -> str:
    """Show the ratio of two means with a bootstrap interval over seeds, which both sides share."""
    x, y = np.asarray(a), np.asarray(b)
    picks = np.random.default_rng(0).integers(len(x), size=(RESAMPLES, len(x)))
    low, high = np.quantile(x[picks].mean(1) / y[picks].mean(1), [0.025, 0.975])
    return f"{x.mean() / y.mean():.2f} [{low:.2f}, {high:.2f}]"


def spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """Show a mean with the half-width of its t interval over seeds."""
    if not values or np.isnan(values).any():  # nobody leads yet
        return "-"
    interval = stats.mean_interval(values)
    if np.isnan(interval.low):
        return show(interval.mean)
    return f"{show(interval.mean)} ± {show((interval.high - interval.low) / 2)}"


def until_table(ways: Sequence[Way], searches: Sequence[Sequence[Search]], good: set[str]) -> str:
    """Return the table of what is spent until a good setting leads."""
    reached = [[until_found(search, good) for search in replays] for replays in searches]
    # A search that never names a good setting is followed by training them all: it saved nothing.
    spent = [
        [
            full.seconds + search.seconds if first is None else first[0]
            for search, first, full in zip(replays, times, searches[-1], strict=True)
        ]
        for replays, times in zip(searches, reached, strict=True)
    ]
    rows = [
        "| search | found in | seconds where found | tasks where found | seconds, with all trained where not "
        f"| times {ways[-1].title} | seconds of the whole search |",
        "|---" * 7 + "|",
    ]
    for way, replays, times, seconds in zip(ways, searches, reached, spent, strict=True):
        first = [one for one in times if one is not None]
        cells = [
            way.title,
            f"{len(first)} of {len(times)}",
            *(spread([one[which] for one in first], whole) for which in (0, 1)),
            spread(seconds, whole),
            ratio(seconds, spent[-1]),
            spread([search.seconds for search in replays], whole),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def whole(value: float) -> str:
    """Show a large number."""
    return f"{value:,.0f}"


def anytime_table(
    recording: Recording, ways: Sequence[Way], searches: Sequence[Sequence[Search]], true: dict[str, float]
) -> str:
    """Return the table of how far the leader is from the best after so many full runs' worth of seconds."""
    ((_, recorded),) = recording.curves.items()
    full = ways[-1].scenario.space.budget
    run = float(np.mean([sum(leg.seconds for leg in legs(one, full, recording.n_tasks)) for one in recorded]))
    marks = [count for count in (2, 4, 8, 16, 32) if count < len(recorded)]
    metric, best = recording.objective.metric, max(true.values())
    rows = [
        "| search | " + " | ".join(f"{count} runs ({count * run:,.0f} s)" for count in marks) + " |",
        "|---" * (len(marks) + 1) + "|",
    ]
    for way, replays in zip(ways, searches, strict=True):
        cells = []
        for count in marks:
            short = [shortfall(search, count * run, true, best) for search in replays]
            cells.append(spread(short, lambda value: metrics.show(metric, value, 2)))
        rows.append(f"| {way.title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def shares_table(
    recording: Recording, changes: dict[str, int | None], workers: int, n_decks: int, size: int
) -> str:
    """Return what each way spends, as a share, until its mean regret is that of random search at some runs.

    Each deck is some of the recorded settings, searched once. Regret is on tasks that no search sees.
    """
    ((algorithm, recorded),) = recording.curves.items()
    regrets: dict[str, list[list[float]]] = {}
    run = 0.0
    for deck in range(n_decks):
        picks = np.random.default_rng(deck).permutation(len(recorded))[:size]
        some = recording._replace(curves={algorithm: [recorded[i] for i in sorted(picks)]})
        compared = ways(some, {**changes, "trials": size}, workers)
        deck_curves, n_seen = some.curves[algorithm], compared[0].scenario.space.budget.validation_tasks
        true = unseen_scores(deck_curves, n_seen)
        full = compared[-1].scenario.space.budget
        run = (
            sum(leg.seconds for one in some.curves[algorithm] for leg in legs(one, full, some.n_tasks)) / size
        )
        for way in compared:
            search = replayed(some, way.scenario, deck)
            steps = [shortfall(search, run * step / 10, true, max(true.values())) for step in range(1, 121)]
            regrets.setdefault(way.title, []).append(steps)
    # Nobody leads at first: that is as bad as can be.
    mean = {title: np.nan_to_num(np.array(one), nan=1.0).mean(0) for title, one in regrets.items()}
    rows = ["| search | until random's mean regret after 8 full runs | after 12 |", "|---" * 3 + "|"]
    for title, curve in mean.items():
        cells = [title]
        for count in (8, 12):
            reached = np.flatnonzero(curve <= list(mean.values())[-1][10 * count - 1] + 1e-12)
            cells.append(f"{(reached[0] + 1) / (10 * count):.2f}" if len(reached) else "not reached")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def unseen_scores(curves: Sequence[Curve], n_seen: int) -> dict[str, float]:
    """Return each setting's score at the full budget on recorded tasks beyond those that a search sees.

    One that diverged is as bad as the worst; where all tasks are seen, or none were kept apart, all count.
    """
    last = {one.name: one.points[-1] for one in curves}
    worst = min(point.score for point in last.values() if point.score is not None)
    return {
        name: float(np.mean(point.per_task[n_seen:] or (worst if point.score is None else point.score,)))
        for name, point in last.items()
    }


def main() -> int:
    """Replay every way of searching over the seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curves", type=Path, help="file that benchmarks/curves.py recorded, of one algorithm")
    parser.add_argument("--repeats", type=int, default=100, help="replays of each search, seeds 0, 1, ...")
    parser.add_argument("--trials", type=int, help="settings of a search; all that were recorded")
    parser.add_argument("--grace", type=int, help="tasks before a trial may be stopped, for the recorded")
    parser.add_argument("--reduction-factor", type=int, help="one in so many goes on, for the recorded")
    parser.add_argument("--validation-tasks", type=int, help="at each rung, for the recorded")
    parser.add_argument("--workers", type=int, default=1, help="trials at once")
    parser.add_argument("--decks", type=int, default=30, help="of three quarters of the settings, for shares")
    parser.add_argument("--within", type=float, default=0.005, help="of the best recorded: good")
    options = parser.parse_args()
    try:
        recording = curves.read([options.curves])
        ((algorithm, recorded),) = recording.curves.items()
        names = ("trials", "grace", "reduction_factor", "validation_tasks")
        compared = ways(recording, {name: getattr(options, name) for name in names}, options.workers)
    except MetabenchError as error:
        parser.error(str(error))
    if options.repeats < 2:
        parser.error(f"--repeats {options.repeats}: must be >= 2, for an interval")
    scores = true_scores(recording, compared[-1].scenario, algorithm)
    recorded_scores = [score for score in scores.values() if score is not None]
    best, worst = max(recorded_scores), min(recorded_scores)
    true = {name: worst if score is None else score for name, score in scores.items()}  # None: it diverged
    good = {name for name, score in true.items() if score >= best - options.within}
    searches = [
        [replayed(recording, way.scenario, seed) for seed in range(options.repeats)] for way in compared
    ]
    metric = recording.objective.metric
    print(f"{len(recorded)} settings of {algorithm}, best {metrics.tell(metric, best, 2)}, {len(good)} good;")
    rungs, budget = compared[0].scenario.rungs, compared[0].scenario.space.budget
    print(f"{budget.trials} trials, {budget.validation_tasks} validation tasks, workers: {options.workers};")
    print(f"rungs {', '.join(map(str, rungs))}; {options.repeats} replays")
    print(f"{files.environment()['device']}, {datetime.date.today()}\n")
    print(until_table(compared, searches, good))
    print(f"\n{anytime_table(recording, compared, searches, true)}")
    changes = {name: getattr(options, name) for name in names}
    size = 3 * len(recorded) // 4
    print(f"\n{shares_table(recording, changes, options.workers, options.decks, size)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
