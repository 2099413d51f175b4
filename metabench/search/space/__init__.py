"""Search spaces: read a YAML file, check it against the algorithms' settings, and turn it into runs.

Also the JSON schema, from which editors complete and check the YAML.
"""

from __future__ import annotations

import dataclasses
import functools
import graphlib
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metabench import algorithms, data, nets
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
from metabench.core.config import rungs as rungs
from metabench.core.config.documents import read_yaml
from metabench.core.config.network import MODULE
from metabench.data.tasks import augment
from metabench.search.space import grid, rules

JSON_TYPES = {float: "number", int: "integer", bool: "boolean", str: "string"}
KEYWORDS = {"choices": "enum", "minimum": "minimum", "above": "exclusiveMinimum", "maximum": "maximum"}
"""Limits of `core.setting` as JSON schema calls them."""

_OTHER = object()
"""Any value that no `when` names."""


def load(path: Path | str) -> SearchSpace:
    """Read a search space; everything wrong with the file comes in one message."""
    document, wrong = read_yaml(Path(path))
    if not isinstance(document, dict):
        raise MetabenchError(f"{path}: must be a mapping of keys to values, not {type(document).__name__}")
    return check(document, path, Path(path).parent, wrong)


def check(
    document: dict[str, Any], source: Path | str, folder: Path | None = None, problems: Sequence[str] = ()
) -> SearchSpace:
    """Check what stands in a search space, whose values a file could hold.

    Args:
        source: what to call it in the message.
        folder: where relative paths are looked for, beside the working folder.
        problems: what is wrong with the file.
    """
    wrong = [*problems]
    document = _written_out(document, folder, wrong)
    space = attempt(wrong, validated, SearchSpace, document)
    wrong += rules.check(document)
    if space is not None and not wrong:
        wrong += _check_together(space)
    if wrong or space is None:
        raise refusal(source, wrong)
    return space


def _written_out(document: Mapping[str, Any], folder: Path | None, wrong: list[str]) -> dict[str, Any]:
    """Write registered names and whole paths; algorithms whose names are one are wrong."""
    task, blocks = document.get("task"), document.get("algorithms")
    named: dict[str, Any] = {}
    for name, block in blocks.items() if isinstance(blocks, dict) else ():
        key = algorithms.canonical(name)
        if key in named:
            wrong.append(f"algorithms.{name}: is {key}, which stands there already; make it {key}.LABEL")
        named[key] = block
    if isinstance(task, dict) and isinstance(task.get("dataset"), Mapping):
        named_by = attempt(wrong, data.described, task["dataset"]) or {}
        options = {**named_by.get("options", {}), **(task.get("options") or {})}
        task = {**task, **named_by, "options": options}
    if isinstance(task, dict) and isinstance(task.get("dataset"), str):
        task = {**task, "dataset": data.canonical(task["dataset"])}
        if isinstance(task.get("options"), dict) and task["dataset"] in data.names():
            task["options"] = data.anchored(task["dataset"], task["options"], folder)
    changed = {"task": task, "algorithms": named if isinstance(blocks, dict) else blocks}
    if isinstance(document.get("network"), dict):
        changed["network"] = nets.anchored(document["network"], folder)
    if isinstance(labelled := document.get("networks"), dict):
        changed["networks"] = {
            label: nets.anchored(one, folder) if isinstance(one, dict) else one
            for label, one in labelled.items()
        }
    return {key: changed.get(key, value) for key, value in document.items()}


def _check_together(space: SearchSpace) -> list[str]:
    """List what is wrong with settings as a whole: the published ones, and with one value at its ends."""
    wrong: list[str] = []
    kind, shape = data.outline(data.get(space.task.dataset), space.task.options)
    for algorithm in space.algorithms:
        its = of(space, algorithm)
        wrong += [
            f"{algorithm}.{name}: its `when` never holds here; leave it out" for name in its.unreachable
        ]
        ends = [
            {name: value}
            for name, one in its.sampled.items()
            for value in ((one.low, one.high) if isinstance(one, Range) else one.choices)
        ]
        for sampled in [*its.published, *(_published(its, changes) for changes in ends)]:
            h = attempt(wrong, its.build, sampled)
            if h is not None:
                problem = augment.problem(h, kind, shape, space.task.augment)
                problem = problem or algorithms.search_problem(h, kind)
                problems = [problem] if problem else algorithms.unlabelled_problems(algorithm, h, space.task)
                wrong += [f"{algorithm}: {line}" for line in problems]
    return [f"algorithms.{line}" for line in dict.fromkeys(wrong)]


def override(
    space: SearchSpace, *, names: Sequence[str] | None = None, **changes: int | str | None
) -> SearchSpace:
    """Return the space with another budget or fewer algorithms; the grace keeps its share of the tasks.

    Args:
        changes: settings of the budget by name; None leaves what the space says.
    """
    budget = space.budget.model_dump(exclude_unset=True)
    budget |= {key: value for key, value in changes.items() if value is not None}
    tasks = changes.get("tasks")
    if isinstance(tasks, int) and tasks > 0:
        share = max(1, round(space.budget.grace * tasks / space.budget.tasks))
        budget |= {"grace": changes.get("grace") or share, "rungs": None}
    wrong: list[str] = []
    changed = attempt(wrong, validated, BudgetConfig, budget)
    names = [algorithms.canonical(name) for name in names or ()]
    for name in names:
        if name not in space.algorithms:
            wrong.append(f"`algorithms` {name}: not in this space.{allowed(name, space.algorithms)}")
    if wrong:
        raise MetabenchError("\n".join(wrong))
    kept = {name: block for name, block in space.algorithms.items() if not names or name in names}
    labels = {name.partition(".")[2] for name in kept}
    networks = {label: one for label, one in space.networks.items() if label in labels}
    return space.model_copy(update={"budget": changed, "algorithms": kept, "networks": networks})


@dataclasses.dataclass(frozen=True)
class AlgorithmSpace:
    """What a search space says of one algorithm."""

    algorithm: str
    parameters: Mapping[str, Any]  # shared and its own, which overrule; each after those its `when` names
    defaults: Mapping[str, Any]  # every setting before anything is sampled: the algorithm's, then constants
    published: Sequence[dict[str, Any]]  # to try before any is sampled: defaults, then `also`, none twice
    n_settings: float  # that differ; infinity where some parameter is a continuous range
    unreachable: Sequence[str]  # parameters whose `when` never holds
    n_trials: int  # settings to try: the budget's, or all there are

    @functools.cached_property
    def sampled(self) -> dict[str, Range | Choices]:
        """Return the parameters that are no constants."""
        return {name: one for name, one in self.parameters.items() if isinstance(one, Range | Choices)}

    @functools.cached_property
    def memo(self) -> dict[Hashable, Any]:
        """Return where that may be kept which is worked out of single settings."""
        return {}

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

    def recognise(self, hyperparameters: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what is sampled of a recorded setting; None where this space does not have it."""
        recorded = {**vars(algorithms.hparams(self.algorithm, {})), **hyperparameters}
        sampled = self.sample(lambda name, parameter: recorded[name])
        is_here = all(grid.place(self.parameters[name], value) is not None for name, value in sampled.items())
        return sampled if is_here and {**self.defaults, **sampled} == recorded else None

    def place(self, sampled: Mapping[str, Any]) -> Hashable:
        """Say where a setting stands: two are the same where this is."""
        return tuple((name, grid.place(self.parameters[name], value)) for name, value in sampled.items())

    def where(self, hyperparameters: Mapping[str, Any]) -> Hashable | None:
        """Say where a recorded setting stands; None where this space does not have it."""
        sampled = self.recognise(hyperparameters)
        return None if sampled is None else self.place(sampled)

    def near(self, sampled: Mapping[str, Any], rng: random.Random) -> Iterator[dict[str, Any]]:
        """Yield settings of the space, those that differ least from one of them first."""
        parameters = list(self.sampled.items())

        def follow(k: int, values: dict[str, Any], chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if k == len(parameters):
                yield chosen
            elif is_active(parameters[k][1], values):
                name, parameter = parameters[k]
                for value in grid.near(parameter, sampled.get(name, parameter.default), rng):
                    yield from follow(k + 1, {**values, name: value}, {**chosen, name: value})
            else:
                yield from follow(k + 1, values, chosen)

        return follow(0, dict(self.defaults), {})


def of(space: SearchSpace, algorithm: str) -> AlgorithmSpace:
    """Work out what a space says of one algorithm; numbers become floats where the setting is a float."""
    kinds = field_types(algorithms.get(algorithm).hparams)
    shared = {name: parameter for name, parameter in space.shared.items() if name in kinds}
    merged = {**shared, **space.algorithms[algorithm]}
    graph = {name: [key for key in _when(merged[name]) if key in merged] for name in merged}
    order = graphlib.TopologicalSorter(graph).static_order()
    parameters = {name: grid.typed(merged[name], kinds[name]) for name in order}
    constants = {name: one for name, one in parameters.items() if not isinstance(one, Range | Choices)}
    defaults = {**vars(algorithms.hparams(algorithm, {})), **constants}
    n_settings, unreachable = _count(parameters, defaults)
    n_trials = int(min(space.budget.trials, n_settings))
    result = AlgorithmSpace(algorithm, parameters, defaults, (), n_settings, unreachable, n_trials)
    published: list[dict[str, Any]] = []
    for changes in ({}, *space.also):
        if (sampled := _published(result, changes)) not in published:
            published.append(sampled)
    return dataclasses.replace(result, published=published)


def planned(space: SearchSpace) -> dict[str, int]:
    """Return how many settings of each algorithm are tried."""
    return {algorithm: of(space, algorithm).n_trials for algorithm in space.algorithms}


def _count(parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[float, list[str]]:
    """Count the settings of a space, and list the parameters that none of them has.

    Of a parameter that others wait for, only the values that they name are told apart.
    """
    sampled = {name: one for name, one in parameters.items() if isinstance(one, Range | Choices)}
    unreachable = []
    counts: dict[tuple[Any, ...], float] = {(): 1}
    keys: list[str] = []
    for name, parameter in sampled.items():
        wanted = [value for other in sampled.values() for value in _wanted(other).get(name, [])]
        named = {p: value for value in wanted if (p := grid.place(parameter, value)) is not None}
        others = grid.count(parameter) - len(named)
        active = {
            key: is_active(parameter, {**defaults, **dict(zip(keys, key, strict=True))}) for key in counts
        }
        unreachable += [] if any(active.values()) else [name]
        following: dict[tuple[Any, ...], float] = {}
        for key, n_settings in counts.items():
            branches = [(value, 1.0) for value in named.values()] + [(_OTHER, others)] * (others > 0)
            for value, n_values in branches if active[key] else [(defaults[name], 1)]:
                longer = (*key, value) if named else key
                following[longer] = following.get(longer, 0) + n_settings * n_values
        keys += [name] if named else []
        counts = following
    return sum(counts.values()), unreachable


def next_rung(budget: BudgetConfig, seen: int) -> int:
    """Return the tasks seen at the end of a trial's next leg."""
    return next((rung for rung in rungs(budget) if rung > seen), budget.tasks)


def is_active(parameter: Any, values: Mapping[str, Any]) -> bool:
    """Say whether a parameter's `when` holds among the values settled so far."""
    return all(values[key] in wanted for key, wanted in _wanted(parameter).items())


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
        network=space.network_of(algorithm),
        tasks=space.budget.tasks,
        rungs=list(rungs),
        validation_tasks=space.budget.validation_tasks,
        seed=seed,
    )


def _when(parameter: Any) -> Mapping[str, Any]:
    return getattr(parameter, "when", None) or {}


def _wanted(parameter: Any) -> Mapping[str, list[Any]]:
    """Return the values that a parameter's `when` allows, by the parameter that must have one of them."""
    return {key: value if isinstance(value, list) else [value] for key, value in _when(parameter).items()}


def schema() -> dict[str, Any]:
    """Build the JSON schema of a search space with the names and settings that exist."""
    result = SearchSpace.model_json_schema()
    result = {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}
    definitions = result["$defs"]
    definitions["TaskConfig"]["properties"]["dataset"] |= {
        "anyOf": [{"enum": data.names()}, {"pattern": f"^{data.MODULE}"}, {"type": "object"}]
    }
    names = [{"enum": [*sorted(nets.NETWORKS), MODULE]}, {"pattern": "^(torchvision|timm)/"}]
    definitions["NetworkConfig"]["properties"]["name"]["anyOf"] = names
    blocks = {
        name: _block(algorithms.get(name).hparams) for name in filter(algorithms.is_known, algorithms.names())
    }
    shared = {key: value for block in blocks.values() for key, value in block["properties"].items()}
    properties = result["properties"]
    properties["shared"] |= {"properties": shared, "additionalProperties": False}
    labelled = {rf"^{name}\.[a-z0-9_]+$": block for name, block in blocks.items()}
    properties["algorithms"] |= {
        "properties": blocks,
        "patternProperties": labelled,
        "additionalProperties": False,
    }
    return result


def _block(settings: type) -> dict[str, Any]:
    properties = {field.name: _parameter(field, settings) for field in dataclasses.fields(settings)}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _parameter(field: dataclasses.Field[Any], settings: type) -> dict[str, Any]:
    kind, limits = JSON_TYPES[field_types(settings)[field.name]], field.metadata
    bounds = {keyword: limits[name] for name, keyword in KEYWORDS.items() if limits[name] is not None}
    if "enum" in bounds:
        bounds["enum"] = list(bounds["enum"])
    ranges = [{"$ref": "#/$defs/Range"}] if kind in ("number", "integer") else []
    return {
        "description": limits["help"],
        "default": field.default,
        "anyOf": [*ranges, {"$ref": "#/$defs/Choices"}, {"type": kind, **bounds}],
    }
