"""What replays found and cost, as numbers for people and programs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from metabench import stats
from metabench.search.journal.ledger import COMPLETE, DIVERGED, FAILED, PRUNED
from metabench.search.replay.curves import Curve, Recording
from metabench.search.replay.scenario import Scenario
from metabench.search.replay.simulate import CENSORED, Replay, legs

COUNTS = (COMPLETE, PRUNED, DIVERGED, FAILED, CENSORED)

AMOUNTS = ("tasks", "seconds", "full_seconds", "time", "shortfall", "tasks_to_best", "seconds_to_best")
"""What is averaged over replays, beside the score."""


def true_scores(recording: Recording, scenario: Scenario, algorithm: str) -> dict[str, float | None]:
    """Return each setting's score at the full budget, on every recorded task; None: not recorded."""
    tasks = scenario.space.budget.tasks
    return {
        curve.name: next((point.score for point in curve.points if point.tasks_seen == tasks), None)
        for curve in recording.curves[algorithm]
    }


def outcome(
    recording: Recording, scenario: Scenario, replay: Replay, algorithm: str, within: float
) -> dict[str, Any]:
    """Say what a replay found of one algorithm, and what it cost.

    The incumbent is the one that the search itself would name: best where it got furthest. It has found the
    best when its score at the full budget, on every recorded task, is within `within` of the best recorded.

    Returns:
        `tasks_to_best` and `seconds_to_best` are what was spent on the algorithm by the first moment when the
        incumbent was such a one; None where none ever was. `shortfall` is of the last incumbent.
    """
    scores = true_scores(recording, scenario, algorithm)
    recorded = {name: score for name, score in scores.items() if score is not None}
    best = max(recorded.values(), default=math.nan)
    good = {name for name, score in recorded.items() if score >= best - within}
    incumbents, trials = replay.incumbents[algorithm], replay.ledger.of(algorithm)
    first = next((one for one in incumbents if one.curve in good), None)
    last = incumbents[-1].curve if incumbents else None
    score = None if last is None else scores[last]
    endings = Counter(map(replay.ending_of, trials))
    distances = replay.studies[algorithm].distances
    return {
        "algorithm": algorithm,
        "trials": len(trials),
        **{status: endings[status] for status in COUNTS},
        "tasks": replay.ledger.tasks(algorithm),
        "seconds": replay.seconds[algorithm],
        "full_seconds": _without_stopping(recording, scenario, [*map(replay.curve_of, trials)]),
        "time": replay.time,
        "found": last,
        "score": score,
        "best": best if recorded else None,
        "shortfall": None if score is None else best - score,
        "tasks_to_best": None if first is None else first.tasks,
        "seconds_to_best": None if first is None else first.seconds,
        "distance": math.fsum(distances) / max(1, len(distances)),
    }


def _without_stopping(recording: Recording, scenario: Scenario, curves: Sequence[Curve]) -> float | None:
    """Return the seconds of settings that were played, validated once; None where some were cut off."""
    if any(curve.status not in (COMPLETE, DIVERGED) for curve in curves):
        return None
    once = scenario.space.budget.model_copy(update={"rungs": scenario.rungs[-1:]})
    return math.fsum(leg.seconds for curve in curves for leg in legs(curve, once, recording.n_tasks))


def summary(outcomes: Sequence[dict[str, Any]], scale: stats.Scale | None = None) -> dict[str, Any]:
    """Average the outcomes of one algorithm over replays, with 95 % intervals.

    A figure that some replays lack is averaged over those that have it; `found_best` counts those that came
    within reach of the best, so `seconds_to_best` speaks of these alone.

    Args:
        scale: of the score; an interval of a share stays between 0 and 1.
    """
    result: dict[str, Any] = {
        "algorithm": outcomes[0]["algorithm"],
        "replays": len(outcomes),
        "found_best": sum(one["seconds_to_best"] is not None for one in outcomes),
        "best": outcomes[0]["best"],
    }
    for name in (*COUNTS, "trials", "distance"):
        result[name] = math.fsum(one[name] for one in outcomes) / len(outcomes)
    for name, its_scale in (("score", scale), *((name, None) for name in AMOUNTS)):
        values = [one[name] for one in outcomes if one[name] is not None]
        is_share = its_scale == "share" and min(values, default=0) < max(values, default=0)
        interval = stats.mean_interval(values, its_scale if is_share else None) if values else None
        result[name] = None if interval is None else interval.mean
        result[f"{name}_ci"] = None if interval is None else [interval.low, interval.high]
    return result
