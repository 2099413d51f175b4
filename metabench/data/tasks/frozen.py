"""Indices into tasks: cutting out images, and the frozen tasks of meta-validation and meta-test.

Frozen tasks may be kept as a small file, so that others can prove that they tested on the very same ones.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from metabench import __version__
from metabench.core import (
    GroupedQuery,
    GroupedSupport,
    MetabenchError,
    Query,
    SemiSupport,
    Split,
    Splits,
    Support,
    Task,
    device,
    seeds,
)
from metabench.core.config import TaskConfig
from metabench.core.control import Start
from metabench.data.tasks import sampling
from metabench.data.tasks.sampling import Indices, Shape
from metabench.storage import files

FORMAT = 1
"""Raised when files of tasks are laid out otherwise."""

NAMES = {"distractor_examples": "distracting"}
"""Indices to their names in files, where these differ."""

Part = Literal["meta_validation", "meta_test"]
Pool = Literal["search", "confirm", "calibration", "test"]
Beside = Literal["unlabelled", "distractors"]


class Group(NamedTuple):
    """Tasks of one shape among frozen tasks."""

    shape: Shape
    positions: Tensor  # int64 [n], ascending, in the whole list
    indices: Indices


class FrozenTasks(NamedTuple):
    """A fixed list of tasks, the same in every process, with the hash that proves it."""

    groups: tuple[Group, ...]
    hash: str


def input_shape(splits: Splits) -> tuple[int, ...]:
    """Return the shape of one input of a data set: an image, features, a point, or an observation."""
    if splits.environment is not None:
        return (splits.environment.n_observed,)
    beside = splits.meta_train.n_columns + (splits.kind == "regression")
    shape = tuple(splits.meta_train.images.shape[2:])
    return (shape[0] - beside,) if beside else shape


def gather(images: Tensor, indices: Indices, shape: Shape) -> Task:
    """Cut T tasks out of a split's images, or out of its table of points; leaves have a leading [T]."""
    parts = sampling.tensors(indices).items()
    indices = Indices(**{name: device.to_device_async(index, images.device) for name, index in parts})
    classes, examples = indices.classes, indices.examples
    max_shots, n_query = shape.max_shots, shape.query
    if images.dim() == 2:
        parameters = images[classes[:, 0]].to(torch.get_default_dtype())
        start, judged = (Start(parameters, part) for part in examples[:, 0].split([max_shots, n_query], -1))
        return Task(cast(Support, start), cast(Query, judged), classes)
    labels = torch.arange(shape.way, device=images.device)
    if indices.shots is None:
        support = _cut(images, classes[:, :, None], examples[:, :, :max_shots]).flatten(1, 2)
        support_y = labels.repeat_interleave(max_shots).expand(len(classes), -1)
    else:
        support_y, place = _unbalanced(indices.shots, shape.way * shape.shot)
        flat = examples[:, :, :max_shots].flatten(1)
        support = _cut(images, classes.gather(1, support_y), flat.gather(1, support_y * max_shots + place))
    query_classes = classes if indices.query_classes is None else indices.query_classes
    query = _cut(images, query_classes[:, :, None], examples[:, :, max_shots : max_shots + n_query]).flatten(
        1, 2
    )
    if images.is_floating_point() and shape.is_function:
        return Task(
            Support(support[..., :-1], support[..., -1:]), Query(query[..., :-1], query[..., -1:]), classes
        )
    if shape.columns:
        return _labelled(support, query, labels.expand(len(classes), -1), shape.columns)
    query_y = labels.repeat_interleave(n_query).expand(len(classes), -1)
    labelled = Support(support, support_y)
    if indices.order is not None:
        beside = SemiSupport(support, support_y, _unlabelled(images, indices, shape))
        labelled = cast(Support, beside)  # what reads x and y alone takes either
    task = Task(labelled, Query(query, query_y), classes)
    return task if indices.labels is None else _relabelled(task, indices.labels, shape.outputs)


def _relabelled(task: Task, labels: Tensor, outputs: int) -> Task:
    """Give T tasks, whose labels are positions, fixed labels [T, N] of so many."""
    support: Any = task.support
    absent = torch.full((len(labels), outputs), -1, device=labels.device)
    return Task(
        support._replace(y=labels.gather(1, support.y)),
        task.query._replace(y=labels.gather(1, task.query.y)),
        absent.scatter(1, labels, task.classes),
    )


def _labelled(support: Tensor, query: Tensor, labels: Tensor, n_columns: int) -> Task:
    """Take T tasks of rows [T, n, D + columns] apart: inputs, labels, and groups where there are any."""
    kinds = (GroupedSupport, GroupedQuery) if n_columns > 1 else (Support, Query)
    halves: list[Any] = [
        kind(rows[..., :-n_columns], *rows[..., -n_columns:].long().unbind(-1))
        for kind, rows in zip(kinds, (support, query), strict=True)
    ]
    return Task(halves[0], halves[1], labels)


def _cut(images: Tensor, classes: Tensor, examples: Tensor) -> Tensor:
    # One flat index and one copy: picking by two indices, element by element, takes twice as long.
    rows = classes * images.shape[1] + examples
    drawn = images.flatten(0, 1).index_select(0, rows.flatten())
    if images.is_floating_point():
        drawn = drawn.to(torch.get_default_dtype())
    elif images.device.type == "cpu":
        # The same numbers as below, but numpy converts and divides in one pass over memory.
        scaled = torch.empty(drawn.shape)
        np.true_divide(drawn.numpy(), scaled.numpy().dtype.type(255), out=scaled.numpy())
        drawn = scaled
    else:
        drawn = drawn.to(torch.get_default_dtype()).div_(255)
    return drawn.view(*rows.shape, *images.shape[2:])


def _unbalanced(shots: Tensor, n_support: int) -> tuple[Tensor, Tensor]:
    """Return the label of each support example, class by class, and its place within its class: [T, N*K]."""
    ends = shots.cumsum(1)
    row = torch.arange(n_support, device=shots.device).expand(len(shots), -1).contiguous()
    labels = torch.searchsorted(ends, row, right=True)
    return labels, row - (ends - shots).gather(1, labels)


def _unlabelled(images: Tensor, indices: Indices, shape: Shape) -> Tensor:
    """Cut the unlabelled examples of the task's classes and the distractors, shuffled: [T, (N+D)*U, ...]."""
    distractors, distractor_examples, order = indices.distractors, indices.distractor_examples, indices.order
    assert distractors is not None, "or there are no unlabelled examples"
    assert distractor_examples is not None, "or there are no unlabelled examples"
    assert order is not None, "or there are no unlabelled examples"
    unlabelled = indices.examples[:, :, shape.max_shots + shape.query :]
    examples = torch.cat([unlabelled, distractor_examples], 1)  # [T, N+D, U]
    classes = torch.cat([indices.classes, distractors], 1)[:, :, None].expand_as(examples)
    classes, examples = (index.flatten(1).gather(1, order) for index in (classes, examples))
    return _cut(images, classes, examples)


def frozen(splits: Splits, split: Part, task: TaskConfig, n_tasks: int, pool: Pool) -> FrozenTasks:
    """Return the first tasks of a pool; task i does not depend on how many are asked for.

    Each task has a generator of its own, named by data set, split, kind of task, pool and position.
    """
    task = task.evaluated
    data: Split = getattr(splits, split)
    name = name_of(splits.name, split, data, task, pool)
    source = sampling.pool(data, task, task.test_query)
    by_shape: dict[Shape, list[tuple[int, Indices]]] = {}
    for index in range(n_tasks):
        generator = seeds.generator("frozen", *name, index)
        columns, outputs = data.n_columns, source.outputs
        ((shape, _),) = sampling.shapes(task, task.test_query, 1, generator, columns, outputs)
        by_shape.setdefault(shape, []).append((index, sampling.sample(generator, source, shape, 1)))
    return grouped(name, data, by_shape)


def grouped(
    name: tuple[object, ...], data: Split, by_shape: Mapping[Shape, list[tuple[int, Indices]]]
) -> FrozenTasks:
    """Put single tasks, with their positions in the whole list, together by their shapes."""
    groups = tuple(
        Group(shape, torch.tensor([index for index, _ in drawn]), sampling.join([one for _, one in drawn]))
        for shape, drawn in sorted(by_shape.items())
    )
    return FrozenTasks(groups, digest(name, data, groups))


def name_of(dataset: str, split: str, data: Split, task: TaskConfig, pool: str) -> tuple[object, ...]:
    """Name a pool of tasks by all that they are drawn from."""
    n_classes, n_examples = data.images.shape[:2]
    task = task.evaluated
    name = (dataset, split, n_classes, n_examples, str(task.way), str(task.shot), task.test_query, pool)
    special = {key: getattr(task, key) for key in ("most_shots", "unlabelled", "distractors", "domains")}
    usual = TaskConfig(dataset=task.dataset)
    changed = [f"{key}={value}" for key, value in special.items() if value != getattr(usual, key)]
    return (*name, *changed)


def digest(name: tuple[object, ...], data: Split, groups: tuple[Group, ...]) -> str:
    """Hash what tasks are drawn from, and which they are."""
    n_tasks = sum(len(group.positions) for group in groups)
    sha = hashlib.sha256("\x1f".join(map(str, (*name, n_tasks, *data.classes))).encode())
    drawn = [tensor for group in groups for tensor in sampling.tensors(group.indices).values()]
    if any(not torch.equal(group.positions, torch.arange(n_tasks)) for group in groups):
        drawn += [group.positions for group in groups]
    counts = () if data.counts is None else (data.counts,)
    shown = data.images if data.pictures is None else data.pictures
    for tensor in (*drawn, shown, *counts):
        sha.update(tensor.cpu().contiguous().numpy().data)  # no copy: images may not fit in memory
    return sha.hexdigest()


def classes_of(tasks: FrozenTasks) -> list[list[int]]:
    """List the classes that each task asks about, by their rows in the split, its queries' included."""
    rows: dict[int, list[int]] = {}
    for group in tasks.groups:
        classes = group.indices.classes
        if group.indices.query_classes is not None:
            classes = torch.cat([classes, group.indices.query_classes], 1)
        rows |= zip(group.positions.tolist(), classes.tolist(), strict=True)
    return [rows[position] for position in sorted(rows)]


class PicturesOf(NamedTuple):
    """Which pictures of a split each task shows, numbered class by class."""

    queries: NDArray[np.int64]  # [T, Q]; 0 where a task has fewer than the most
    support: list[NDArray[np.int64]]  # of each task, with or without a label
    classes: NDArray[np.int64]  # [P], of each picture of the split


def pictures_of(tasks: FrozenTasks, split: Split) -> PicturesOf:
    """Number the pictures of a split, and say which are support and which are queries in each task."""
    n_classes, most = split.images.shape[:2]
    counts = torch.full((n_classes,), most) if split.counts is None else split.counts
    first = counts.cumsum(0) - counts
    widest = max(group.shape.way * group.shape.query for group in tasks.groups)
    n_tasks = sum(len(group.positions) for group in tasks.groups)
    queries, support = np.zeros((n_tasks, widest), np.int64), [np.zeros(0, np.int64)] * n_tasks
    for group in tasks.groups:
        (classes, examples, shots), shape = group.indices[:3], group.shape
        asked = classes if group.indices.query_classes is None else group.indices.query_classes
        end = shape.max_shots + shape.query
        at = first[asked][:, :, None] + examples[:, :, shape.max_shots : end]
        queries[group.positions, : at[0].numel()] = at.flatten(1).numpy()
        is_shown = torch.ones_like(examples, dtype=torch.bool)
        is_shown[:, :, shape.max_shots : end] = False
        if shots is not None:
            is_shown[:, :, : shape.max_shots] = torch.arange(shape.max_shots) < shots[:, :, None]
        shown = first[classes][:, :, None] + examples
        for position, row, kept in zip(group.positions.tolist(), shown, is_shown, strict=True):
            support[position] = row[kept].numpy()
    return PicturesOf(queries, support, torch.arange(n_classes).repeat_interleave(counts).numpy())


def shuffled(tasks: FrozenTasks) -> FrozenTasks:
    """Return the same tasks with positions for labels, where these are fixed."""
    groups = [
        Group(shape._replace(outputs=0), positions, indices._replace(labels=None))
        for shape, positions, indices in tasks.groups
    ]
    return tasks._replace(groups=tuple(groups))


def between(tasks: FrozenTasks, start: int, stop: float = math.inf) -> FrozenTasks:
    """Return the tasks at positions [start, stop) of a list, under the hash of the whole."""
    groups = []
    for group in tasks.groups:
        chosen = (group.positions >= start) & (group.positions < stop)
        if chosen.any():
            groups.append(Group(group.shape, group.positions[chosen], sampling.part(group.indices, chosen)))
    return FrozenTasks(tuple(groups), tasks.hash)


def is_own(group: Group) -> Tensor:
    """Tell which unlabelled examples, as they are shown, are of their task's classes: bool [T, (N+D)*U]."""
    assert group.indices.order is not None, "or there are no unlabelled examples"
    return group.indices.order < group.shape.way * group.shape.unlabelled


def without(tasks: FrozenTasks, part: Beside) -> FrozenTasks:
    """Leave distractors, or all that is unlabelled, out of tasks that are else the very same."""
    return tasks._replace(groups=tuple(_without(group, part) for group in tasks.groups))


def _without(group: Group, part: Beside) -> Group:
    indices, shape = group.indices, group.shape._replace(distractors=0)
    if part == "unlabelled":
        rest: dict[str, Any] = dict.fromkeys(("distractors", "distractor_examples", "order"))
        examples = indices.examples[:, :, : shape.max_shots + shape.query]
        return group._replace(
            shape=shape._replace(unlabelled=0), indices=indices._replace(examples=examples, **rest)
        )
    named = sampling.tensors(indices)
    rest = {name: named[name][:, :0] for name in ("distractors", "distractor_examples")}
    order = named["order"][is_own(group)].view(len(group.positions), -1)
    return group._replace(shape=shape, indices=indices._replace(order=order, **rest))


def write(path: Path, splits: Splits, part: Part, task: TaskConfig, pool: str, tasks: FrozenTasks) -> None:
    """Write tasks into one safetensors file: their indices, what they index, and the hash."""
    tensors = {}
    for number, group in enumerate(tasks.groups):
        tensors[f"{number}.positions"] = group.positions.int()
        for name, index in sampling.tensors(group.indices).items():
            tensors[f"{number}.{NAMES.get(name, name)}"] = index.int().contiguous()
    record = {
        "format": FORMAT,
        "version": __version__,
        "data": splits.name,
        "fingerprint": splits.fingerprint,
        "part": part,
        "pool": pool,
        "task": task.model_dump(mode="json"),
        "shapes": [group.shape._asdict() for group in tasks.groups],
        "hash": tasks.hash,
    }
    files.write_bytes(path, save(tensors, metadata={"metabench": json.dumps(record, sort_keys=True)}))


def describe(path: Path) -> dict[str, Any]:
    """Read what a file says of its tasks."""
    return _open(path)[0]


def read(path: Path, splits: Splits, part: Part) -> FrozenTasks:
    """Read tasks of a part of a data set; refuse those that the hash does not fit.

    Only that part must be the data that they were drawn from: the others may be cut or drawn otherwise.
    """
    record, tensors = _open(path)
    if record["part"] != part:
        raise MetabenchError(f"{path}: holds tasks of {record['part']}, not of {part}; give a list of {part}")
    other = (
        f"{path}: was drawn from {record['data']} with fingerprint {record['fingerprint'][:12]}, here is "
        f"{splits.name} with {splits.fingerprint[:12]}, whose {part} differs; point METABENCH_DATA at "
        "those data"
    )
    is_other = record["fingerprint"] != splits.fingerprint
    data: Split = getattr(splits, part)
    try:
        groups = tuple(_group(number, shape, tensors, data) for number, shape in enumerate(record["shapes"]))
        task = TaskConfig.model_validate(record["task"])
        name = name_of(splits.name, part, data, task, record["pool"])
        actual = digest(name, data, groups)
    except (KeyError, TypeError, ValueError) as error:
        damage = f"{path}: does not hold what it says ({error}); get it again"
        raise MetabenchError(other if is_other else damage) from error
    if actual != record["hash"]:
        raise MetabenchError(
            other
            if is_other
            else f"{path}: its tasks hash to {actual[:12]}, and it says {str(record['hash'])[:12]}: it was "
            "changed or damaged; get it again"
        )
    return FrozenTasks(groups, actual)


def _open(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("metabench", "")
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
        record = json.loads(text)
        lacking = {"format", "data", "fingerprint", "part", "pool", "task", "shapes", "hash"} - {*record}
        if lacking:
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise MetabenchError(
            f"{path}: is no list of tasks ({error}); make one with `metabench datasets tasks`"
        ) from error
    if record["format"] != FORMAT:
        raise MetabenchError(f"{path}: has format {record['format']}; this version reads {FORMAT}")
    return record, tensors


def _group(number: int, shape: dict[str, int], tensors: dict[str, torch.Tensor], data: Split) -> Group:
    words = {name: word for word, name in NAMES.items()}
    named = {
        words.get(name, name): tensor.long()
        for prefix, _, name, tensor in ((*key.partition("."), tensor) for key, tensor in tensors.items())
        if prefix == str(number)
    }
    positions = named.pop("positions")
    indices = Indices(**named)
    n_classes, n_examples = data.images.shape[:2]
    n_examples = sampling.SEEDS if data.has_environments else n_examples
    limits = {
        **dict.fromkeys(("classes", "query_classes", "distractors"), n_classes),
        **dict.fromkeys(("examples", "distractor_examples"), n_examples),
    }
    for name, index in sampling.tensors(indices).items():
        limit = limits.get(name, torch.iinfo(torch.int32).max)
        if len(index) != len(positions) or (index.numel() and not 0 <= index.min() <= index.max() < limit):
            raise ValueError(f"{name} of group {number}")
    return Group(Shape(**shape), positions, indices)
