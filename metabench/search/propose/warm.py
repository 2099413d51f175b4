"""What an earlier search has found, as trials that a new one knows of before its own.

They teach the sampler, and the best of them is tried again here after the published settings. They are no
trials of this search: no budget, rung or leaderboard counts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from metabench.core import MetabenchError, Objective, Splits
from metabench.core.config import Choices, Range, SearchSpace
from metabench.search import space as spaces
from metabench.search.folder import changes
from metabench.search.journal.ledger import COMPLETE, PRUNED
from metabench.search.propose import samplers
from metabench.storage import files

DIFFERENCES_TOLD = 4

Known = dict[str, list[dict[str, Any]]]
"""Algorithms to their known trials: what was sampled, and the scores by tasks seen."""


def read(place: str, space: SearchSpace, splits: Splits, objective: Objective) -> tuple[Known, list[str]]:
    """Read the trials of an earlier search that lie in this space, and what is to be said of them.

    Args:
        place: a search folder, or its trials.jsonl.
    """
    lines = _judged(place, objective)
    known: Known = {}
    told = []
    for algorithm in space.algorithms:
        own = [line for line in lines if line["algorithm"] == algorithm]
        fitting = [trial for line in own if (trial := _fit(space, algorithm, line)) is not None]
        known[algorithm] = fitting
        outside = f", {len(own) - len(fitting)} outside this space" if len(fitting) < len(own) else ""
        told.append(f"{algorithm} {len(fitting)}{outside}")
    if not any(known.values()):
        listed = ", ".join(sorted({line["algorithm"] for line in lines})) or "none"
        raise MetabenchError(
            f"--warm-start {place}: no trial there lies in this space; judged there: {len(lines)}, "
            f"of {listed}; give a search of the same algorithms with ranges that overlap, or leave it out"
        )
    return known, [
        f"known from {place}: {'; '.join(told)}",
        *_differences(_file(place).parent, space, splits),
    ]


def check(place: str) -> dict[str, dict[str, Any]]:
    """Return the trials at a place by name, or raise MetabenchError where there are none."""
    path = _file(place)
    if not path.is_file():
        raise MetabenchError(
            f"--warm-start {place}: is not there; give the folder of a search, or its {files.TRIALS}"
        )
    lines = files.read_lines(path)
    needed = {"trial", "algorithm", "status", "hyperparameters", "reports"}
    if not all(isinstance(line, dict) and needed <= line.keys() for line in lines):
        raise MetabenchError(f"--warm-start {place}: {path.name} holds something else than a search's trials")
    return {line["trial"]: line for line in lines}  # one that went on with a larger budget has two


def _file(place: str) -> Path:
    path = Path(place)
    return path / files.TRIALS if path.is_dir() else path


def _judged(place: str, objective: Objective) -> list[dict[str, Any]]:
    latest = check(place)
    found = [line for line in latest.values() if line["status"] in (COMPLETE, PRUNED)]
    other = next((line for line in found if f"val_{objective.metric}" not in line), None)
    if other is not None:
        metric = next((key for key in other if key in ("val_accuracy", "val_error")), "nothing known")
        raise MetabenchError(
            f"--warm-start {place}: trials are judged by {metric.removeprefix('val_')} there and by "
            f"{objective.metric} here, which cannot be compared; leave it out"
        )
    return found


def _fit(space: SearchSpace, algorithm: str, line: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return an earlier trial in the words of this space; None where a value is missing or not allowed."""
    values = spaces.settled(space, algorithm)
    sampled = {}
    for name, parameter in spaces.parameters(space, algorithm).items():
        if isinstance(parameter, Range | Choices) and spaces.is_active(parameter, values):
            value = _as_kind(samplers.distribution(parameter), line["hyperparameters"].get(name))
            values[name] = sampled[name] = value
    scores = {
        str(report["tasks_seen"]): report["val_score"]
        for report in line["reports"]
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


def frozen(space: SearchSpace, algorithm: str, known: Sequence[Mapping[str, Any]]) -> list[FrozenTrial]:
    """Return known trials as Optuna takes them, without those that a space does not allow.

    One that saw as many tasks as a full run here is complete, and any other pruned, whatever it was there.
    """
    given = spaces.parameters(space, algorithm)
    found = []
    for trial in known:
        scores = {int(seen): score for seen, score in trial["scores"].items()}
        reached = max(scores)
        is_complete = reached >= space.budget.tasks
        try:
            distributions = {name: samplers.distribution(given[name]) for name in trial["sampled"]}
            one = create_trial(
                state=TrialState.COMPLETE if is_complete else TrialState.PRUNED,
                value=scores[reached],
                params=dict(trial["sampled"]),
                distributions=distributions,
                intermediate_values=scores,
            )
        except (ValueError, TypeError, KeyError):  # outside of what the parameters may be
            continue
        found.append(one)
    return found


def best(found: Sequence[FrozenTrial]) -> dict[str, Any] | None:
    """Return the setting of the known trial that got furthest, of equals that with the best score."""
    first = max(found, key=lambda trial: (max(trial.intermediate_values), trial.value), default=None)
    return None if first is None else dict(first.params)


def known(folder: Path) -> Known:
    """Return what a search was started with."""
    path = folder / files.SEARCH
    found: Known = (files.read_json(path).get("known") or {}) if path.exists() else {}
    return found


def _differences(folder: Path, space: SearchSpace, splits: Splits) -> list[str]:
    """Say where the earlier search's task and data differ from this one's; that is allowed."""
    path = folder / files.SEARCH
    if not path.exists():
        return [f"{path} is not there, so on which task they were found is not known"]
    before = files.read_json(path)
    old, new = changes.flatten(before["space"]["task"]), changes.flatten(space.task.model_dump(mode="json"))
    differ = [key for key in new if old.get(key) != new[key]]
    shown = [f"{key} {old.get(key)!r} there, {new[key]!r} here" for key in differ[:DIFFERENCES_TOLD]]
    if before["data_fingerprint"] != splits.fingerprint and not differ:
        shown.append("other data")
    return [f"they were found on another task: {'; '.join(shown)}"] if shown else []
