"""How soon a search finds a good setting, replayed from recorded curves: Markdown with 95 % intervals.

Every way of searching plays the same recorded settings. It has found a good one when its incumbent, which is
the setting that it would name if it stopped there (the best where it got furthest), is at the full budget and
on every recorded task within half a point of the best recorded. Seconds are those of training and validation.

Regret is that of the setting that would be named, on tasks that no search sees, as a mean over decks: three
quarters of the settings each, and the tasks in another order, so that other ones are seen. At equal spend
all are stopped after the same accelerator seconds, whatever they would have gone on to spend.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from decks import Deck, Search, cut
from optuna.pruners import HyperbandPruner
from optuna.trial import TrialState

from metabench import stats
from metabench.core import MetabenchError, metrics
from metabench.search.replay import curves
from metabench.search.replay.curves import Recording
from metabench.search.replay.outcomes import true_scores
from metabench.search.replay.replayed import RecordedStudy
from metabench.search.replay.scenario import Scenario, describe
from metabench.search.replay.simulate import Incumbent, legs, play
from metabench.storage import files

RESAMPLES = 4000
"""Bootstrap draws of a ratio's interval."""

ENDLESS = 1e9
"""Seconds of a search that goes on until every setting is trained out, as others do."""

HYPERBAND = "Optuna: TPE, Hyperband"
"""A control that runs one trial at a time."""

RUNS = (8, 12)
"""Full runs of random search that others are measured by."""

STEPS = 10
"""Moments of a full run at which regret is looked at."""

SPENDS = (1, 2, 4, 8)
"""Full runs at which all searches are stopped."""

PAUSING, FREEZE_THAW, RANDOM = "TPE, pausing (ours)", "freeze-thaw (ours)", "random, full budget"
"""Ways with several workers; and by the spend of the first, when it is over, the others are judged too."""

RECORDED = sorted(Path(__file__).parent.glob("curves_*.jsonl"))


def replayed(recording: Recording, scenario: Scenario, seed: int) -> Search:
    """Replay a search."""
    (algorithm,), replay = scenario.space.algorithms, play(recording, scenario, seed)
    return Search(replay.incumbents[algorithm], replay.ledger.tasks(algorithm), replay.seconds[algorithm])


def hyperband(recording: Recording, scenario: Scenario, seed: int) -> Search:
    """Search as Optuna does: TPE and its Hyperband pruner by ask and tell, on the same recorded settings."""
    space, budget = scenario.space, scenario.space.budget
    ((algorithm, recorded),) = recording.curves.items()
    played = RecordedStudy(space, algorithm, seed, (), curves=recorded, is_in_order=False)
    played.study = study = optuna.create_study(
        study_name=str(seed),  # by which trials are dealt out to brackets
        direction="maximize",
        pruner=HyperbandPruner(scenario.rungs[0], budget.tasks, budget.reduction_factor),
    )
    best, incumbents, tasks, seconds = (0, -np.inf), list[Incumbent](), 0, 0.0
    for number in range(budget.trials):
        played.propose()
        curve, asked, before = played.played[number], played.asked[number], 0
        state, value = TrialState.FAIL, None
        for leg in legs(curve, budget, recording.n_tasks):
            tasks, seconds, before = tasks + leg.tasks_seen - before, seconds + leg.seconds, leg.tasks_seen
            if leg.score is None:
                break
            asked.report(leg.score, leg.tasks_seen)
            if (leg.tasks_seen, leg.score) > best:
                best = (leg.tasks_seen, leg.score)
                incumbents.append(Incumbent(curve.name, seconds, tasks, seconds))
            if leg.tasks_seen == budget.tasks:
                state, value = TrialState.COMPLETE, leg.score
            elif asked.should_prune():
                state = TrialState.PRUNED
                break
        study.tell(asked, value, state=state)
    return Search(incumbents, tasks, seconds)


class Way(NamedTuple):
    """A way of searching."""

    title: str
    scenario: Scenario
    search: Callable[[Recording, Scenario, int], Search] = replayed


def ways(recording: Recording, changes: dict[str, int | None], workers: int) -> list[Way]:
    """List what is compared, of several workers less; the last is what the others are measured by.

    Args:
        changes: of the recorded budget.
    """
    trials = changes["trials"] or len(next(iter(recording.curves.values())))
    one_in = f"one in {changes['reduction_factor'] or recording.space.budget.reduction_factor}"
    full = {"scheduler": "none", "grace": recording.points[-1]}  # validated once, at the end
    asha = {"scheduler": "asha", "pause": True}
    listed: dict[str, dict[str, Any]] = {
        FREEZE_THAW: {"scheduler": "freeze_thaw", "seconds": ENDLESS},
        PAUSING: {"sampler": "tpe", **asha},
        "TPE, stopping": {"sampler": "tpe", "scheduler": "asha", "pause": False},
        "random, pausing": {"sampler": "random", **asha},
        f"random, the best {one_in} at one rung": {"sampler": "random", "scheduler": "top_k"},
        "TPE, full budget": {"sampler": "tpe", **full},
        RANDOM: {"sampler": "random", **full},
    }
    if workers > 1:
        listed = {title: listed[title] for title in (FREEZE_THAW, PAUSING, RANDOM)}
    scenarios = {
        title: describe(recording, {**changes, "trials": trials, **more}, workers)
        for title, more in listed.items()
    }
    one_by_one = describe(recording, {**changes, "trials": trials, **asha}, 1)
    control = [Way(HYPERBAND, one_by_one, hyperband)] if workers == 1 else []
    return [*control, *(Way(title, scenario) for title, scenario in scenarios.items())]


def until_found(search: Search, good: set[str]) -> tuple[float, int] | None:
    """Return seconds and tasks until a good setting led; None where none ever did."""
    return next(((one.seconds, one.tasks) for one in search.incumbents if one.curve in good), None)


def shortfall(
    search: Search, seconds: float, true: dict[str, float], best: float, clock: str = "seconds"
) -> float:
    """Return by how much the setting that leads after some seconds falls short of the best recorded.

    Args:
        clock: seconds of all workers together, or `time`, that on the wall.
    """
    leading = [one.curve for one in search.incumbents if getattr(one, clock) <= seconds * (1 + 1e-9)]
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


def decks(recording: Recording, changes: dict[str, int | None], workers: int, n_decks: int) -> Iterator[Deck]:
    """Search some decks in every way."""
    n_tasks = changes["validation_tasks"] or recording.space.budget.validation_tasks
    for number in range(n_decks):
        some, deck = cut(recording, number, n_tasks)
        compared = ways(some, {**changes, "trials": len(deck.true)}, workers)
        searches = {way.title: way.search(some, way.scenario, number) for way in compared}
        yield deck._replace(searches=searches)


def regret(deck: Deck, title: str, n_runs: float, clock: str = "seconds") -> float:
    """Return by how much what a search names after so many full runs falls short of a deck's best.

    While nobody leads that is as bad as can be.
    """
    short = shortfall(deck.searches[title], n_runs * deck.run, deck.true, max(deck.true.values()), clock)
    return 1.0 if np.isnan(short) else short


def regrets(played: Sequence[Deck], clock: str = "seconds") -> dict[str, np.ndarray]:
    """Return each way's regret over time, [deck, step]."""
    steps = [step / STEPS for step in range(1, STEPS * max(RUNS) + 1)]
    return {
        title: np.array([[regret(deck, title, n_runs, clock) for n_runs in steps] for deck in played])
        for title in played[0].searches
    }


def equal_spend(played: Sequence[Deck], metric: metrics.Metric) -> dict[str, list[float]]:
    """Return each way's mean regret where all are stopped: after some full runs, and where pausing ends."""
    ends = [deck.searches[PAUSING].seconds / deck.run for deck in played]
    spends = [*([float(count)] * len(played) for count in SPENDS), ends]
    return {
        title: [
            metrics.points(metric, float(np.mean([regret(deck, title, n_runs) for deck, n_runs in pairs])))
            for pairs in (list(zip(played, each, strict=True)) for each in spends)
        ]
        for title in played[0].searches
    }


def spend_table(spaces: dict[str, dict[str, list[float]]]) -> str:
    """Return the regrets at equal spend by space, and their means over spaces."""
    marks = ", ".join(f"{count} runs" for count in SPENDS)
    rows = [
        f"| points of regret after {marks}, and where pausing ends | {' | '.join([*spaces, 'mean'])} |",
        "|---" * (len(spaces) + 2) + "|",
    ]
    for title in next(iter(spaces.values())):
        each = np.array([one[title] for one in spaces.values()])
        cells = [", ".join(f"{value:.2f}" for value in row) for row in (*each, each.mean(0))]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def workers_table(
    recording: Recording, changes: dict[str, int | None], options: argparse.Namespace, random: np.ndarray
) -> str:
    """Return what several workers take until the regret is that of random search of one after 8 full runs."""
    rows = ["| workers | search | accelerator time | time |", "|---" * 4 + "|"]
    for workers in options.workers[1:]:
        played = list(decks(recording, changes, workers, options.decks))
        by_clock = [regrets(played, clock) for clock in ("seconds", "time")]
        for title in by_clock[0]:
            cells = [show_share(share(one[title].mean(0), random.mean(0), RUNS[0])) for one in by_clock]
            rows.append(f"| {workers} | {title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def share(curve: np.ndarray, random: np.ndarray, n_runs: int) -> float:
    """Return the share of so many full runs after which a regret is that of random search after all."""
    reached = np.flatnonzero(curve <= random[STEPS * n_runs - 1] + 1e-12)
    return (reached[0] + 1) / (STEPS * n_runs) if len(reached) else np.nan


def shares(over_time: dict[str, np.ndarray]) -> dict[str, list[tuple[float, float, float]]]:
    """Return each way's shares of 8 and of 12 full runs, of mean regrets, with 95 % intervals over decks."""
    *_, random = over_time.values()
    picks = np.random.default_rng(0).integers(len(random), size=(RESAMPLES // 10, len(random)))
    result = {}
    for title, one in over_time.items():
        result[title] = []
        for n_runs in RUNS:
            drawn = [share(one[pick].mean(0), random[pick].mean(0), n_runs) for pick in picks]
            # Not reached is later than all that was looked at.
            low, high = np.quantile(np.nan_to_num(drawn, nan=np.inf), [0.025, 0.975], method="nearest")
            result[title].append((share(one.mean(0), random.mean(0), n_runs), low, high))
    return result


def shares_table(spaces: dict[str, dict[str, list[tuple[float, float, float]]]]) -> str:
    """Return the shares by space, and their geometric means."""
    names = list(spaces)
    rows = [
        f"| share of 8 full runs, of 12 | {' | '.join([*names, 'geometric mean'])} |",
        "|---" * (len(names) + 2) + "|",
    ]
    for title in next(iter(spaces.values())):
        cells = [", ".join(show_share(*one) for one in spaces[name][title]) for name in names]
        values = np.array([[one[0] for one in spaces[name][title]] for name in names])
        # Not reached is later than all that was looked at.
        mean = np.exp(np.log(np.where(np.isnan(values), max(RUNS) / np.array(RUNS), values)).mean(0))
        is_more = np.isnan(values).any(0).tolist()
        cells.append(
            ", ".join(f"{'> ' * more}{value:.2f}" for more, value in zip(is_more, mean, strict=True))
        )
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def show_share(value: float, low: float | None = None, high: float | None = None) -> str:
    """Show a share, with its interval."""
    if np.isnan(value):
        return "not reached"
    if low is None or high is None:
        return f"{value:.2f}"
    return f"{value:.2f} [{low:.2f}, {'not reached' if np.isinf(high) else f'{high:.2f}'}]"


def options_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line."""
    parser.add_argument(
        "curves",
        type=Path,
        nargs="*",
        default=RECORDED,
        help="files that benchmarks/curves.py recorded, of one algorithm each; else all beside this script",
    )
    parser.add_argument("--repeats", type=int, default=100, help="replays of each search, seeds 0, 1, ...")
    parser.add_argument("--trials", type=int, help="settings of a search; all that were recorded")
    parser.add_argument("--grace", type=int, help="tasks at the first rung, for the earliest recorded")
    parser.add_argument("--reduction-factor", type=int, help="one in so many goes on, for the recorded")
    parser.add_argument("--validation-tasks", type=int, help="at each rung, for the recorded")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[1],
        help="trials at once; the tables but one are of the first",
    )
    parser.add_argument("--decks", type=int, default=30, help="of three quarters of the settings, for shares")
    parser.add_argument("--within", type=float, default=0.005, help="of the best recorded: good")
    options = parser.parse_args()
    if options.repeats < 2:
        parser.error(f"--repeats {options.repeats}: must be >= 2, for an interval")
    return options


def report(path: Path, options: argparse.Namespace) -> tuple[Any, Any]:
    """Print what each way of searching does on one space; return the shares, and regrets at equal spend."""
    recording = curves.read([path])
    ((algorithm, recorded),) = recording.curves.items()
    changes = {
        name: getattr(options, name) for name in ("trials", "grace", "reduction_factor", "validation_tasks")
    }
    changes["grace"] = options.grace or recording.points[0]
    compared = ways(recording, changes, options.workers[0])
    scores = true_scores(recording, compared[-1].scenario, algorithm)
    recorded_scores = [score for score in scores.values() if score is not None]
    best, worst = max(recorded_scores), min(recorded_scores)
    true = {name: worst if score is None else score for name, score in scores.items()}  # None: it diverged
    good = {name for name, score in true.items() if score >= best - options.within}
    searches = [
        [way.search(recording, way.scenario, seed) for seed in range(options.repeats)] for way in compared
    ]
    metric = recording.objective.metric
    print(f"{path.name}: {len(recorded)} settings of {algorithm},")
    print(f"best {metrics.tell(metric, best, 2)}, {len(good)} good;")
    rungs, budget = compared[0].scenario.rungs, compared[0].scenario.space.budget
    print(
        f"{budget.trials} trials, {budget.validation_tasks} validation tasks, workers: {options.workers[0]};"
    )
    print(f"rungs {', '.join(map(str, rungs))}; {options.repeats} replays\n")
    print(until_table(compared, searches, good))
    print()
    played = list(decks(recording, changes, options.workers[0], options.decks))
    over_time = regrets(played)
    if options.workers[1:]:
        print(f"{workers_table(recording, changes, options, over_time[RANDOM])}\n")
    return shares(over_time), equal_spend(played, metric)


def main() -> int:
    """Replay every way of searching over the seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options = options_of(parser)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"{files.environment()['device']}, {datetime.date.today()}\n")
    try:
        reports = {path.stem: report(path, options) for path in options.curves}
        print(shares_table({name: one for name, (one, _) in reports.items()}))
        print(f"\n{spend_table({name: one for name, (_, one) in reports.items()})}")
    except MetabenchError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
