"""Data sets that are made by code of a user's own: `module:package.module:make`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from metabench import data
from metabench.core import SPLITS, MetabenchError, Split, Splits, setting
from metabench.core.config import TaskConfig
from metabench.core.config.settings import KIND_NAMES
from metabench.core.control import Environment
from metabench.data import Dataset
from metabench.data.reading import saving, splits

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
    return problems
