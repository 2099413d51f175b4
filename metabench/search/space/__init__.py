"""Search spaces: read a YAML file, check it against the algorithms' settings, and turn it into runs.

Also the JSON schema, from which editors complete and check the YAML.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metabench import algorithms, data, nets
from metabench.core import MetabenchError
from metabench.core.config import (
    OF_CELL,
    PREFIX,
    BudgetConfig,
    Choices,
    NetworkConfig,
    NetworkSpace,
    Range,
    RunConfig,
    SearchSpace,
    allowed,
    attempt,
    field_types,
    genotype,
    in_order,
    of_algorithm,
    refusal,
    validated,
    wanted,
)
from metabench.core.config import is_active as is_active
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
        wrong += rules.never_grown(its.network, map(its.cell, its.published), algorithm)
        for sampled in [*its.published, *its.ends()]:
            h = attempt(wrong, its.build, sampled)
            if h is not None:
                problem = augment.problem(h, kind, shape, space.task.augment)
                problem = problem or algorithms.search_problem(h, kind)
                lines = [problem] if problem else algorithms.unlabelled_problems(algorithm, h, space.task)
                wrong += [f"{algorithm}: {line}" for line in lines]
    wrong = [f"algorithms.{line}" for line in wrong]
    for label in dict.fromkeys(algorithm.partition(".")[2] for algorithm in space.algorithms):
        wrong += _network_problems(space, label, shape)
    return [*dict.fromkeys(wrong)]


def _network_problems(space: SearchSpace, label: str, shape: tuple[int, ...] | None) -> list[str]:
    """List what is wrong with the networks of a label's rows, under the place where these stand."""
    wrong: list[str] = []
    rows = [algorithm for algorithm in space.algorithms if algorithm.partition(".")[2] == label]
    for network in _described(space, rows, wrong):
        attempt(wrong, nets.check, network, shape)
    place = f"networks.{label}." if label in space.networks else PREFIX
    return [f"{place}{one.removeprefix(PREFIX)}" if one.startswith(PREFIX) else one for one in wrong]


def networks(space: SearchSpace) -> list[NetworkConfig]:
    """List the networks of a space that differ: the published ones, and with one setting at its ends."""
    wrong: list[str] = []
    described = _described(space, space.algorithms, wrong)
    if wrong:
        raise MetabenchError("\n".join(dict.fromkeys(wrong)))
    return described


def _described(space: SearchSpace, rows: Iterable[str], wrong: list[str]) -> list[NetworkConfig]:
    """List those of some rows that can be described, and note what is wrong with others."""
    described: dict[str, NetworkConfig] = {}
    for algorithm in rows:
        its = of(space, algorithm)
        for sampled in [*its.published, *its.ends()] if its.network.parameters else its.published[:1]:
            if (network := attempt(wrong, its.build_network, sampled)) is not None:
                described[network.model_dump_json()] = network
    return [*described.values()]


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
    network: NetworkSpace
    parameters: Mapping[
        str, Any
    ]  # shared, its own, which overrule, its network's; each after those its `when` names
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

    def ends(self) -> list[dict[str, Any]]:
        """Return the published setting with one value changed: to each end of a range, to each choice.

        What its `when` asks for is changed, too.
        """
        return [
            _published(self, {**self._asked_by(name), name: value})
            for name, one in self.sampled.items()
            for value in ((one.low, one.high) if isinstance(one, Range) else one.choices)
        ]

    def _asked_by(self, name: str) -> dict[str, Any]:
        asked: dict[str, Any] = {}
        for key, values in wanted(self.parameters[name]).items():
            if key in self.sampled:
                here = (one for one in values if grid.place(self.parameters[key], one) is not None)
                asked |= {**self._asked_by(key), key: next(here, values[0])}
        return asked

    def sample(self, value: Callable[[str, Range | Choices], Any]) -> dict[str, Any]:
        """Ask for the value of each parameter whose `when` holds among the values before it."""
        values, sampled = dict(self.defaults), {}
        for name, parameter in self.sampled.items():
            if is_active(parameter, values):
                values[name] = sampled[name] = value(name, parameter)
        return sampled

    def build(self, sampled: Mapping[str, Any]) -> Any:
        """Build the algorithm's settings; a parameter whose `when` fails keeps the algorithm's default."""
        return algorithms.hparams(self.algorithm, of_algorithm(self._settle(sampled)))

    def build_network(self, sampled: Mapping[str, Any]) -> NetworkConfig:
        """Describe the network of a setting, or say what is wrong with it."""
        return validated(NetworkConfig, self.network.document(self._settle(sampled)), PREFIX)

    def resolve(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        """Return every setting by name, each checked: what the journal keeps.

        Of the network those that this space samples are among them. Whether they go together is not asked.
        """
        values = self._settle(sampled)
        of_network = {name: values[name] for name in self.network.parameters if name in values}
        return {**vars(algorithms.filled(self.algorithm, of_algorithm(values))), **of_network}

    def _settle(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.defaults, **self.sample(lambda name, parameter: sampled[name])}

    def recognise(self, hyperparameters: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what is sampled of a recorded setting; None where this space does not have it."""
        settings = vars(algorithms.hparams(self.algorithm, {}))
        recorded = {**settings, **self.network.settled, **hyperparameters}
        sampled = self.sample(lambda name, parameter: recorded.get(name))
        is_here = all(grid.place(self.parameters[name], value) is not None for name, value in sampled.items())
        return sampled if is_here and {**self.defaults, **sampled} == recorded else None

    def cell(self, sampled: Mapping[str, Any]) -> genotype.Genotype | None:
        """Return the cell that a setting's network repeats; None of another, and where all have the same."""
        values = {**self.defaults, **sampled}
        if values[f"{PREFIX}name"] == genotype.CELLS and self.network.parameters:
            with contextlib.suppress(MetabenchError):  # of which it is said why it cannot be built
                return genotype.read(self.network.document(values).get("options", {}))
        return None

    def place(self, sampled: Mapping[str, Any]) -> Hashable:
        """Say where a setting stands: two are the same where this is, so are all that make one cell."""
        cell = self.cell(sampled)
        if cell is None:
            return self._places(sampled)
        others = {name: one for name, one in sampled.items() if not name.startswith(OF_CELL)}
        return (OF_CELL, str(cell)), *self._places(others)

    def _places(self, named: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        return tuple((name, grid.place(self.parameters[name], value)) for name, value in named.items())

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
    network = space.network_of(algorithm)
    merged = {**shared, **space.algorithms[algorithm], **network.parameters}
    parameters = {name: grid.typed(merged[name], kinds.get(name)) for name in in_order(merged)}
    constants = {name: one for name, one in parameters.items() if not isinstance(one, Range | Choices)}
    defaults = {**vars(algorithms.hparams(algorithm, {})), **constants, **network.settled}
    n_settings, unreachable = _count(parameters, defaults)
    n_trials = int(min(space.budget.trials, n_settings))
    result = AlgorithmSpace(algorithm, network, parameters, defaults, (), n_settings, unreachable, n_trials)
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
        named_by = [value for other in sampled.values() for value in wanted(other).get(name, [])]
        named = {p: value for value in named_by if (p := grid.place(parameter, value)) is not None}
        others = grid.count(parameter) - len(named)
        active = {
            key: is_active(parameter, {**defaults, **dict(zip(keys, key, strict=True))}) for key in counts
        }
        unreachable += [] if any(active.values()) else [name]
        following: dict[tuple[Any, ...], float] = {}
        for key, n_settings in counts.items():
            branches = [(value, 1.0) for value in named.values()] + [(_OTHER, others)] * (others > 0)
            for value, n_values in branches if active[key] else [(defaults.get(name), 1)]:
                longer = (*key, value) if named else key
                following[longer] = following.get(longer, 0) + n_settings * n_values
        keys += [name] if named else []
        counts = following
    return sum(counts.values()), unreachable


def next_rung(budget: BudgetConfig, seen: int) -> int:
    """Return the tasks seen at the end of a trial's next leg."""
    return next((rung for rung in rungs(budget) if rung > seen), budget.tasks)


def _published(space: AlgorithmSpace, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the published values, but for some changes, of what is sampled then."""
    return space.sample(lambda name, parameter: changes.get(name, parameter.default))


def run_config(
    space: SearchSpace, algorithm: str, hyperparameters: Mapping[str, Any], seed: int, rungs: Sequence[int]
) -> RunConfig:
    """Describe one run of the space in full."""
    return RunConfig(
        algorithm=algorithm,
        hyperparameters={**vars(algorithms.hparams(algorithm, {})), **of_algorithm(hyperparameters)},
        task=space.task,
        network=validated(NetworkConfig, space.network_of(algorithm).document(hyperparameters), PREFIX),
        tasks=space.budget.tasks,
        rungs=list(rungs),
        validation_tasks=space.budget.validation_tasks,
        seed=seed,
    )


def schema() -> dict[str, Any]:
    """Build the JSON schema of a search space with the names and settings that exist."""
    result = SearchSpace.model_json_schema()
    result = {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}
    definitions = result["$defs"]
    definitions["TaskConfig"]["properties"]["dataset"] |= {
        "anyOf": [{"enum": data.names()}, {"pattern": f"^{data.MODULE}"}, {"type": "object"}]
    }
    names = [{"enum": [*sorted(nets.NETWORKS), MODULE]}, {"pattern": "^(torchvision|timm)/"}]
    definitions["NetworkSpace"]["properties"]["name"]["anyOf"] = names
    definitions["NetworkSpace"]["properties"] |= _of_network(definitions["NetworkSpace"]["properties"])
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


def _of_network(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Allow ranges and choices where a network's settings may be such."""
    sampled = [{"$ref": "#/$defs/Range"}, {"$ref": "#/$defs/Choices"}]
    result = {}
    for key, described in properties.items():
        if key == "options":
            values = {"anyOf": [*sampled, described["additionalProperties"]]}
            result[key] = {**described, "additionalProperties": values}
        elif key not in rules.OF_WEIGHTS:
            about = {name: described[name] for name in ("description", "default") if name in described}
            result[key] = {
                **about,
                "anyOf": [*sampled, {k: v for k, v in described.items() if k not in about}],
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
