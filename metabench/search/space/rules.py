"""What a search space must obey beyond its shape: names that exist, values that the settings allow."""

from __future__ import annotations

import dataclasses
import graphlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from metabench import algorithms, data, nets
from metabench.core.config import (
    BudgetConfig,
    Choices,
    NetworkConfig,
    Parameter,
    Range,
    TaskConfig,
    allowed,
    attempt,
    field_types,
    setting_problem,
)
from metabench.search.space import grid

Parameters = Mapping[str, Any]
"""Settings to ranges, choices and constants."""

PARAMETER: TypeAdapter[Any] = TypeAdapter(Parameter)


def check(document: Mapping[str, Any]) -> list[str]:
    """List what is wrong with the parts of a document that are well-formed on their own."""
    task = _valid(TaskConfig.model_validate, document.get("task"))
    networks = {"network": document.get("network"), **_labelled(document)}
    dataset = attempt([], data.get, task.dataset) if task else None
    shared, blocks = _parameters(document.get("shared")), _items(document.get("algorithms"))
    parameters = {str(name): _parameters(block) for name, block in blocks.items()}
    wrong = _check_task(task) + _check_folds(task, _items(document.get("budget"))) if task else []
    _, shape = data.outline(dataset, task.options if task else {})
    for where, described in networks.items():
        lines: list[str] = []
        if network := _valid(NetworkConfig.model_validate, described):
            attempt(lines, nets.check, network, shape)
        wrong += [line.replace("network", where, 1) for line in lines]
    if dataset and task:
        wrong += [
            line
            for name in filter(algorithms.is_known, parameters)
            for line in _check_algorithm(name, dataset, task)
        ]
    merged = {name: {**shared, **block} for name, block in parameters.items()}
    labels = {name.partition(".")[2] for name in parameters}
    unused = [name for name in _items(document.get("networks")) if name not in labels]
    wrong += [
        f"networks.{name}: no algorithm has the label; add NAME.{name} to algorithms" for name in unused
    ]
    return wrong + _check_algorithms(shared, parameters) + _check_also(document.get("also"), merged.values())


def _labelled(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the networks of labels, by where they stand."""
    return {f"networks.{label}": one for label, one in _items(document.get("networks")).items()}


def _check_task(task: TaskConfig) -> list[str]:
    wrong: list[str] = []
    if configured := attempt(wrong, data.configure, task):
        dataset = configured[0]
        kind, _ = data.outline(dataset, task.options)
        return [f"task.{problem}" for problem in data.task_problems(task, dataset.name, kind)]
    return [f"task: {line}" for line in wrong]


def _check_folds(task: TaskConfig, budget: Mapping[Any, Any]) -> list[str]:
    folds, seeds = data.n_folds(task), budget.get("seeds", BudgetConfig.model_fields["seeds"].default)
    if not isinstance(seeds, int) or seeds % folds == 0:
        return []
    return [f"budget.seeds={seeds}: full runs take the {folds} folds in turn; give a multiple of {folds}"]


def _check_algorithm(name: str, dataset: data.Dataset, task: TaskConfig) -> list[str]:
    wrong = algorithms.refusals(name, dataset.name, data.kinds(dataset, task.options))
    if wrong or task.labels != "fixed":
        return wrong
    problem = algorithms.fixed_problem(name, algorithms.hparams(name, {}))
    return [f"algorithms.{problem}"] if problem else []


def _valid(validate: Callable[[Any], Any], value: Any) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return None  # reported with the whole document


def _items(block: Any) -> Mapping[Any, Any]:
    return block if isinstance(block, dict) else {}


def _parameters(block: Any) -> Parameters:
    valid = {str(key): _valid(PARAMETER.validate_python, value) for key, value in _items(block).items()}
    return {key: value for key, value in valid.items() if value is not None}


def _check_algorithms(shared: Parameters, blocks: Mapping[str, Parameters]) -> list[str]:
    wrong: list[str] = []
    kinds = {name: algorithms.get(name).hparams for name in blocks if algorithms.is_known(name)}
    for name in (name for name in blocks if name not in kinds):
        if name.partition(".")[0] in algorithms.names():
            wrong.append(f"algorithms={name!r}: after the dot comes a label of a-z, 0-9 and _")
        else:
            wrong.append(f"algorithms={name!r}: unknown algorithm.{allowed(name, algorithms.names())}")
    for key, parameter in shared.items():
        having = [kind for kind in kinds.values() if key in field_types(kind)]
        for kind in having or list(kinds.values())[:1]:
            wrong += _check_parameter(kind, key, parameter, f"shared.{key}")
    for name, kind in kinds.items():
        for key, parameter in blocks[name].items():
            wrong += _check_parameter(kind, key, parameter, f"algorithms.{name}.{key}")
        merged = {**shared, **blocks[name]}
        its = {key: parameter for key, parameter in merged.items() if key in field_types(kind)}
        wrong += _check_conditions(kind, its, f"algorithms.{name}")
    return list(dict.fromkeys(wrong))


def _check_also(also: Any, blocks: Iterable[Parameters]) -> list[str]:
    """Check that every value of `also` can be sampled by some algorithm."""
    sampled: dict[str, list[Range | Choices]] = {}
    for name, parameter in (item for block in blocks for item in block.items()):
        if isinstance(parameter, Range | Choices):
            sampled.setdefault(name, []).append(parameter)
    wrong = []
    for index, changes in enumerate(also if isinstance(also, list) else []):
        for name, value in _items(changes).items():
            place = f"also.{index}.{name}"
            if name not in sampled:
                wrong.append(f"{place}: not sampled here.{allowed(name, sorted(sampled))}")
            elif not any(grid.place(parameter, value) is not None for parameter in sampled[name]):
                wrong.append(f"{place}={value!r}: outside what {name} may be here")
    return wrong


def _check_parameter(kind: type, name: str, parameter: Any, where: str) -> list[str]:
    kinds = field_types(kind)
    values = [(where, parameter)]
    if name in kinds and isinstance(parameter, Range):
        values = [(f"{where}.{key}", getattr(parameter, key)) for key in ("low", "high", "default")]
    elif name in kinds and isinstance(parameter, Choices):
        values = [(f"{where}.choices", choice) for choice in parameter.choices]
    problems = [setting_problem(kind, name, value, place) for place, value in values]
    if isinstance(parameter, Range) and kinds.get(name) is int and isinstance(parameter.step, float):
        problems.append(f"{where}.step={parameter.step}: must be a whole number")
    wrong = [problem for problem in problems if problem]
    return wrong or (grid.problems(parameter, where) if name in kinds else [])


def _check_conditions(kind: type, parameters: Parameters, where: str) -> list[str]:
    """Check every `when`: names that the algorithm has, values that can occur, no circle."""
    wrong: list[str] = []
    defaults, kinds = {field.name: field.default for field in dataclasses.fields(kind)}, field_types(kind)
    graph: dict[str, list[str]] = {}
    for name, parameter in parameters.items():
        conditions = getattr(parameter, "when", None) or {}
        graph[name] = list(conditions)
        for key, wanted in conditions.items():
            place = f"{where}.{name}.when.{key}"
            values = wanted if isinstance(wanted, list) else [wanted]
            refused = [problem for value in values if (problem := setting_problem(kind, key, value, place))]
            at = parameters.get(key, defaults.get(key))
            at = grid.typed(at, kinds[key]) if isinstance(at, Range) and key in kinds else at
            if not refused and isinstance(at, Range) and grid.count(at) == math.inf:
                advice = f"give {key} choices or a step, or leave the condition out"
                refused = [
                    f"{place}={wanted!r}: {key} is a continuous range, which hardly ever has it; {advice}"
                ]
            elif not refused and all(grid.place(at, value) is None for value in values):
                refused = [f"{place}={wanted!r}: {key} never has this value here"]
            wrong += refused
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        wrong.append(f"{where}: these wait for each other in `when`: {', '.join(sorted(set(error.args[1])))}")
    return wrong
