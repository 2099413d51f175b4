"""Looking at a data set before anything is trained on it: a drawn task, counts, and what is wrong with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import typer
from matplotlib.figure import Figure
from torch import Tensor

from metabench import data
from metabench.cli import flags
from metabench.core import MetabenchError, Split, Splits, Task, seeds
from metabench.core.config import TaskConfig, parse_settings
from metabench.data.tasks import files, frozen, sampling

PARTS = ("meta_train", "meta_validation", "meta_test")
FORMS = (".png", ".pdf", ".svg")
SHOWN = 10
"""Findings of one sort that are printed one by one."""


def show(
    name: str, split: str | None, pairs: Sequence[str], out: Path, way: int, shot: int, query: int, seed: int
) -> None:
    """Draw one meta-train task into a file, and print how many classes and examples each split has."""
    if out.suffix.lower() not in FORMS:
        raise MetabenchError(f"--out {out}: must end in one of {', '.join(FORMS)}")
    splits, part = _load(name, split, pairs), "meta_train"
    asked = flags.validated(TaskConfig, {"dataset": name, "way": way, "shot": shot, "query": query})
    wrong = data.task_problems(asked, splits.name, splits.kind)
    found: Split = getattr(splits, part)
    n_classes = len(found.images)
    smallest = min(_counts(found))
    if way > n_classes:
        wrong.append(f"way={way}: {part} of {splits.name} has only {n_classes} classes; lower --way")
    if wrong:
        raise MetabenchError("\n".join(wrong))
    if shot + query > smallest:
        raise MetabenchError(
            f"shot={shot} and query={query} need {shot + query} examples a class: {part} of {splits.name} "
            f"has a class of {smallest}; lower --shot or --query"
        )
    generator = seeds.generator("sheet", seed)
    shape = sampling.Shape(way, shot, query)
    indices = sampling.sample(generator, sampling.pool(found, asked), shape, 1)
    task = frozen.gather(found.images, indices, shape)
    chosen = [found.classes[row] for row in indices.classes[0].tolist()]
    figure = _points(task) if splits.kind == "regression" else _images(task, chosen, shot, query)
    figure.suptitle(f"{splits.name}, {part}, seed {seed}", fontsize=9)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150)
    except OSError as error:
        raise MetabenchError(f"--out {out}: {error.strerror or error}; take another file") from error
    for line in counted(splits):
        typer.echo(line)
    typer.echo(f"{out}: {way} classes, {shot} support and {query} query examples of each")


def tasks(
    name: str,
    split: str | None,
    pairs: Sequence[str],
    out: Path,
    part: frozen.Part,
    n_tasks: int,
    shape: Mapping[str, Any],
    as_json: bool,
) -> None:
    """Write frozen tasks, those of meta-test or of the confirmation, into a file that is not there yet."""
    if out.exists():
        raise MetabenchError(f"--out {out}: is there already; take another name, or remove it")
    options = parse_settings(data.get(name).options, pairs, "--option")
    described = {"dataset": name, "split": split, "options": options, **shape}
    task = flags.validated(TaskConfig, described)
    splits = data.load(task)
    data.check(task, splits, [part])
    pool: Literal["test", "confirm"] = "test" if part == "meta_test" else "confirm"
    drawn = frozen.frozen(splits, part, task, n_tasks, pool)
    files.write(out, splits, part, task, pool, drawn)
    told = {"file": str(out), "dataset": splits.name, "part": part, "tasks": n_tasks, "hash": drawn.hash}
    if as_json:
        typer.echo(json.dumps(told))
    else:
        typer.echo(f"{out}: {n_tasks} tasks of {part} of {splits.name}, hash {drawn.hash}")


def counted(splits: Splits) -> list[str]:
    """Say how many classes, examples and domains each split has."""
    lines = []
    for part in PARTS:
        found: Split = getattr(splits, part)
        counts = _counts(found)
        each = f"{counts[0]}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        shape = "x".join(map(str, found.images.shape[2:]))
        domains = len(set(found.domains))
        lines.append(f"{part}: {len(counts)} classes of {each} examples, {shape}, in {domains} domains")
    return lines


def check(name: str, split: str | None, pairs: Sequence[str], shot: int, query: int, as_json: bool) -> None:
    """Print what is wrong with a data set; exit with 1 where anything is."""
    splits = _load(name, split, pairs)
    found = {
        "in_two_splits": repeated(splits),
        "blank": blank(splits),
        "too_small": too_small(splits, shot + query),
    }
    if as_json:
        typer.echo(json.dumps({"dataset": splits.name, **found}, indent=1))
    else:
        titles = {
            "in_two_splits": "images in two splits",
            "blank": "images of one colour",
            "too_small": f"classes with fewer than {shot + query} examples (--shot {shot} --query {query})",
        }
        typer.echo("\n".join(counted(splits)))
        for key, findings in found.items():
            typer.echo(f"{titles[key]}: {len(findings)}")
            for finding in findings[:SHOWN]:
                typer.echo(f"  {finding}")
            if len(findings) > SHOWN:
                typer.echo(f"  and {len(findings) - SHOWN} more; --json lists all")
    if any(found.values()):
        raise typer.Exit(1)


def repeated(splits: Splits) -> list[str]:
    """Name the images whose bytes stand in two splits."""
    seen: dict[bytes, dict[str, str]] = {}
    for part in PARTS:
        for where, image in _each(getattr(splits, part), part):
            digest = hashlib.sha256(image.contiguous().numpy().data).digest()
            seen.setdefault(digest, {}).setdefault(part, where)
    return [" = ".join(places.values()) for places in seen.values() if len(places) > 1]


def blank(splits: Splits) -> list[str]:
    """Name the images all of whose pixels are the same."""
    if splits.kind == "regression":
        return []
    return [
        where
        for part in PARTS
        for where, image in _each(getattr(splits, part), part)
        if image.min() == image.max()
    ]


def too_small(splits: Splits, n_needed: int) -> list[str]:
    """Name the classes with fewer examples than a task needs."""
    return [
        f"{part} {name}: {count} examples, needs {n_needed}"
        for part in PARTS
        for found in [getattr(splits, part)]
        for name, count in zip(found.classes, _counts(found), strict=True)
        if count < n_needed
    ]


def _load(name: str, split: str | None, pairs: Sequence[str]) -> Splits:
    options = parse_settings(data.get(name).options, pairs, "--option")
    return data.load(TaskConfig(dataset=name, split=split, options=options))


def _counts(split: Split) -> list[int]:
    n_classes, n_examples = split.images.shape[:2]
    return [n_examples] * n_classes if split.counts is None else split.counts.tolist()


def _each(split: Split, part: str) -> Iterator[tuple[str, Tensor]]:
    for name, images, count in zip(split.classes, split.images, _counts(split), strict=True):
        for number, image in enumerate(images[:count]):
            yield f"{part} {name}, example {number}", image


def _images(task: Task, names: list[str], shot: int, query: int) -> Figure:
    """Draw a class a row: its support, a gap, its query."""
    rows, columns = len(names), shot + 1 + query
    figure = Figure(figsize=(0.7 * columns + 2.5, 0.75 * rows + 0.8))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    parts = (("support", task.support.x[0], shot, 0), ("query", task.query.x[0], query, shot + 1))
    for title, x, n_examples, left in parts:
        axes[0, left].set_title(title, fontsize=8, loc="left")
        for row in range(rows):
            for column in range(n_examples):
                image = x[row * n_examples + column].permute(1, 2, 0)
                grey: dict[str, Any] = {"cmap": "gray"} if image.shape[-1] == 1 else {}
                axes[row, left + column].imshow(image.numpy(), vmin=0, vmax=1, **grey)
    for row, name in enumerate(names):
        text = name if len(name) <= 28 else f"...{name[-25:]}"
        axes[row, 0].text(
            -0.15, 0.5, text, transform=axes[row, 0].transAxes, fontsize=7, ha="right", va="center"
        )
    figure.subplots_adjust(left=2.2 / figure.get_figwidth(), right=0.99, bottom=0.02)
    return figure


def _points(task: Task) -> Figure:
    figure = Figure(figsize=(5, 4))
    axis = figure.subplots()
    for title, part in (("support", task.support), ("query", task.query)):
        axis.scatter(part.x[0, :, 0].numpy(), part.y[0, :, 0].numpy(), label=title, s=20)
    axis.legend()
    return figure
