"""Single tasks as people look at them: images, labels, and what a learner takes each query for."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from metabench.core import Split, Task
from metabench.data.tasks import frozen
from metabench.data.tasks.frozen import FrozenTasks
from metabench.storage.tensorboard import Events
from metabench.training import diagnostics, vectorise
from metabench.training.vectorise import Model

SHOWN = 2
"""Tasks that TensorBoard shows."""

LEGEND = (
    "A class a row: its support images, framed in grey, then queries, in blue where the prediction is right "
    "and in orange where it is wrong. Steps are inner steps; the tasks are of meta-validation."
)

SIDE = 64
"""Pixels of an image in a mosaic, about: small ones are enlarged by whole factors."""

FRAME = 3
GAP = 2 * FRAME
SHOTS = 5
"""Support images of a class in a mosaic, at most."""

QUERIES = 9
"""Queries of a class in a mosaic, at most."""

BACKGROUND, SUPPORT, RIGHT, WRONG = (235, 235, 235), (150, 150, 150), (0, 114, 178), (230, 159, 0)
"""Colours that people who confuse red and green can tell apart (Okabe and Ito 2008)."""


class Episode(NamedTuple):
    """One task and what a learner predicts of its queries."""

    support: Tensor  # [n, ...]
    support_y: Tensor
    query: Tensor  # [n, ...]
    query_y: Tensor
    guess: Tensor  # [n]: a label, from the number of classes on of a class that the task lacks; or a value
    classes: tuple[str, ...]


def predict(model: Model, split: Split, tasks: FrozenTasks) -> Iterator[Episode]:
    """Adapt to frozen tasks of a split, and predict all their queries."""

    def outputs(model: Model, task: Task) -> Tensor:
        algorithm, net, meta, buffers, h = model
        learner = algorithm.adapt(net, meta, buffers, task.support, h)
        return algorithm.predict(net, learner, task.query.x)

    for group in tasks.groups:
        block = frozen.gather(split.images, group.indices, group.shape)
        sized = model._replace(net=vectorise.for_tasks(model.net, block))
        predicted = vectorise.per_task_of(sized, outputs, block).cpu()
        shown = block if split.pictures is None else frozen.gather(split.pictures, group.indices, group.shape)
        (x, y), (query, query_y) = (
            [leaf.cpu() for leaf in part[:2]] for part in (shown.support, shown.query)
        )
        for index, outputs_of_one in enumerate(predicted):
            is_value = query_y.is_floating_point()
            guess = outputs_of_one.flatten() if is_value else outputs_of_one.argmax(-1)
            chosen = tuple(split.classes[row] for row in group.indices.classes[index].tolist())
            one = Episode(x[index], y[index], query[index], query_y[index], guess, chosen)
            labels = group.indices.labels
            yield one if labels is None else _by_position(one, labels[index])


def _by_position(one: Episode, labels: Tensor) -> Episode:
    """Let labels that are fixed be positions, as they are where labels are shuffled."""
    n_labels = int(torch.cat([one.guess, labels]).max()) + 1
    position = torch.full((n_labels,), len(labels)).scatter(0, labels, torch.arange(len(labels)))
    named: dict[str, Any] = {name: position[getattr(one, name)] for name in ("support_y", "query_y", "guess")}
    return one._replace(**named)


def show(events: Events, model: Model, split: Split, tasks: FrozenTasks) -> None:
    """Show the first tasks in TensorBoard, with what is predicted after 0, 1, ... inner steps."""
    few = frozen.between(tasks, 0, SHOWN)
    for step, changed in diagnostics.over_steps(model).items():
        for number, one in enumerate(predict(changed, split, few), start=1):
            pixels = mosaic(one)
            height, width, _ = pixels.shape
            events.image(step, f"episode/{number}", png(pixels), width, height, LEGEND)


def mosaic(one: Episode, shots: int = SHOTS, queries: int = QUERIES) -> NDArray[np.uint8]:
    """Lay out a classification task, a class a row: support, a gap, queries framed by right and wrong."""
    hits = one.guess == one.query_y
    most = min(shots, int(torch.bincount(one.support_y).max()))
    empty = [np.full_like(_framed(one.query[0], BACKGROUND), 235)]
    rows = []
    for shown, places in by_class(one, shots, queries):
        support = [_framed(image, SUPPORT) for image in shown]
        query = [_framed(one.query[place], RIGHT if hits[place] else WRONG) for place in places]
        rows.append(np.concatenate([*support, *empty * (most - len(support) + 1), *query], 1))
    return np.concatenate(rows, 0)


def by_class(one: Episode, n_support: int, n_query: int) -> Iterator[tuple[Tensor, list[int]]]:
    """Yield what is shown of each class, at most so much: its support images, and which queries are its."""
    for label in range(len(one.classes)):
        queries = (one.query_y == label).nonzero().flatten()[:n_query]
        yield one.support[one.support_y == label][:n_support], queries.tolist()


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode colours, [height, width, 3]."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def colours(image: Tensor) -> NDArray[np.uint8]:
    """Turn an image [channels, height, width] in [0, 1] into colours, [height, width, 3].

    Of bands, which are standardised, the first three are shown, two deviations to either side.
    """
    if image.shape[0] not in (1, 3):
        image = image[:3] / 4 + 0.5
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels if pixels.shape[-1] == 3 else pixels[..., :1].repeat(3, -1)


def _framed(image: Tensor, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return an image with a frame and a gap around."""
    pixels = colours(image)
    factor = max(1, SIDE // max(pixels.shape[:2]))
    picture = Image.fromarray(pixels.repeat(factor, 0).repeat(factor, 1))
    framed = ImageOps.expand(ImageOps.expand(picture, FRAME, colour), GAP // 2, BACKGROUND)
    return np.asarray(framed)
