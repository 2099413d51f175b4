"""Search spaces: read a YAML file, check it against the algorithms' settings, and turn it into runs."""

from __future__ import annotations

import dataclasses
import graphlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metabench import algorithms, data
from metabench.core import MetabenchError
from metabench.core.config import (
    BudgetConfig,
    Choices,
    Range,
    RunConfig,
    SearchSpace,
    allowed,
    attempt,
    field_types,
    refusal,
    validated,
)
from metabench.data.tasks import augment
from metabench.search.space import rules
from metabench.search.space.editor import schema
from metabench.search.space.files import read_yaml

__all__ = [
    "AlgorithmSpace",
    "is_active",
    "load",
    "of",
    "override",
    "run_config",
    "rungs",
    "schema",
]


def load(path: Path | str) -> SearchSpace:
    """Read a search space; everything wrong with the file comes in one message."""
    document, wrong = read_yaml(Path(path))
    space = attempt(wrong, validated, SearchSpace, document)
    wrong += rules.check(document)
    if space is not None and not wrong:
        wrong += _check_together(space)
    if wrong or space is None:
        raise refusal(path, wrong)
    return space


def _check_together(space: SearchSpace) -> list[str]:
    """List what is wrong with settings as a whole: the published ones, and with one value at its ends."""
    wrong: list[str] = []
    kind = data.get(space.task.dataset).kind
    for algorithm in space.algorithms:
        its = of(space, algorithm)
        ends = [{name: value} for name, parameter in its.sampled.items() for value in _ends(parameter)]
        for sampled in [*its.published, *(_published(its, changes) for changes in ends)]:
            h = attempt(wrong, its.build, sampled)
            problem = h and augment.problem(h, kind, data.SHAPES[kind])
            wrong += [f"{algorithm}: {problem}"] if problem else []
    return [f"algorithms.{line}" for line in dict.fromkeys(wrong)]


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
        share = max(1, round(space.budget.grace * tasks / space.budget.tasks))
        budget |= {"grace": changes.get("grace") or share, "rungs": None}
    wrong: list[str] = []
    changed = attempt(wrong, validated, BudgetConfig, budget)
    for name in names or ():
        if name not in space.algorithms:
            wrong.append(f"`algorithms` {name}: not in this space.{allowed(name, space.algorithms)}")
    if wrong:
        raise MetabenchError("\n".join(wrong))
    kept = {name: block for name, block in space.algorithms.items() if not names or name in names}
    return space.model_copy(update={"budget": changed, "algorithms": kept})


@dataclasses.dataclass(frozen=True)
class AlgorithmSpace:
    """What a search space says of one algorithm."""

    algorithm: str
    parameters: Mapping[str, Any]  # shared and its own, which overrule; each after those its `when` names
    defaults: Mapping[str, Any]  # every setting before anything is sampled: the algorithm's, then constants
    published: Sequence[dict[str, Any]]  # to try before any is sampled: defaults, then `also`, none twice
    n_trials: int  # settings to try: one where there is nothing to choose, else the budget's

    @property
    def sampled(self) -> dict[str, Range | Choices]:
        """Return the parameters that are no constants."""
        return {name: one for name, one in self.parameters.items() if isinstance(one, Range | Choices)}

    def sample(self, value: Callable[[str, Range | Choices], Any]) -> dict[str, Any]:
        """Ask for the value of each parameter whose `when` holds among the values before it."""
        values, sampled = dict(self.defaults), {}
        for name, parameter in self.sampled.items():
            if is_active(parameter, values):
                values[name] = sampled[name] = value(name, parameter)
        return sampled

    def build(self, sampled: Mapping[str, Any]) -> Any:
        """Build the algorithm's settings; a parameter whose `when` fails keeps the algorithm's default."""
        active = self.sample(lambda name, parameter: sampled[name])
        return algorithms.hparams(self.algorithm, {**self.defaults, **active})

    def resolve(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        """Return every setting by name, checked: what the journal keeps and nobody checks again."""
        return dict(vars(self.build(sampled)))


def of(space: SearchSpace, algorithm: str) -> AlgorithmSpace:
    """Work out what a space says of one algorithm; numbers become floats where the setting is a float."""
    kinds = field_types(algorithms.get(algorithm).hparams)
    shared = {name: parameter for name, parameter in space.shared.items() if name in kinds}
    merged = {**shared, **space.algorithms[algorithm]}
    graph = {name: [key for key in _when(merged[name]) if key in merged] for name in merged}
    order = graphlib.TopologicalSorter(graph).static_order()
    parameters = {name: _typed(merged[name], kinds[name]) for name in order}
    constants = {name: one for name, one in parameters.items() if not isinstance(one, Range | Choices)}
    defaults = {**vars(algorithms.hparams(algorithm, {})), **constants}
    n_trials = 1 if len(constants) == len(parameters) else space.budget.trials
    result = AlgorithmSpace(algorithm, parameters, defaults, (), n_trials)
    published: list[dict[str, Any]] = []
    for changes in ({}, *space.also):
        if (sampled := _published(result, changes)) not in published:
            published.append(sampled)
    return dataclasses.replace(result, published=published)


def is_active(parameter: Any, values: Mapping[str, Any]) -> bool:
    """Say whether a parameter's `when` holds among the values settled so far."""
    wanted = _when(parameter).items()
    return all(values[key] in (value if isinstance(value, list) else [value]) for key, value in wanted)


def _published(space: AlgorithmSpace, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the published values, but for some changes, of what is sampled then."""
    return space.sample(lambda name, parameter: changes.get(name, parameter.default))


def run_config(
    space: SearchSpace, algorithm: str, hyperparameters: Mapping[str, Any], seed: int, rungs: Sequence[int]
) -> RunConfig:
    """Describe one run of the space in full."""
    return RunConfig(
        algorithm=algorithm,
        hyperparameters={**vars(algorithms.hparams(algorithm, {})), **hyperparameters},
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


def _ends(parameter: Range | Choices) -> Sequence[Any]:
    return (parameter.low, parameter.high) if isinstance(parameter, Range) else parameter.choices


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
