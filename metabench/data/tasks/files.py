"""Frozen tasks as a small file, so that others can prove that they tested on the very same tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from metabench import __version__
from metabench.core import MetabenchError, Split, Splits
from metabench.core.config import TaskConfig
from metabench.data.tasks import frozen, sampling
from metabench.data.tasks.frozen import FrozenTasks, Group, Part
from metabench.data.tasks.sampling import Indices, Shape
from metabench.storage import files

FORMAT = 1
"""Raised when files are laid out otherwise."""

NAMES = {"distractor_examples": "distracting"}
"""Indices to their names in files, where these differ."""


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
    """Read tasks of a part of a data set; refuse those of other data, or that the hash does not fit."""
    record, tensors = _open(path)
    if record["part"] != part:
        raise MetabenchError(f"{path}: holds tasks of {record['part']}, not of {part}; give a list of {part}")
    if record["fingerprint"] != splits.fingerprint:
        raise MetabenchError(
            f"{path}: was drawn from {record['data']} with fingerprint {record['fingerprint'][:12]}, here is "
            f"{splits.name} with {splits.fingerprint[:12]}; point METABENCH_DATA at those data"
        )
    data: Split = getattr(splits, part)
    try:
        groups = tuple(_group(number, shape, tensors, data) for number, shape in enumerate(record["shapes"]))
        task = TaskConfig.model_validate(record["task"])
        name = frozen.name_of(splits.name, part, data, task, record["pool"])
        digest = frozen.digest(name, data, groups)
    except (KeyError, TypeError, ValueError) as error:
        raise MetabenchError(f"{path}: does not hold what it says ({error}); get it again") from error
    if digest != record["hash"]:
        raise MetabenchError(
            f"{path}: its tasks hash to {digest[:12]}, and it says {str(record['hash'])[:12]}: it was "
            "changed or damaged; get it again"
        )
    return FrozenTasks(groups, digest)


def _open(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("metabench", "")
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
        record = json.loads(text)
    except (OSError, SafetensorError, ValueError) as error:
        raise MetabenchError(
            f"{path}: is no list of tasks ({error}); make one with `metabench datasets tasks`"
        ) from error
    keys = {"format", "data", "fingerprint", "part", "pool", "task", "shapes", "hash"}
    if not isinstance(record, dict) or not keys <= record.keys():
        raise MetabenchError(f"{path}: is no list of tasks; make one with `metabench datasets tasks`")
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
    limits = {
        **dict.fromkeys(("classes", "query_classes", "distractors"), n_classes),
        **dict.fromkeys(("examples", "distractor_examples"), n_examples),
    }
    for name, index in sampling.tensors(indices).items():
        limit = limits.get(name, torch.iinfo(torch.int32).max)
        if len(index) != len(positions) or (index.numel() and not 0 <= index.min() <= index.max() < limit):
            raise ValueError(f"{name} of group {number}")
    return Group(Shape(**shape), positions, indices)
