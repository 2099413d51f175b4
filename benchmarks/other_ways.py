"""How torchmeta and learn2learn draw a task, written anew from what they document, for `episodes.py` to time.

Pillow and torch's own data loading do what torchvision does for them.
"""

from __future__ import annotations

import functools
import importlib.util
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler, Subset, default_collate

Drawings = Sequence[Sequence[Any]]
"""The drawings of each character, decoded: Pillow's input or finished tensors."""

TURNS = (0, 90, 180, 270)


def to_tensor(image: Image.Image) -> Tensor:
    """Make a float tensor of a grey Pillow image, [1, H, W] in [0, 1]."""
    return torch.from_numpy(np.array(image, copy=True))[None].to(torch.float32).div(255)


# torchmeta's way


class Character(Dataset):
    """The drawings of one class; each is transformed as it is asked for."""

    def __init__(self, images: Sequence[Any], label: int, turn: int, transform: Callable[..., Any]) -> None:
        self.images, self.label, self.turn, self.transform = images, label, turn, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index], self.turn), self.label


def resized(pixels: np.ndarray, turn: int) -> Tensor:
    """Do what torchmeta's Omniglot does with one image: turn, Resize(28), ToTensor."""
    image = Image.fromarray(pixels)
    if turn:
        image = image.rotate(turn)
    return to_tensor(image.resize((28, 28), Image.Resampling.BILINEAR))


class Combinations(Dataset):
    """Tasks by the tuple of their classes: joined data sets, split into support and query."""

    def __init__(self, drawings: Drawings, transform: Callable[..., Any], shot: int, query: int) -> None:
        self.drawings, self.transform, self.sizes = drawings, transform, (shot, query)
        self.rng = np.random.RandomState(0)

    def __len__(self) -> int:
        return len(self.drawings) * len(TURNS)

    def __getitem__(self, chosen: tuple[int, ...]) -> list[Subset]:
        n = len(self.drawings)
        classes = [
            Character(self.drawings[one % n], label, TURNS[one // n], self.transform)
            for label, one in enumerate(chosen)
        ]
        task = ConcatDataset(classes)
        parts: tuple[list[int], list[int]] = ([], [])
        start = 0
        for one in classes:
            order = self.rng.permutation(len(one))
            first = 0
            for part, size in zip(parts, self.sizes, strict=True):
                part.extend(int(position) + start for position in order[first : first + size])
                first += size
            start += len(one)
        return [Subset(task, part) for part in parts]


class RandomClasses(Sampler):
    """Tuples of distinct classes, without end."""

    def __init__(self, n_classes: int, way: int) -> None:
        self.n_classes, self.way = n_classes, way

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        while True:
            yield tuple(random.sample(range(self.n_classes), self.way))


def collate_tasks(tasks: list[list[Subset]]) -> Any:
    """Collate the images of each part of each task, then the tasks."""
    return default_collate(
        [[default_collate([part[i] for i in range(len(part))]) for part in task] for task in tasks]
    )


def torchmeta_way(
    drawings: Drawings, transform: Callable[..., Any], way: int, shot: int, query: int, n_tasks: int
) -> Callable[[], Any]:
    """Return a call that draws a batch of tasks: [support, query], each [x, y] with a leading [T]."""
    tasks = Combinations(drawings, transform, shot, query)
    sampler = RandomClasses(len(tasks), way)
    batches = iter(DataLoader(tasks, batch_size=n_tasks, sampler=sampler, collate_fn=collate_tasks))
    return lambda: next(batches)


def in_hdf5(path: Path, drawings: Drawings) -> Drawings | None:
    """Keep drawings as torchmeta does, a data set a character in one file; None without h5py."""
    if importlib.util.find_spec("h5py") is None:
        return None
    import h5py

    with h5py.File(path, "w") as file:
        for number, row in enumerate(drawings):
            file.create_dataset(str(number), data=np.stack(row))
    opened = h5py.File(path, "r")
    return [opened[str(number)] for number in range(len(drawings))]


# learn2learn's way


def opened(path: Path) -> Tensor:
    """Do what learn2learn's Omniglot does with one image: open, Resize(28, LANCZOS), ToTensor, 1 - x."""
    with Image.open(path) as image:
        return 1 - to_tensor(image.convert("L").resize((28, 28), Image.Resampling.LANCZOS))


def learn2learn_way(
    items: Sequence[Any],
    labels: Sequence[int],
    load: Callable[[Any], Tensor],
    way: int,
    shot: int,
    query: int,
) -> Callable[[], Any]:
    """Return a call that draws one task: ((x, y) of the support, (x, y) of the query)."""
    rows: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    names = list(rows)

    def draw() -> Any:
        ways = random.sample(names, k=way)
        described: list[tuple[int, list[Callable[..., Any]]]] = [
            (row, []) for one in ways for row in random.sample(rows[one], k=shot + query)
        ]
        for _, transforms in described:
            transforms.append(lambda row: (load(items[row]), labels[row]))
        order = list({labels[row] for row, _ in described})
        random.shuffle(order)
        for _, transforms in described:
            transforms.append(functools.partial(remap, order))
        described.sort(key=lambda pair: labels[pair[0]])
        drawn = []
        for row, transforms in described:
            item: Any = row
            for transform in transforms:
                item = transform(item)
            drawn.append(item)
        x, y = default_collate(drawn)
        is_support = torch.zeros(len(y), dtype=torch.bool)
        for position in range(shot):
            is_support[torch.arange(way) * (shot + query) + position] = True
        return (x[is_support], y[is_support]), (x[~is_support], y[~is_support])

    return draw


def remap(order: list[int], item: tuple[Tensor, int]) -> tuple[Tensor, int]:
    """Give a label its position in the task."""
    return item[0], order.index(item[1])
