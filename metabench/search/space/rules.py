"""What a search space must obey beyond its shape: names that exist, values that the settings allow."""

from __future__ import annotations

import dataclasses
import functools
import graphlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from metabench import algorithms, data, nets
from metabench.core.config import (
    NODES,
    PREFIX,
    BudgetConfig,
    Choices,
    NetworkSpace,
    Parameter,
    Range,
    TaskConfig,
    allowed,
    attempt,
    field_types,
    genotype,
    setting_problem,
    wanted,
)
from metabench.core.config.genotype import Genotype
from metabench.search.space import grid

Parameters = Mapping[str, Any]
"""Settings to ranges, choices and constants."""

Problem = Callable[[str, Any, str], str | None]
"""(name, value, what to call it) -> what is wrong with it, if anything is."""

OF_WEIGHTS = ("module", "head", "layer", "weights", "freeze", "normalise", "image_size")
"""Settings of a network that are never sampled."""

PARAMETER: TypeAdapter[Any] = TypeAdapter(Parameter)


def check(document: Mapping[str, Any]) -> list[str]:
    """List what is wrong with the parts of a document that are well-formed on their own."""
    task = _valid(TaskConfig.model_validate, document.get("task"))
    networks = {"network": document.get("network"), **_labelled(document)}
    dataset = attempt([], data.get, task.dataset) if task else None
    shared, blocks = _parameters(document.get("shared")), _items(document.get("algorithms"))
    parameters = {str(name): _parameters(block) for name, block in blocks.items()}
    budget = _items(document.get("budget"))
    wrong = _check_task(task) + _check_folds(task, budget) if task else []
    kind, shape = data.outline(dataset, task.options if task else {})
    valid = {where: _valid(NetworkSpace.model_validate, described) for where, described in networks.items()}
    for where, network in valid.items():
        if network is not None:
            problems = _check_network(network, shape) + _check_stages(network, budget)
            wrong += [line.replace(PREFIX, f"{where}.") for line in problems]
    if dataset and task:
        wrong += _check_unit(dataset, kind, budget)
        wrong += [
            line
            for name in filter(algorithms.is_known, parameters)
            for line in _check_algorithm(name, dataset, task)
        ]
    merged = [{**shared, **block} for block in parameters.values()]
    merged += [one.parameters for one in valid.values() if one is not None]
    labels = {name.partition(".")[2] for name in parameters}
    unused = [name for name in _items(document.get("networks")) if name not in labels]
    wrong += [
        f"networks.{name}: no algorithm has the label; add NAME.{name} to algorithms" for name in unused
    ]
    return wrong + _check_algorithms(shared, parameters) + _check_also(document.get("also"), merged)


def _check_network(network: NetworkSpace, shape: tuple[int, ...]) -> list[str]:
    """Check what of a network is sampled, and the published one."""
    parameters, frozen = network.parameters, ("options",) if network.freeze == "all" else ()
    wrong = [
        f"{PREFIX}{key}: decides which weights there are, which a search opens once; give one value, or "
        "another network by a label"
        for key in (*OF_WEIGHTS, *frozen)
        if any(f"{name}.".startswith(f"{PREFIX}{key}.") for name in parameters)
    ]
    name = parameters.get(f"{PREFIX}name")
    others = [one for one in getattr(name, "choices", ()) if one not in nets.NETWORKS]
    if name is not None and (others or isinstance(name, Range)):
        wrong.append(f"{PREFIX}name: may be one of several of {', '.join(nets.NETWORKS)} only")
    for key, parameter in parameters.items():
        wrong += grid.problems(parameter, key)
    if not wrong:
        wrong += _check_conditions(parameters, network.settled, _unknown_of(network), "")
    if not wrong:
        attempt(wrong, nets.check, network.published, shape)
    return wrong + _check_grow(network)


def _check_grow(network: NetworkSpace) -> list[str]:
    """Check the numbers of nodes that the cells of a search have one after the other."""
    grow, nodes, where = network.grow, network.parameters.get(NODES), f"{PREFIX}grow={network.grow}"
    if grow is None:
        return []
    if network.name != genotype.CELLS or f"{PREFIX}name" in network.parameters:
        return [f"{where}: is of cells alone; set name=cells, or leave it out"]
    if nodes is None or nodes.when:
        return [f"{where}: needs `nodes` among the options, a range or choices of these, without a `when`"]
    wrong = [] if grow == sorted({*grow}) else [f"{where}: must ascend, such as [1, 2, 3, 5]"]
    outside = [str(number) for number in grow if grid.place(nodes, number) is None]
    if outside:
        wrong.append(f"{where}: {NODES} is never {' or '.join(outside)} here; change one of them")
    cell = attempt([], genotype.read, network.published.options)
    if cell is not None and len(cell.nodes) != min(grow):
        wrong.append(
            f"{where}: the default cell, which is tried first, has {_nodes(len(cell.nodes))} that its output "
            "needs; begin with as many"
        )
    return wrong


def _check_stages(network: NetworkSpace, budget: Mapping[Any, Any]) -> list[str]:
    trials = budget.get("trials", BudgetConfig.model_fields["trials"].default)
    if not network.grow or not isinstance(trials, int) or trials >= len(network.grow):
        return []
    where = f"{PREFIX}grow={network.grow}"
    return [f"{where}: has more stages than budget.trials={trials}; raise these, or leave some out"]


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def never_grown(network: NetworkSpace, cells: Iterable[Genotype | None], name: str) -> list[str]:
    """Say which published cells have another number of nodes than any that is proposed."""
    sizes = {len(cell.nodes) for cell in cells if cell is not None} - {*(network.grow or ())}
    return [
        f"{name}: `also` has a cell of {_nodes(size)}, which is none of grow={network.grow}; leave it out"
        for size in (sorted(sizes) if network.grow else ())
    ]


def _unknown_of(network: NetworkSpace) -> Problem:
    names = {**network.settled, **network.parameters}
    return lambda key, value, where: (
        None if key in names else f"{where}: unknown setting.{allowed(key, names)}"
    )


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


def _check_unit(dataset: data.Dataset, kind: str, budget: Mapping[Any, Any]) -> list[str]:
    if budget.get("unit") != "environment_steps" or kind == "control":
        return []
    return [
        f"budget.unit=environment_steps: {dataset.name} is data of {kind}, which nobody acts in; take "
        "tasks or seconds"
    ]


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
        defaults = {field.name: field.default for field in dataclasses.fields(kind)}
        problem = functools.partial(setting_problem, kind)
        wrong += _check_conditions(its, defaults, problem, f"algorithms.{name}.", field_types(kind))
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


def _check_conditions(
    parameters: Parameters, defaults: Parameters, problem: Problem, where: str, kinds: Mapping[str, type] = {}
) -> list[str]:
    """Check every `when`: names that there are, values that can occur, no circle.

    Args:
        where: what stands before a parameter's name in messages.
    """
    wrong: list[str] = []
    graph: dict[str, list[str]] = {}
    for name, parameter in parameters.items():
        graph[name] = list(wanted(parameter))
        for key, values in wanted(parameter).items():
            place = f"{where}{name}.when.{key}"
            refused = [line for value in values if (line := problem(key, value, place))]
            at = parameters.get(key, defaults.get(key))
            at = grid.typed(at, kinds[key]) if isinstance(at, Range) and key in kinds else at
            if not refused and isinstance(at, Range) and grid.count(at) == math.inf:
                advice = f"give {key} choices or a step, or leave the condition out"
                refused = [
                    f"{place}={parameter.when[key]!r}: {key} is a continuous range, which hardly ever has "
                    f"it; {advice}"
                ]
            elif not refused and all(grid.place(at, value) is None for value in values):
                refused = [f"{place}={parameter.when[key]!r}: {key} never has this value here"]
            wrong += refused
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        listed = ", ".join(sorted(set(error.args[1])))
        wrong.append(f"{where.strip('.') or 'network'}: these wait for each other in `when`: {listed}")
    return wrong
