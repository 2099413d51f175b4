"""Search spaces: read a YAML file, check it against the algorithms' settings, and turn it into runs."""

from __future__ import annotations

import dataclasses
import graphlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metabench import algorithms, data
from metabench.core import MetabenchError
from metabench.core.config import (
    BudgetConfig,
    Choices,
    Range,
    RunConfig,
    SearchSpace,
    field_types,
    nearest,
    problems,
)
from metabench.data.tasks import augment
from metabench.search.space import rules
from metabench.search.space.editor import schema
from metabench.search.space.files import read_yaml

__all__ = [
    "defaults",
    "is_active",
    "load",
    "n_trials",
    "override",
    "parameters",
    "published",
    "resolve",
    "run_config",
    "rungs",
    "schema",
    "settled",
]


def load(path: Path | str) -> SearchSpace:
    """Read a search space; everything wrong with the file comes in one message."""
    document, wrong = read_yaml(Path(path))
    space = None
    try:
        space = SearchSpace.model_validate(document)
    except ValidationError as error:
        wrong += problems(error, SearchSpace)
    wrong += rules.check(document)
    if space is not None and not wrong:
        wrong += _check_together(space)
    if wrong or space is None:
        count = "1 problem" if len(wrong) == 1 else f"{len(wrong)} problems"
        raise MetabenchError("\n  ".join([f"{path}: {count}", *wrong]))
    return space


def _check_together(space: SearchSpace) -> list[str]:
    """List what is wrong with settings as a whole: the published ones, and with one value at its ends."""
    wrong: list[str] = []
    kind = data.get(space.task.dataset).kind
    for algorithm in space.algorithms:
        tried = published(space, algorithm)
        for name, parameter in parameters(space, algorithm).items():
            tried += [_sampled(space, algorithm, {name: value}) for value in _ends(parameter)]
        for sampled in tried:
            try:
                h = algorithms.hparams(algorithm, resolve(space, algorithm, sampled))
                problem = augment.problem(h, kind, data.SHAPES[kind])
                wrong += [f"algorithms.{algorithm}: {problem}"] if problem else []
            except MetabenchError as error:
                wrong += [f"algorithms.{line}" for line in str(error).splitlines()]
    return list(dict.fromkeys(wrong))


def override(
    space: SearchSpace, *, names: Sequence[str] | None = None, **changes: int | str | None
) -> SearchSpace:
    """Return the space with another budget or fewer algorithms; the grace keeps its share of the tasks.

    Args:
        changes: settings of the budget by name; None leaves what the space says.
    """
    budget = space.budget.model_dump()
    budget |= {key: value for key, value in changes.items() if value is not None}
    tasks = changes.get("tasks")
    if isinstance(tasks, int) and tasks > 0:
        budget["grace"] = max(1, round(space.budget.grace * tasks / space.budget.tasks))
        budget["rungs"] = None
    wrong: list[str] = []
    changed = space.budget
    try:
        changed = BudgetConfig.model_validate(budget)
    except ValidationError as error:
        parts = [line.partition("=") for line in problems(error, BudgetConfig)]
        wrong += [f"--{key.replace('_', '-')}{sep}{rest}" for key, sep, rest in parts]
    for name in names or ():
        if name not in space.algorithms:
            hint = nearest(name, space.algorithms)
            wrong.append(
                f"--algorithms {name}: not in this space.{hint} Allowed: {', '.join(space.algorithms)}"
            )
    if wrong:
        raise MetabenchError("\n".join(wrong))
    kept = {name: own for name, own in space.algorithms.items() if not names or name in names}
    return space.model_copy(update={"budget": changed, "algorithms": kept})


def parameters(space: SearchSpace, algorithm: str) -> dict[str, Any]:
    """List what a space says of an algorithm's settings: shared ones that it has, overruled by its own.

    A parameter comes after those its `when` names; numbers are floats where the setting is a float.
    """
    kinds = field_types(algorithms.get(algorithm).hparams)
    shared = {name: parameter for name, parameter in space.shared.items() if name in kinds}
    merged = {**shared, **space.algorithms[algorithm]}
    graph = {name: [key for key in _when(merged[name]) if key in merged] for name in merged}
    return {
        name: _typed(merged[name], kinds[name]) for name in graphlib.TopologicalSorter(graph).static_order()
    }


def settled(space: SearchSpace, algorithm: str) -> dict[str, Any]:
    """Return every setting before anything is sampled: the algorithm's defaults, then the constants."""
    values = dataclasses.asdict(algorithms.hparams(algorithm, {}))
    found = parameters(space, algorithm).items()
    return values | {name: value for name, value in found if not isinstance(value, Range | Choices)}


def is_active(parameter: Any, values: Mapping[str, Any]) -> bool:
    """Say whether a parameter's `when` holds among the values settled so far."""
    wanted = _when(parameter).items()
    return all(values[key] in (value if isinstance(value, list) else [value]) for key, value in wanted)


def published(space: SearchSpace, algorithm: str) -> list[dict[str, Any]]:
    """Return the settings to try before any is sampled: the defaults, then those of `also`, none twice."""
    found: list[dict[str, Any]] = []
    for changes in ({}, *space.also):
        sampled = _sampled(space, algorithm, changes)
        if sampled not in found:
            found.append(sampled)
    return found


def _sampled(space: SearchSpace, algorithm: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the published values, but for some changes, of what is sampled then."""
    values, sampled = settled(space, algorithm), {}
    for name, parameter in parameters(space, algorithm).items():
        if isinstance(parameter, Range | Choices) and is_active(parameter, values):
            values[name] = sampled[name] = changes.get(name, parameter.default)
    return sampled


def defaults(space: SearchSpace, algorithm: str) -> dict[str, Any]:
    """Return the published value of every parameter that would be sampled, as one trial."""
    return published(space, algorithm)[0]


def n_trials(space: SearchSpace, algorithm: str) -> int:
    """Count the settings to try of an algorithm: one where there is nothing to choose, else the budget's."""
    given = parameters(space, algorithm).values()
    return space.budget.trials if any(isinstance(p, Range | Choices) for p in given) else 1


def resolve(space: SearchSpace, algorithm: str, sampled: Mapping[str, Any]) -> dict[str, Any]:
    """Return every setting of an algorithm; a parameter whose `when` fails keeps the algorithm's default."""
    values = settled(space, algorithm)
    for name, parameter in parameters(space, algorithm).items():
        if isinstance(parameter, Range | Choices) and is_active(parameter, values):
            values[name] = sampled[name]
    return dataclasses.asdict(algorithms.hparams(algorithm, values))


def run_config(
    space: SearchSpace, algorithm: str, hyperparameters: Mapping[str, Any], seed: int, rungs: Sequence[int]
) -> RunConfig:
    """Describe one run of the space in full."""
    return RunConfig(
        algorithm=algorithm,
        hyperparameters=dataclasses.asdict(algorithms.hparams(algorithm, dict(hyperparameters))),
        task=space.task,
        network=space.network,
        tasks=space.budget.tasks,
        rungs=list(rungs),
        validation_tasks=space.budget.validation_tasks,
        seed=seed,
    )


def rungs(budget: BudgetConfig) -> list[int]:
    """List the tasks seen at which a trial reports, ascending; the last is the full budget."""
    if budget.rungs is not None:
        return budget.rungs
    if budget.scheduler == "top_k":
        return sorted({budget.grace, budget.tasks})
    steps = []
    rung = budget.grace
    while rung < budget.tasks:
        steps.append(rung)
        rung *= budget.reduction_factor
    return [*steps, budget.tasks]


def _ends(parameter: Any) -> list[Any]:
    if isinstance(parameter, Range):
        return [parameter.low, parameter.high]
    return parameter.choices if isinstance(parameter, Choices) else []


def _when(parameter: Any) -> Mapping[str, Any]:
    return (parameter.when if isinstance(parameter, Range | Choices) else None) or {}


def _typed(parameter: Any, kind: type) -> Any:
    if kind is not float:
        return parameter
    if isinstance(parameter, Range):
        step = None if parameter.step is None else float(parameter.step)
        bounds = {key: float(getattr(parameter, key)) for key in ("low", "high", "default")}
        return parameter.model_copy(update={**bounds, "step": step})
    if isinstance(parameter, Choices):
        choices = [float(choice) for choice in parameter.choices]
        return parameter.model_copy(update={"choices": choices, "default": float(parameter.default)})
    return float(parameter)
