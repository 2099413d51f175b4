"""A run as a user asks for it, as configuration: defaults filled in, all that is wrong in one message.

Lines about a setting of the algorithm begin with `hyperparameters.`, of the data set with `options.`, and
about distortions with `augment.`: whoever asks writes them as they were written there.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from metabench import algorithms, data, nets
from metabench.core import MetabenchError
from metabench.core.config import (
    AugmentConfig,
    NetworkConfig,
    RunConfig,
    TaskConfig,
    attempt,
    setting_problem,
    validated,
)
from metabench.data.tasks import augment

REPORTS = 10
"""Of a run whose number of reports is neither asked for nor recorded."""


@contextlib.contextmanager
def named() -> Iterator[None]:
    """Write lines about settings as they are called in Python."""
    try:
        yield
    except MetabenchError as error:
        plain = re.sub(r"^hyperparameters\.", "", str(error), flags=re.MULTILINE)
        raise MetabenchError(re.sub(r"^augment\b", "distort", plain, flags=re.MULTILINE)) from None


def describe_run(
    task: Mapping[str, Any],
    network: Mapping[str, Any],
    run: Mapping[str, Any],
    settings: Mapping[str, Any],
    n_reports: int | None = None,
    recorded: RunConfig | None = None,
) -> RunConfig:
    """Build a run's configuration from what was asked for; all problems are reported at once.

    Args:
        recorded: a run to take the rest from, but no options for another data set nor settings for another
            algorithm; its reports come as they came, unless they or the tasks are asked for.
    """
    # A default is left to the model: from a file, 15 would be 15.0, and the configuration's hash another.
    before = {} if recorded is None else recorded.model_dump(exclude_defaults=True)
    rest = {"task": {}, "network": {}, **before}
    run, task = {**rest, **run}, {"dataset": rest["task"].get("dataset"), **task}
    name = run["algorithm"] = algorithms.canonical(run.get("algorithm") or "")
    task["dataset"] = data.canonical(task["dataset"] or "")
    missing = [key for key, value in {"algorithm": name, "dataset": task["dataset"]}.items() if not value]
    wrong = [f"`{key}`: missing; name one, or give the `config` of a run" for key in missing]
    algorithm = attempt(wrong, algorithms.get, name) if name else None
    dataset = attempt(wrong, data.get, task["dataset"]) if task["dataset"] else None
    described = attempt(wrong, _describe_task, dataset, rest["task"], task) if dataset else None
    options = described.options if described else task.get("options", {})
    kind, shape = data.outline(dataset, options)
    if dataset and algorithm:
        wrong += algorithms.refusals(name, dataset.name, data.kinds(dataset, options))
    values = recorded.hyperparameters if recorded is not None and name == recorded.algorithm else {}
    h = attempt(wrong, _build_settings, name, values, settings, kind, shape, described) if algorithm else None
    net = attempt(wrong, _build_network, {**rest["network"], **network}, shape)
    wrong += [f"reports={n_reports}: must be >= 1"] if n_reports is not None and n_reports < 1 else []
    if wrong:
        raise MetabenchError("\n".join(dict.fromkeys(wrong)))
    whole = {**run, "task": described, "network": net, "hyperparameters": dict(vars(h)), "rungs": []}
    config = validated(RunConfig, whole)
    is_as_before = recorded is not None and n_reports is None and config.tasks == recorded.tasks
    rungs = recorded.rungs if recorded and is_as_before else _spaced(config.tasks, n_reports or REPORTS)
    return config.model_copy(update={"rungs": rungs})


def _build_network(described: Mapping[str, Any], shape: tuple[int, ...]) -> NetworkConfig:
    config = validated(NetworkConfig, nets.anchored(described))
    nets.check(config, shape)
    return config


def _build_settings(
    name: str,
    recorded: Mapping[str, Any],
    settings: Mapping[str, Any],
    kind: str,
    shape: tuple[int, ...],
    task: TaskConfig | None,
) -> Any:
    _check(algorithms.get(name).hparams, settings, "hyperparameters")
    h = algorithms.hparams(name, {**recorded, **settings})
    problem = augment.problem(h, kind, shape, task.augment if task else AugmentConfig())
    if problem := problem or algorithms.search_problem(h, kind):
        raise MetabenchError(f"hyperparameters.{problem}")
    if task and (wrong := algorithms.unlabelled_problems(name, h, task)):
        raise MetabenchError("\n".join(f"algorithm {name!r}: {line}" for line in wrong))
    return h


def _check(kinds: type, values: Mapping[str, Any], where: str) -> None:
    """Refuse what does not fit a dataclass of settings."""
    wrong = [problem for name, value in values.items() if (problem := setting_problem(kinds, name, value))]
    if wrong:
        raise MetabenchError("\n".join(f"{where}.{line}" for line in wrong))


def _spaced(tasks: int, n_reports: int) -> list[int]:
    return sorted({max(1, tasks * step // n_reports) for step in range(1, n_reports + 1)})


def _describe_task(dataset: data.Dataset, rest: Mapping[str, Any], task: Mapping[str, Any]) -> TaskConfig:
    """Build the task that is asked for, the rest being as it was recorded; all problems come at once."""
    wrong: list[str] = []
    if rest and task["dataset"] != rest["dataset"]:
        rest = {**rest, "split": None, "options": {}}
    options = attempt(wrong, anchored, dataset, task.get("options", {})) or {}
    nested = {"options": options, "augment": task.get("augment", {})}
    merged = {key: {**rest.get(key, {}), **value} for key, value in nested.items()}
    described = attempt(wrong, validated, TaskConfig, {**rest, **task, **merged})
    if described:
        attempt(wrong, data.configure, described)
        wrong += data.task_problems(described, dataset.name, data.outline(dataset, described.options)[0])
    if wrong or described is None:
        raise MetabenchError("\n".join(wrong))
    return described


def anchored(dataset: data.Dataset, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a data set with paths that lead there from anywhere, or refuse them."""
    _check(dataset.options, options, "options")
    return data.anchored(dataset.name, options)
