"""What was typed, as configuration: values of the right type, and all that is wrong with them together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from metabench import algorithms, data, nets
from metabench.core import MetabenchError
from metabench.core.config import (
    AugmentConfig,
    NetworkConfig,
    RunConfig,
    TaskConfig,
    attempt,
    parse_pairs,
    parse_settings,
    validated,
)
from metabench.data.tasks import augment

REPORTS = 10
"""Of a run whose number of reports is neither typed nor recorded."""


def describe_task(name: str, split: str | None, pairs: Sequence[str], **shape: Any) -> TaskConfig:
    """Describe a task of a data set, by its name, its named split and its options."""
    options = parse_settings(data.get(name).options, pairs, "--option")
    return validated(
        TaskConfig, {"dataset": data.canonical(name), "split": split, "options": options, **shape}
    )


def describe_run(
    task: Mapping[str, Any],
    network: Mapping[str, Any],
    run: Mapping[str, Any],
    settings: Sequence[str],
    n_reports: int | None,
    recorded: RunConfig | None = None,
) -> RunConfig:
    """Build a run's configuration from what was typed; all problems are reported at once.

    Args:
        recorded: a run to take the rest from; of its data set's options and its algorithm's settings nothing,
            where another data set or algorithm was typed. Its reports come as they came, unless they or the
            tasks were typed.
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
    kind = dataset.kind if dataset else "classification"
    if dataset and algorithm and kind not in algorithm.kinds:
        wrong.append(algorithms.refusal(name, dataset.name, kind))
    values = recorded.hyperparameters if recorded is not None and name == recorded.algorithm else {}
    h = attempt(wrong, _build_settings, name, values, settings, kind) if algorithm else None
    net = attempt(wrong, _build_network, {**rest["network"], **network}, kind)
    if wrong:
        raise MetabenchError("\n".join(dict.fromkeys(wrong)))
    whole = {**run, "task": described, "network": net, "hyperparameters": dict(vars(h)), "rungs": []}
    config = validated(RunConfig, whole)
    rungs = _spaced(config.tasks, n_reports or REPORTS)
    if recorded is not None and n_reports is None and config.tasks == recorded.tasks:
        rungs = recorded.rungs
    return config.model_copy(update={"rungs": rungs})


def _build_network(described: Mapping[str, Any], kind: str) -> NetworkConfig:
    config = validated(NetworkConfig, described)
    nets.build(config, 1, data.SHAPES[kind])
    return config


def _build_settings(name: str, recorded: Mapping[str, Any], pairs: Sequence[str], kind: str) -> Any:
    typed = parse_settings(algorithms.get(name).hparams, pairs, "--set")
    h = algorithms.hparams(name, {**recorded, **typed})
    if problem := augment.problem(h, kind, data.SHAPES[kind]):
        raise MetabenchError(f"--set {problem}")
    return h


def _spaced(tasks: int, n_reports: int) -> list[int]:
    return sorted({max(1, tasks * step // n_reports) for step in range(1, n_reports + 1)})


def _describe_task(dataset: data.Dataset, rest: Mapping[str, Any], task: Mapping[str, Any]) -> TaskConfig:
    """Build the task that was typed, the rest being as it was recorded; all problems are reported at once."""
    wrong: list[str] = []
    if rest and task["dataset"] != rest["dataset"]:
        rest = {**rest, "split": None, "options": {}}
    options = attempt(wrong, parse_settings, dataset.options, task.get("options", ()), "--option")
    kinds = {key: field.annotation for key, field in AugmentConfig.model_fields.items()}
    far, unpaired = parse_pairs(kinds, task.get("augment", ()))
    wrong += [f"--distort {line}" for line in unpaired]
    nested = {"options": data.anchored(dataset.name, options or {}), "augment": far}
    merged = {key: {**rest.get(key, {}), **value} for key, value in nested.items()}
    described = attempt(wrong, validated, TaskConfig, {**rest, **task, **merged})
    if described:
        attempt(wrong, data.configure, described)
        wrong += data.task_problems(described, dataset.name, dataset.kind)
    if wrong or described is None:
        raise MetabenchError(re.sub(r"^augment\.", "--distort ", "\n".join(wrong), flags=re.MULTILINE))
    return described


def pick_device(name: str) -> torch.device:
    """Turn a device's name into a device that this machine has."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MetabenchError(f"--device {name}: not on this machine ({reason}); use cpu or auto") from None
    return device
