"""The trials of an earlier search, as trials that a new one starts with.

They teach the sampler, and the best of them is tried again here after the published settings. They are no
trials of this search: no budget, rung or leaderboard counts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from metabench import algorithms
from metabench.core import MetabenchError, Objective, Splits, metrics
from metabench.core.config import SearchSpace, flatten
from metabench.core.objectives import OBJECTIVES
from metabench.search import space as spaces
from metabench.search.journal.ledger import COMPLETE, PRUNED, look
from metabench.search.propose import samplers
from metabench.storage import files, models, records

DIFFERENCES_SHOWN = 4

VALIDATED = tuple(f"val_{name}" for name in metrics.METRICS)
"""What trials are judged by, as their lines name it."""

Earlier = dict[str, list[dict[str, Any]]]
"""Algorithms to their earlier trials: what was sampled, and the scores by tasks seen."""


def read(place: str, space: SearchSpace, splits: Splits, objective: Objective) -> tuple[Earlier, list[str]]:
    """Read the trials of an earlier search that lie in this space, and what is to be said of them.

    Args:
        place: a search folder, or its trials.jsonl.
    """
    lines = _judged(place, objective)
    earlier: Earlier = {}
    counts = []
    for algorithm in space.algorithms:
        trials = [_fit(space, algorithm, line) for line in lines if line["algorithm"] == algorithm]
        earlier[algorithm] = [trial for trial in trials if trial is not None]
        outside = f", {trials.count(None)} outside this space" if None in trials else ""
        counts.append(f"{algorithm} {len(earlier[algorithm])}{outside}")
    if not any(earlier.values()):
        listed = ", ".join(sorted({line["algorithm"] for line in lines})) or "none"
        raise MetabenchError(
            f"`warm_start` {place}: no trial there lies in this space; judged there: {len(lines)}, "
            f"of {listed}; give a search of the same algorithms with ranges that overlap, or leave it out"
        )
    differences = _differences(_file(place).parent, space, splits)
    return earlier, [f"known from {place}: {'; '.join(counts)}", *differences]


def check(place: str) -> dict[str, dict[str, Any]]:
    """Return the trials at a place by name, or raise MetabenchError where there are none."""
    path, waiting = _file(place), _waiting(Path(place))
    if not path.is_file() and not waiting:
        raise MetabenchError(
            f"`warm_start` {place}: is not there; give the folder of a search, or its {files.TRIALS}"
        )
    ended = records.lines(path, models.TRIAL) if path.is_file() else []
    return {line["trial"]: line for line in [*waiting, *ended]}  # the last of several counts


def _waiting(folder: Path) -> list[dict[str, Any]]:
    """Return the trials that wait at a rung of a search that has not ended, as if they ended there."""
    record = records.optional(folder / files.SEARCH, models.SEARCH) if folder.is_dir() else None
    if record is None:
        return []
    (objective,) = (one for one in OBJECTIVES.values() if one.metric == metrics.recorded(record))
    trials = look(folder).trials.values()
    return [{**trial.line(objective), "status": PRUNED} for trial in trials if trial.is_waiting]


def _file(place: str) -> Path:
    path = Path(place)
    return path / files.TRIALS if path.is_dir() else path


def _judged(place: str, objective: Objective) -> list[dict[str, Any]]:
    lines = [line for line in check(place).values() if line["status"] in (COMPLETE, PRUNED)]
    other = next((line for line in lines if f"val_{objective.metric}" not in line), None)
    if other is not None:
        metric = next((key for key in other if key in VALIDATED), "nothing known")
        raise MetabenchError(
            f"`warm_start` {place}: trials are judged by {metric.removeprefix('val_')} there and by "
            f"{objective.metric} here, which cannot be compared; leave it out"
        )
    return lines


def _fit(space: SearchSpace, algorithm: str, line: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return an earlier trial in the words of this space; None where a value is not allowed."""
    values = {**vars(algorithms.hparams(algorithm, {})), **line["hyperparameters"]}
    sampled = spaces.of(space, algorithm).sample(
        lambda name, parameter: _as_kind(samplers.distribution(parameter), values.get(name))
    )
    scores = {
        str(report["tasks_seen"]): report["val_score"]
        for report in line.get("reports", [])
        if report["val_score"] is not None
    }
    trial = {"trial": line["trial"], "sampled": sampled, "scores": scores}
    return trial if scores and frozen(space, algorithm, [trial]) else None


def _as_kind(distribution: BaseDistribution, value: Any) -> Any:
    """Read a number as the kind that a distribution is of; what is none stays what it is, and is refused."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(distribution, FloatDistribution):
        return float(value)
    return int(value) if isinstance(distribution, IntDistribution) and value == int(value) else value


def frozen(space: SearchSpace, algorithm: str, earlier: Sequence[Mapping[str, Any]]) -> list[FrozenTrial]:
    """Return earlier trials as Optuna takes them, without those that a space does not allow.

    One that saw as many tasks as a full run here is complete, and any other pruned, whatever it was there.
    """
    sampled = spaces.of(space, algorithm).sampled
    trials = []
    for trial in earlier:
        scores = {int(seen): score for seen, score in trial["scores"].items()}
        reached = max(scores)
        is_complete = reached >= space.budget.tasks
        try:
            frozen_trial = create_trial(
                state=TrialState.COMPLETE if is_complete else TrialState.PRUNED,
                value=scores[reached],
                params=dict(trial["sampled"]),
                distributions={name: samplers.distribution(sampled[name]) for name in trial["sampled"]},
                intermediate_values=scores,
            )
        except (ValueError, TypeError, KeyError):  # outside of what the parameters may be
            continue
        trials.append(frozen_trial)
    return trials


def earlier_trials(folder: Path) -> Earlier:
    """Return what a search was started with."""
    record = records.optional(folder / files.SEARCH, models.SEARCH) or {}
    return dict(record.get("known") or {})


def _differences(folder: Path, space: SearchSpace, splits: Splits) -> list[str]:
    """Say where the earlier search's task and data differ from this one's; that is allowed."""
    path = folder / files.SEARCH
    before = records.optional(path, models.SEARCH)
    if before is None:
        return [f"{path} is not there, so on which task they were found is not known"]
    old, new = flatten(before["space"]["task"]), flatten(space.task.model_dump(mode="json"))
    differ = [key for key in new if old.get(key) != new[key]]
    shown = [f"{key} {old.get(key)!r} there, {new[key]!r} here" for key in differ[:DIFFERENCES_SHOWN]]
    if before["data_fingerprint"] != splits.fingerprint and not differ:
        shown.append("other data")
    return [f"they were found on another task: {'; '.join(shown)}"] if shown else []
