"""Data sets that are made by code of a user's own: `module:package.module:make`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from metabench import data
from metabench.core import SPLITS, MetabenchError, Split, Splits, setting
from metabench.core.config import TaskConfig, allowed, attempt
from metabench.core.config.settings import KIND_NAMES
from metabench.core.control import BASELINES, SURROGATES, Environment, stepped
from metabench.data import Dataset
from metabench.data.reading import saving, splits

SIZES = {"horizon": 1, "n_observed": 1, "n_actions": 1, "n_start": 0, "n_world": 0}
"""Fields of an environment that are whole numbers, to the least that they may be."""

NEEDED = "<needed>"
"""Stands for an option that has no default."""


def of(spec: str, make: Callable[..., Any], origin: str = "") -> Dataset:
    """Describe the data set that a function makes: its options are the function's arguments.

    Args:
        spec: what names it.
        origin: the package that it comes from.
    """
    about = (inspect.getdoc(make) or f"made by {spec}").splitlines()[0]
    kind = getattr(make, "kind", "classification")

    def load(root: Path | None, split: str, options: Any) -> Splits:
        return _load(spec, make, kind, options)

    return Dataset(
        name=spec,
        summary=about,
        size="as it makes them",
        licence="its own",
        url="",
        citation=origin,
        splits=("own",),
        options=_options(spec, make),
        load=load,
        kind_of=lambda options: kind,
    )


def _options(spec: str, make: Callable[..., Any]) -> type:
    """Return a dataclass of a function's arguments."""
    try:
        arguments = inspect.signature(make, eval_str=True).parameters.values()
    except (TypeError, ValueError, NameError) as error:
        raise MetabenchError(f"dataset={spec!r}: its arguments cannot be read: {error}") from None
    fields: list[tuple[str, Any, Any]] = []
    for one in arguments:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            continue
        is_needed = one.default is one.empty
        kind = one.annotation if one.annotation in KIND_NAMES else type(one.default)
        if kind not in KIND_NAMES:
            if is_needed:
                kind = str
            else:
                continue  # of a type that no file of settings has: it keeps its default
        default = NEEDED if is_needed else one.default
        most = 2**63 - 1 if kind is int else None
        fields.append((one.name, kind, setting(default, f"argument of {spec}", maximum=most)))
    return dataclasses.make_dataclass("Options", fields, frozen=True)


def _load(spec: str, make: Callable[..., Any], kind: str, options: Any) -> Splits:
    values = dataclasses.asdict(options)
    if needed := [name for name, value in values.items() if value == NEEDED]:
        raise MetabenchError(f"dataset={spec!r}: needs the options {', '.join(needed)}")
    try:
        made = make(**values)
    except MetabenchError:
        raise
    except Exception as error:  # whatever somebody's code raises
        raise MetabenchError(f"dataset={spec!r}: raised {type(error).__name__}: {error}") from error
    if not isinstance(made, Splits):
        if isinstance(made, str) or not hasattr(made, "__getitem__"):
            what = "metabench.core.Splits, a dataset of pairs (picture, label), or a dict of three"
            raise MetabenchError(f"dataset={spec!r}: gave {type(made).__name__}; must give {what}")
        saved = saving.from_dataset(made)
        task = TaskConfig(dataset=saved["name"], options=saved["options"])
        made = data.load(task)
    problems = _problems(made)
    if made.kind != kind:
        problems.append(
            f"is {made.kind}, and its attribute `kind` says {kind}; set make.kind = {made.kind!r}"
        )
    if problems:
        splits.refuse(f"dataset={spec!r}", problems)
    parts = {part: getattr(made, part) for part in SPLITS}
    name = f"{data.file_name(spec)}/own"
    about = {key: getattr(made, key) for key in ("kind", "pictures", "rows", "environment")}
    return splits.make_splits(name, **parts, **about)


def _problems(made: Splits) -> list[str]:
    """Say what in splits of somebody's is not as `metabench.core.Split` has it."""
    problems = [] if made.kind in data.KINDS else [f"kind={made.kind!r}; must be {' or '.join(data.KINDS)}"]
    if (made.kind == "control") != isinstance(made.environment, Environment):
        problems.append(
            "environment: must be a metabench.core.control.Environment, of control and nothing else"
        )
    shapes = set()
    for part in SPLITS:
        one = getattr(made, part)
        if not isinstance(one, Split) or not isinstance(one.images, torch.Tensor):
            problems.append(f"{part}: must be a metabench.core.Split whose images are a tensor")
            continue
        n_axes, kind = one.images.dim(), one.images.dtype
        forms = "uint8 [class, example, C, H, W], or float32 [class, example, D]"
        allowed = [(5, torch.uint8), (3, torch.float32)]
        if made.kind == "control":
            forms, allowed = "float32 [environment, D]", [(2, torch.float32)]
        if (n_axes, kind) not in allowed:
            problems.append(f"{part}: images are {kind} {list(one.images.shape)}; must be {forms}")
        elif n_axes < 5 and not bool(one.images.isfinite().all()):
            problems.append(f"{part}: images hold NaN or infinity")
        if len({len(one.images), len(one.classes), len(one.domains)}) > 1:
            counts = f"{len(one.images)} rows, {len(one.classes)} classes and {len(one.domains)} domains"
            problems.append(f"{part}: has {counts}; must be one a class")
        shapes.add(tuple(one.images.shape[2:]))
    if len(shapes) > 1:
        problems.append(f"inputs of the splits differ: {', '.join(map(str, sorted(shapes)))}")
    if not problems:
        problems += splits.class_problems(
            {part: [*getattr(made, part).classes] for part in SPLITS}, "add some"
        )
    if not problems and made.environment is not None:
        problems += _environment_problems(made.environment, made.meta_train.images[0])
    return problems


def _environment_problems(environment: Environment, parameters: Tensor) -> list[str]:
    """Say what in an environment of somebody's is not as `Environment` has it."""
    values = environment._asdict()
    wrong = [
        f"{name}={values[name]!r}; must be a whole number of at least {least}"
        for name, least in SIZES.items()
        if not isinstance(values[name], int) or values[name] < least
    ]
    wrong += [
        f"{name}={values[name]!r}; must be a number from 0 to 1"
        for name in ("gamma", "gae")
        if not isinstance(values[name], int | float) or not 0 <= values[name] <= 1
    ]
    wrong += [
        f"{name}={values[name]!r}: unknown.{allowed(str(values[name]), names)}"
        for name, names in {"baseline": BASELINES, "surrogate": tuple(SURROGATES)}.items()
        if values[name] not in names
    ]
    if not wrong:
        attempt(wrong, _play, environment, parameters)
    return [f"environment: {line}" for line in wrong]


def _play(environment: Environment, parameters: Tensor) -> None:
    """Take a step in two trajectories, as learners do; refuse what does not fit."""
    n = environment.n_actions
    start, world = (
        parameters.new_full((2, size), 0.5) for size in (environment.n_start, environment.n_world)
    )
    action = torch.tensor([0, n - 1]) if environment.is_discrete else parameters.new_zeros(2, n)
    state = _called("reset", environment.reset, parameters, chance=start)
    _observed(environment, parameters, state)
    now = {"state": state, "action": action, "chance": world}
    state, _, _ = _called("step", partial(stepped, environment), parameters, **now)
    _observed(environment, parameters, state)
    if (best := environment.best) is not None:
        worth = _called("best", lambda _, row: best(row), parameters, row=parameters.expand(2, -1))
        if worth.shape != (2,):
            raise MetabenchError(f"best returned {_form(worth)}; [] is needed, the return of one environment")


def _observed(environment: Environment, parameters: Tensor, state: Any) -> None:
    x = _called("observe", environment.observe, parameters, state=state)
    here, needed = _form(x), f"float32 [{environment.n_observed}]"
    if here != needed:
        raise MetabenchError(
            f"observe returned {here} of a state {_form(state)}; n_observed={environment.n_observed} needs "
            f"{needed}"
        )


def _called(name: str, function: Callable[..., Any], parameters: Tensor, **now: Any) -> Any:
    try:
        return vmap(partial(function, parameters))(*now.values())
    except MetabenchError as error:
        raise MetabenchError(str(error).removeprefix("environment: ")) from None
    except Exception as error:  # whatever somebody's code raises
        said = (str(error).splitlines() or [""])[0]
        forms = ", ".join(f"{key} {_form(one)}" for key, one in now.items())
        raise MetabenchError(
            f"{name} raised {type(error).__name__}: {said}; it is called under torch.func.vmap, with "
            f"parameters {_form(parameters[None])}, {forms}, and must take these"
        ) from error


def _form(batch: Any) -> str:
    """Say the type and shape of what there is of one trajectory."""
    if not isinstance(batch, Tensor):
        return type(batch).__name__
    return f"{str(batch.dtype).removeprefix('torch.')} {list(batch.shape[1:])}"
