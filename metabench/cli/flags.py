"""What was typed, as configuration: values of the right type, and all that is wrong with them together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from metabench import algorithms, data, nets
from metabench.core import MetabenchError
from metabench.core.config import (
    AugmentConfig,
    NetworkConfig,
    RunConfig,
    TaskConfig,
    parse_settings,
    parse_value,
    problems,
)
from metabench.data.tasks import augment


def describe_run(
    algorithm: str,
    task: Mapping[str, Any],
    options: Sequence[str],
    distortion: Sequence[str],
    network: Mapping[str, Any],
    run: Mapping[str, Any],
    settings: Sequence[str],
    n_reports: int,
) -> RunConfig:
    """Build a run's configuration from what was typed; all problems are reported at once."""
    wrong: list[str] = []
    found = attempt(wrong, algorithms.get, algorithm)
    values = found and attempt(wrong, parse_settings, found.hparams, settings, "--set")
    dataset = attempt(wrong, data.get, task["dataset"])
    chosen = dataset and attempt(wrong, parse_settings, dataset.options, options, "--option")
    counts = {key: parse_count(task[key]) for key in ("way", "shot")}
    far = attempt(wrong, parse_distortion, distortion)
    described = attempt(
        wrong, validated, TaskConfig, {**task, **counts, "options": chosen or {}, "augment": far or {}}
    )
    kind = dataset.kind if dataset else "classification"
    if dataset and described:
        attempt(wrong, data.configure, described)
        problems_found = data.task_problems(described, dataset.name, kind)
        wrong += [f"--{problem.replace('_', '-', 1)}" for problem in problems_found]
    if dataset and found and kind not in found.kinds:
        wrong.append(algorithms.refusal(algorithm, dataset.name, kind))
    if found and values is not None:
        h = attempt(wrong, algorithms.hparams, algorithm, values)
        problem = h and augment.problem(h, kind, data.SHAPES[kind])
        wrong += [f"--set {problem}"] if problem else []
    net = attempt(wrong, validated, NetworkConfig, network)
    if net:
        attempt(wrong, nets.build, net, 1, data.SHAPES[kind])
    if wrong:
        raise MetabenchError("\n".join(dict.fromkeys(wrong)))
    rungs = {max(1, run["tasks"] * step // n_reports) for step in range(1, n_reports + 1)}
    return RunConfig(
        algorithm=algorithm,
        hyperparameters=dataclasses.asdict(algorithms.hparams(algorithm, values)),
        task=described,
        network=net,
        rungs=sorted(rungs),
        **run,
    )


def attempt(wrong: list[str], function: Callable[..., Any], *args: Any) -> Any:
    """Call a function; add the lines of a MetabenchError to a list and return None."""
    try:
        return function(*args)
    except MetabenchError as error:
        wrong += str(error).splitlines()
        return None


def validated(model: type[BaseModel], values: Mapping[str, Any]) -> Any:
    """Build a model from flags, naming what is wrong as flags."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        parts = [line.partition("=") for line in problems(error, model)]
        raise MetabenchError(
            "\n".join(f"--{key.replace('_', '-')}{sep}{rest}" for key, sep, rest in parts)
        ) from None


def parse_count(text: str) -> Any:
    """Read a number, or a range LOW-HIGH; anything else stays as it is, for the check to refuse."""
    low, _, high = text.partition("-")
    if low.isdecimal() and high.isdecimal():
        return {"low": int(low), "high": int(high)}
    return int(text) if text.isdecimal() else text


def parse_distortion(pairs: Sequence[str]) -> AugmentConfig:
    """Read key=value pairs as how far images are distorted; all problems are reported at once."""
    kinds = {key: field.annotation for key, field in AugmentConfig.model_fields.items()}
    values: dict[str, Any] = {}
    wrong = []
    for pair in pairs:
        key, sep, text = pair.partition("=")
        if not sep:
            wrong.append(f"--distort {pair}: must be key=value")
            continue
        kind = kinds.get(key)
        values[key] = parse_value(text, kind) if kind in (bool, float) else text
    try:
        found = AugmentConfig.model_validate(values)
    except ValidationError as error:
        wrong += [f"--distort {line}" for line in problems(error, AugmentConfig)]
    if wrong:
        raise MetabenchError("\n".join(wrong))
    return found


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
