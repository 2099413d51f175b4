"""What replays found and cost, as numbers for people and programs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from metabench import stats
from metabench.search.journal.ledger import COMPLETE, DIVERGED, FAILED, PRUNED
from metabench.search.replay.curves import Recording
from metabench.search.replay.histories import Replay
from metabench.search.replay.scenario import Scenario
from metabench.search.replay.simulate import CENSORED, legs

COUNTS = (COMPLETE, PRUNED, DIVERGED, FAILED, CENSORED)

MEASURED = (
    "tasks",
    "seconds",
    "full_seconds",
    "time",
    "score",
    "shortfall",
    "tasks_to_best",
    "seconds_to_best",
)
"""What is averaged over replays."""


def true_scores(recording: Recording, scenario: Scenario, algorithm: str) -> dict[str, float | None]:
    """Return each setting's score at the full budget, on every recorded task; None: not recorded."""
    return {
        curve.name: next((one.score for one in curve.points if one.tasks_seen == scenario.rungs[-1]), None)
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
    true = true_scores(recording, scenario, algorithm)
    known = {name: value for name, value in true.items() if value is not None}
    best = max(known.values(), default=math.nan)
    played = replay.played[algorithm]
    found = played.incumbents[-1].curve if played.incumbents else None
    score = None if found is None else true[found]
    good = {name for name, value in known.items() if value >= best - within}
    first = next((one for one in played.incumbents if one.curve in good), None)
    ends = Counter(played.endings)
    return {
        "algorithm": algorithm,
        "trials": len(played.curves),
        **{name: ends[name] for name in COUNTS},
        "tasks": played.tasks,
        "seconds": played.seconds,
        "full_seconds": _without_stopping(recording, scenario, algorithm, played.curves),
        "time": replay.time,
        "found": found,
        "score": score,
        "best": best if known else None,
        "shortfall": None if score is None else best - score,
        "tasks_to_best": None if first is None else first.tasks,
        "seconds_to_best": None if first is None else first.seconds,
        "distance": played.distance,
    }


def _without_stopping(
    recording: Recording, scenario: Scenario, algorithm: str, played: Sequence[str]
) -> float | None:
    """Return the seconds of the settings that were played, validated once; None where some were cut off."""
    curves = [curve for curve in recording.curves[algorithm] if curve.name in played]
    if any(curve.ending in ("cut", "failed") for curve in curves):
        return None
    once = scenario.space.budget.model_copy(update={"rungs": scenario.rungs[-1:]})
    return math.fsum(leg.seconds for curve in curves for leg in legs(curve, once, recording.n_tasks))


def summary(outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Average the outcomes of one algorithm over replays, with 95 % t intervals.

    A figure that some replays lack is averaged over those that have it; `found_best` counts those that came
    within reach of the best, so `seconds_to_best` speaks of these alone.
    """
    result: dict[str, Any] = {
        "algorithm": outcomes[0]["algorithm"],
        "replays": len(outcomes),
        "found_best": sum(one["seconds_to_best"] is not None for one in outcomes),
        "best": outcomes[0]["best"],
    }
    for name in (*COUNTS, "trials", "distance"):
        result[name] = math.fsum(one[name] for one in outcomes) / len(outcomes)
    for name in MEASURED:
        values = [one[name] for one in outcomes if one[name] is not None]
        interval = stats.mean_interval(values) if values else None
        result[name] = None if interval is None else interval.mean
        result[f"{name}_ci"] = None if interval is None else [interval.low, interval.high]
    return result
