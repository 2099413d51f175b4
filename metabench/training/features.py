"""Frozen backbones: pictures pass one once, and learners see the features that come out of it."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabench import data
from metabench.core import SPLITS, Features, MetabenchError, Split, Splits, device, seeds
from metabench.core.config import NetworkConfig, TaskConfig, field_types, setting_problem
from metabench.data.reading import cache
from metabench.data.reading.cache import Array
from metabench.nets.backbones import Backbone, open_backbone
from metabench.nets.torch_modules import origin

BATCH = 8
"""Pictures that pass a backbone at once: more are no faster on a CPU, whose cache they would leave."""

EVERY = 10.0
"""Seconds between lines that say how far it is."""

VERSION = 1
"""Raised when the same pictures give other features."""

Say = Callable[[str], None]


class Embedder(nn.Module):
    """A backbone with all that comes before it: pictures [n, C, H, W] in [0, 1] to features [n, D]."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        # A copy, as `to` moves a module itself, and a process shares what it has opened.
        self.backbone = copy.deepcopy(backbone.module)
        self.size, self.features = backbone.size, backbone.features
        self.register_buffer("mean", torch.tensor(backbone.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(backbone.std)[:, None, None])

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the features of pictures; grey ones are shown as three colours alike."""
        _, channels, height, width = pictures.shape
        if channels == 1:
            pictures = pictures.expand(-1, 3, -1, -1)
        if (height, width) != (self.size, self.size):
            is_smaller = min(height, width) > self.size
            size = (self.size, self.size)
            pictures = F.interpolate(pictures, size, mode="bilinear", antialias=is_smaller)
        return self.backbone((pictures - self.mean) / self.std)


def load(task: TaskConfig, network: NetworkConfig, say: Say = lambda line: None) -> Splits:
    """Load the splits of a task as a network takes them: pictures, or features of a frozen backbone."""
    return embedded(data.load(task), task, network, say)


def embedded(
    splits: Splits, task: TaskConfig, network: NetworkConfig, say: Say = lambda line: None
) -> Splits:
    """Let features of a frozen backbone take the place of pictures; a machine computes them once.

    Their tasks, their fingerprint and the hashes of their tasks are those of the pictures.
    """
    if network.freeze != "all":
        return splits
    if (
        splits.pictures is None
        and splits.meta_train.images.is_floating_point()
        and splits.meta_train.has_pictures
    ):
        n_bands = splits.meta_train.images.shape[2]
        raise MetabenchError(
            f"network.freeze=all: images of {splits.name} have {n_bands} bands, and the backbone takes "
            "colours; leave it out, and take conv4"
        )
    if splits.kind != "classification" or not splits.meta_train.has_pictures:
        raise MetabenchError(
            f"network.freeze=all: {splits.name} holds no pictures for a backbone; leave it out, and take the "
            "network mlp"
        )
    backbone, device = backbone_of(network), "cuda" if torch.cuda.is_available() else "cpu"
    embedder = Embedder(backbone).to(device)
    # The digest, which travels, says what is computed; these are of the code and the machine that compute.
    made_by = (_checksum(embedder), torch.__version__, device)
    source = _at_size(splits, task, backbone.size)
    parts = {}
    for part in SPLITS:
        before, pictures = getattr(splits, part), getattr(source, part)
        key = (VERSION, source.fingerprint, backbone.digest, backbone.size, part, *made_by)
        table = cache.cached("features", key, _maker(pictures, embedder, f"{splits.name} {part}", say))
        parts[part] = before._replace(images=torch.from_numpy(table), pictures=before.images)
    shape = tuple(source.meta_train.images.shape[2:])
    return splits._replace(**parts, features=Features(shape, backbone.digest))


def source(network: NetworkConfig) -> str | None:
    """Return what features of a network depend on beside the pictures; None where it takes pictures."""
    if network.freeze != "all":
        return None
    heads = ("hidden", "width", "norm", "groups", "batch_norm")
    usual = NetworkConfig()
    return network.model_copy(update={key: getattr(usual, key) for key in heads}).model_dump_json()


@lru_cache(maxsize=2)
def _opened(described: str, maker: Any, stamp: Any) -> Backbone:
    """Open a backbone; the last arguments tell apart what goes by one name."""
    return open_backbone(NetworkConfig.model_validate_json(described))


def backbone_of(network: NetworkConfig) -> Backbone:
    """Open a backbone, once a process until its weights or its maker change."""
    return _opened(source(network) or network.model_dump_json(), *origin(network))


def _at_size(splits: Splits, task: TaskConfig, size: int) -> Splits:
    """Load pictures as large and in as many colours as a backbone takes them, where the data set can."""
    dataset = data.get(task.dataset)
    if not dataset.is_resizable:
        return splits
    if problem := setting_problem(dataset.options, "size", size, "network.image_size"):
        raise MetabenchError(f"{problem}; {dataset.name} makes no larger pictures")
    options = field_types(dataset.options)
    wanted = {key: value for key, value in {"size": size, "channels": 3}.items() if key in options}
    larger = data.load(task.model_copy(update={"options": {**task.options, **wanted}}))
    for part in SPLITS:
        a, b = getattr(splits, part), getattr(larger, part)
        assert a.classes == b.classes, "or features would be of other classes than the tasks"
        assert a.images.shape[:2] == b.images.shape[:2], "or of other examples"
    return larger


def _checksum(embedder: Embedder) -> str:
    """Hash the features of one fixed picture: they change where a module's code does, and no weight."""
    picture = torch.rand(1, 3, embedder.size, embedder.size, generator=seeds.generator("picture"))
    with device.one_thread(), torch.no_grad():  # sums of several threads differ in their last bits
        made = embedder(picture.to(embedder.mean.device)).cpu().numpy()
    return hashlib.sha256(made.tobytes()).hexdigest()


def _maker(split: Split, embedder: Embedder, name: str, say: Say) -> Callable[[], Array]:
    """Return what embeds all pictures of a split, some at once: float32 [class, example, D]."""
    n_classes, n_examples = split.images.shape[:2]
    counts = torch.full((n_classes,), n_examples) if split.counts is None else split.counts
    places = (torch.arange(n_examples) < counts[:, None]).nonzero()
    device = embedder.mean.device

    def embed(rows: Tensor) -> Array:
        with torch.no_grad():
            pictures = split.images[rows[:, 0], rows[:, 1]].to(device).float() / 255
            return embedder(pictures).cpu().numpy()

    def make() -> Array:
        table = np.zeros((n_classes, n_examples, embedder.features), np.float32)
        batches = places.split(BATCH)
        # Threads with a part of the pictures each are faster than all threads on one.
        n_threads = torch.get_num_threads() if device.type == "cpu" else 1
        last = time.monotonic()
        with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for done, (rows, features) in enumerate(zip(batches, pool.map(embed, batches), strict=True), 1):
                table[rows[:, 0], rows[:, 1]] = features
                if time.monotonic() - last > EVERY:
                    last = time.monotonic()
                    passed = f"{min(done * BATCH, len(places)):,} of {len(places):,} pictures"
                    say(f"{name}: {passed} have passed the backbone, once on this machine")
        return table

    return make
