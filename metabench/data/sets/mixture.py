"""Mixture: several data sets as domains, to meta-train on some and meta-test on others."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metabench import data
from metabench.core import SPLITS, MetabenchError, Pictures, Split, Splits, setting
from metabench.core.config import TaskConfig, attempt, parse_settings
from metabench.data import Dataset
from metabench.data.reading.splits import make_splits, refuse

NAME = "mixture"

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""

BLOCK = 1000
"""Images that are resized at once."""

TERM = re.compile(
    r"(?:(?P<weight>[^*?]+)\*)?\s*(?P<name>[^/?*\s]+)(?:/(?P<split>[^?\s]+))?(?:\?(?P<options>\S+))?"
)
FORM = "WEIGHT*NAME/SPLIT?OPTION=VALUE&..., joined by ' + '; all but NAME may be left out"


@dataclass(frozen=True)
class Options:
    """Which data sets, with what weights, and how their images are made alike."""

    of: str = setting("", f"data sets to meta-train on: {FORM}")
    validate_on: str = setting("", "data sets of meta-validation; those of meta-train, if empty")
    test_on: str = setting("", "data sets of meta-test; those of meta-train, if empty")
    size: int = setting(28, "side in pixels that images are resized to", minimum=1, maximum=1024)
    channels: int = setting(1, "3 for colour, 1 for grey", choices=(1, 3))


class Source(NamedTuple):
    """One data set of a mixture."""

    task: TaskConfig
    weight: float


def by_part(options: Options) -> dict[str, list[Source]]:
    """Read the data sets of each split; all that is wrong is told at once."""
    if not options.of.strip():
        raise MetabenchError(f"{NAME}: of is not set; give the option of: {FORM}")
    texts = {"of": options.of, "validate_on": options.validate_on, "test_on": options.test_on}
    wrong: list[str] = []
    lists = {option: _read(text, option, wrong) for option, text in texts.items() if text.strip()}
    if wrong:
        refuse(NAME, wrong)
    return {part: lists.get(option, lists["of"]) for part, option in zip(SPLITS, texts, strict=True)}


def _read(text: str, option: str, wrong: list[str]) -> list[Source]:
    """Read data sets with their weights, and add what is wrong to a list."""
    sources, names = [], set()
    for term in re.split(r"\s+\+\s+", text.strip()):
        match = TERM.fullmatch(term.strip())
        if not match:
            wrong.append(f"{option}={term!r}: must be {FORM}")
            continue
        problems: list[str] = []
        name = data.canonical(match["name"])
        try:
            weight = float(match["weight"] or 1)
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf"):
            problems.append(f"weight {match['weight']!r}: must be a number > 0")
        task = attempt(problems, _task, name, match["split"], match["options"] or "")
        wrong += [f"{option}={term!r}: {problem}" for problem in problems]
        if name in names:
            wrong.append(f"{option}: {name} stands twice; give it once, with a weight")
        names.add(name)
        if task:
            sources.append(Source(task, weight))
    return sources


def _task(name: str, split: str | None, pairs: str) -> TaskConfig:
    """Read a data set with its split and its options, key=value&..., and check that it can be mixed."""
    if name == NAME:
        raise MetabenchError("a mixture cannot hold a mixture")
    dataset = data.get(name)
    options = parse_settings(dataset.options, pairs.split("&") if pairs else [], "option")
    task = TaskConfig(dataset=name, split=split, options=options)
    data.configure(task)
    if data.outline(dataset, options)[1] == (1,):
        raise MetabenchError("holds no pictures; a mixture is of images")
    return task


def anchor(options: Mapping[str, Any], find: Callable[[str], str]) -> dict[str, Any]:
    """Return options whose data sets have paths that lead to the same place from anywhere."""

    def place(match: re.Match[str]) -> str:
        path = find(match[2])
        return match[0] if re.search(r"[\s&]", path) else f"{match[1]}={path}"

    texts = {key: text for key, text in options.items() if isinstance(text, str)}
    return {
        **options,
        **{key: re.sub(r"(?<=[?&])(path|list)=([^&\s]+)", place, text) for key, text in texts.items()},
    }


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Load every data set of the mixture, make the images alike, and keep test classes out of training."""
    loaded: dict[str, Splits] = {}
    parts = {}
    for part, sources in by_part(options).items():
        splits = []
        for source in sources:
            key = source.task.model_dump_json()
            loaded[key] = loaded.get(key) or data.load(source.task, root)
            splits.append((source, getattr(loaded[key], part)))
        parts[part] = _join(splits, options)
    leaked = leaks(parts)
    if leaked:
        refuse(NAME, leaked)
    # A picture can only become an input where all data sets would have it dark or light alike.
    every = [one.pictures and one.pictures._replace(resize=Pictures().resize) for one in loaded.values()]
    pictures = every[0] if len(set(every)) == 1 else None
    return make_splits(f"{NAME}/{split}", **parts, pictures=pictures)


def _join(parts: Sequence[tuple[Source, Split]], options: Options) -> Split:
    """Put classes of several data sets one after another; a data set is as likely as its weight says."""
    most = max(part.images.shape[1] for _, part in parts)
    images, counts, weights = [], [], []
    classes: list[str] = []
    domains: list[str] = []
    for source, part in parts:
        if part.images.is_floating_point():
            raise MetabenchError(f"{NAME}: {source.task.dataset} holds bands; a mixture is of pictures")
        n_classes, n_examples = part.images.shape[:2]
        alike = resized(part.images, options.size, options.channels)
        images.append(F.pad(alike, (0, 0) * 3 + (0, most - n_examples)))
        counts.append(torch.full((n_classes,), n_examples) if part.counts is None else part.counts)
        inside = torch.ones(n_classes) if part.weights is None else part.weights
        weights.append(source.weight * inside / inside.sum())
        classes += [f"{source.task.dataset}/{name}" for name in part.classes]
        domains += [source.task.dataset] * n_classes
    sizes, chances = torch.cat(counts), torch.cat(weights)
    is_full, is_even = bool((sizes == most).all()), len(parts) == 1 and parts[0][1].weights is None
    return Split(
        torch.cat(images),
        tuple(classes),
        tuple(domains),
        None if is_full else sizes,
        None if is_even else chances / chances.sum(),
    )


def resized(images: Tensor, size: int, channels: int) -> Tensor:
    """Make uint8 [class, example, C, H, W] grey or colour, and resize it with antialiasing."""
    n_classes, n_examples, has, height, width = images.shape
    if (has, height, width) == (channels, size, size):
        return images
    alike = torch.empty(n_classes * n_examples, channels, size, size, dtype=torch.uint8)
    flat = images.flatten(0, 1)
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK].float()
        if has == 3 and channels == 1:
            block = (block * torch.tensor(GREY)[:, None, None]).sum(1, keepdim=True)
        if (height, width) != (size, size):
            block = F.interpolate(block, (size, size), mode="bilinear", antialias=True)
        alike[start : start + BLOCK] = block.round().clamp(0, 255).to(torch.uint8)
    return alike.unflatten(0, (n_classes, n_examples))


def leaks(parts: dict[str, Split]) -> list[str]:
    """Say which class is in two splits, as where two splits of one data set are cut differently.

    A class `a/b/90` is a turned `a/b`, so either in training keeps both out of meta-test.
    """
    homes = {name: part for part, split in reversed(parts.items()) for name in split.classes}
    wrong = []
    for part, split in parts.items():
        for name in split.classes:
            words = name.split("/")
            whole = ["/".join(words[:n]) for n in range(2, len(words) + 1)]
            other = next((one for one in whole if homes.get(one, part) != part), None)
            if other is not None:
                wrong.append(
                    f"class {name!r} of {part} is in {homes[other]} too; take one split of its data set"
                )
    return wrong


def list_sources(root: Path | None, split: str, options: Options) -> list[Path]:
    """List what the data sets of the mixture are read from."""
    tasks = [source.task for sources in by_part(options).values() for source in sources]
    return list(dict.fromkeys(path for task in tasks for path in data.sources(task, root)))


DATASET = Dataset(
    name=NAME,
    summary="several data sets as domains, with weights; meta-validation and meta-test may be on others",
    size="as its data sets, size x size",
    licence="those of its data sets",
    url="",
    citation="those of its data sets",
    splits=("joined",),
    options=Options,
    is_resizable=True,
    load=load,
    sources=list_sources,
    anchor=anchor,
)
