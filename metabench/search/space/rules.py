"""What a search space must obey beyond its shape: names that exist, values that the settings allow."""

from __future__ import annotations

import dataclasses
import graphlib
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from metabench import algorithms, data, nets
from metabench.core import MetabenchError
from metabench.core.config import (
    Choices,
    NetworkConfig,
    Parameter,
    Range,
    TaskConfig,
    nearest,
    setting_problem,
)

PARAMETER: TypeAdapter[Any] = TypeAdapter(Parameter)


def check(document: Mapping[str, Any]) -> list[str]:
    """List what is wrong with the parts of a document that are well-formed on their own."""
    task = _valid(TypeAdapter(TaskConfig), document.get("task"))
    network = _valid(TypeAdapter(NetworkConfig), document.get("network"))
    wrong = _check_task(task) if task else []
    shared, blocks = _valid_parameters(document.get("shared")), document.get("algorithms")
    dataset = data.get(task.dataset) if task and task.dataset in data.names() else None
    if network:
        wrong += _check_network(network, dataset.kind if dataset else "classification")
    if dataset and isinstance(blocks, dict):
        wrong += _check_kind(dataset, blocks)
    return wrong + _check_algorithms(shared, blocks) + _check_also(document.get("also"), shared, blocks)


def _check_task(task: TaskConfig) -> list[str]:
    try:
        dataset, _, _ = data.configure(task)
    except MetabenchError as error:
        return [f"task: {line}" for line in str(error).splitlines()]
    return [f"task.{problem}" for problem in data.task_problems(task, dataset.name, dataset.kind)]


def _check_network(network: NetworkConfig, kind: str) -> list[str]:
    try:
        nets.build(network, 1, data.SHAPES[kind])
    except MetabenchError as error:
        return str(error).splitlines()
    return []


def _check_kind(dataset: data.Dataset, blocks: Mapping[str, Any]) -> list[str]:
    """Check that every algorithm can learn the data set's kind."""
    known = [name for name in blocks if algorithms.is_known(str(name))]
    return [
        algorithms.refusal(name, dataset.name, dataset.kind)
        for name in known
        if dataset.kind not in algorithms.get(name).kinds
    ]


def _unknown(where: str, name: str, allowed: Any, noun: str) -> list[str]:
    if name in allowed:
        return []
    return [f"{where}={name!r}: unknown {noun}.{nearest(name, allowed)} Allowed: {', '.join(allowed)}"]


def _valid(adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return None  # reported with the whole document


def _valid_parameters(block: Any) -> dict[str, Any]:
    pairs = block.items() if isinstance(block, dict) else ()
    return {str(key): found for key, value in pairs if (found := _valid(PARAMETER, value)) is not None}


def _check_algorithms(shared: Mapping[str, Any], given: Any) -> list[str]:
    blocks = given if isinstance(given, dict) else {}
    wrong: list[str] = []
    kinds = {}
    for name in map(str, blocks):
        if algorithms.is_known(name):
            kinds[name] = algorithms.get(name).hparams
        elif name.partition(".")[0] in algorithms.names():
            wrong.append(f"algorithms={name!r}: after the dot comes a label of a-z, 0-9 and _")
        else:
            wrong += _unknown("algorithms", name, algorithms.names(), "algorithm")
    for key, parameter in shared.items():
        having = [kind for kind in kinds.values() if key in get_type_hints(kind)]
        for kind in having or list(kinds.values())[:1]:
            wrong += _check_parameter(kind, key, parameter, f"shared.{key}")
    for name, kind in kinds.items():
        own = _valid_parameters(blocks[name])
        for key, parameter in own.items():
            wrong += _check_parameter(kind, key, parameter, f"algorithms.{name}.{key}")
        known = {key: value for key, value in {**shared, **own}.items() if key in get_type_hints(kind)}
        wrong += _check_conditions(kind, known, f"algorithms.{name}")
    return list(dict.fromkeys(wrong))


def _check_also(also: Any, shared: Mapping[str, Any], blocks: Any) -> list[str]:
    """Check that every value of `also` can be sampled by some algorithm."""
    own = [_valid_parameters(block) for block in blocks.values()] if isinstance(blocks, dict) else []
    merged = [{**shared, **block} for block in own]
    sampled = [{k: v for k, v in found.items() if isinstance(v, Range | Choices)} for found in merged]
    known = sorted({name for parameters in sampled for name in parameters})
    wrong = []
    for index, changes in enumerate(also if isinstance(also, list) else []):
        for name, value in changes.items() if isinstance(changes, dict) else ():
            place = f"also.{index}.{name}"
            if name not in known:
                wrong.append(f"{place}: not sampled here.{nearest(name, known)} Allowed: {', '.join(known)}")
            elif not any(_can_be(found[name], value) for found in sampled if name in found):
                wrong.append(f"{place}={value!r}: outside what {name} may be here")
    return wrong


def _check_parameter(kind: type, name: str, parameter: Any, where: str) -> list[str]:
    values = [(where, parameter)]
    if isinstance(parameter, Range):
        values = [(f"{where}.{key}", getattr(parameter, key)) for key in ("low", "high", "default")]
    elif isinstance(parameter, Choices):
        values = [(f"{where}.choices", choice) for choice in parameter.choices]
    if name not in get_type_hints(kind):
        values = [(where, None)]
    found = [setting_problem(kind, name, value, place) for place, value in values]
    wrong = [problem for problem in found if problem]
    if (
        isinstance(parameter, Range)
        and get_type_hints(kind).get(name) is int
        and isinstance(parameter.step, float)
    ):
        wrong.append(f"{where}.step={parameter.step}: must be a whole number")
    return wrong


def _check_conditions(kind: type, parameters: Mapping[str, Any], where: str) -> list[str]:
    """Check every `when`: names that the algorithm has, values that can occur, no circle."""
    wrong: list[str] = []
    usual = {field.name: field.default for field in dataclasses.fields(kind)}
    graph: dict[str, list[str]] = {}
    for name, parameter in parameters.items():
        conditions = (parameter.when if isinstance(parameter, Range | Choices) else None) or {}
        graph[name] = list(conditions)
        for key, wanted in conditions.items():
            place = f"{where}.{name}.when.{key}"
            values = wanted if isinstance(wanted, list) else [wanted]
            found = [problem for value in values if (problem := setting_problem(kind, key, value, place))]
            if not found and not any(_can_be(parameters.get(key, usual[key]), value) for value in values):
                found = [f"{place}={wanted!r}: {key} never has this value here"]
            wrong += found
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        wrong.append(f"{where}: these wait for each other in `when`: {', '.join(sorted(set(error.args[1])))}")
    return wrong


def _can_be(parameter: Any, value: Any) -> bool:
    if isinstance(parameter, Range):
        return isinstance(value, int | float) and parameter.low <= value <= parameter.high
    return value in (parameter.choices if isinstance(parameter, Choices) else [parameter])
