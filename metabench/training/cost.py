"""What one picture costs a learner that has adapted: seconds, products, and the numbers kept for it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from metabench.core import Features, device, trees
from metabench.core.config import NetworkConfig
from metabench.data.tasks import frozen, sampling
from metabench.nets import layers
from metabench.training import features, vectorise
from metabench.training.vectorise import Model

TIMES = 7
"""How often a picture is predicted; the median counts."""


def of(
    model: Model, network: NetworkConfig, made_of: Features | None, images: Tensor, tasks: frozen.FrozenTasks
) -> dict[str, Any]:
    """Time the prediction of one picture; count its multiply-adds and parameters, with a frozen backbone's.

    The seconds are those of one thread, on a CPU of its own time alone: as many in a worker of a search as in
    a process that has the machine to itself, whatever else runs there.

    Args:
        made_of: what the images, where they are features, were made of.
    """
    algorithm, _, meta, buffers, h = model
    group = tasks.groups[0]
    drawn = frozen.gather(images, sampling.part(group.indices, slice(0, 1)), group.shape)
    net = vectorise.for_tasks(model.net, drawn)
    if net.environment is not None:
        drawn = vectorise.per_task_of(model, lambda model, task: task, drawn)
    leaves, form = trees.flatten(drawn.support)
    support = trees.unflatten([leaf[0] for leaf in leaves], form)
    query, n_parameters = drawn.query.x[0, :1], sum(leaf.numel() for leaf in trees.leaves(meta))
    vectorise.prepare(images.device)
    clock = time.thread_time if images.device.type == "cpu" else time.perf_counter
    with torch.no_grad(), device.one_thread():
        learner = algorithm.adapt(net, meta, buffers, support, h)
        seconds = median(lambda: algorithm.predict(net, learner, query), clock)
        products = multiply_adds(lambda: algorithm.predict(net, learner, query), images.device)
        if made_of is not None:
            backbone = features.backbone_of(network)
            embedder = features.Embedder(backbone).to(images.device)
            picture = torch.zeros(1, *made_of.picture_shape, device=images.device)
            seconds += median(lambda: embedder(picture), clock)
            products += multiply_adds(lambda: embedder(picture), images.device)
            n_parameters += sum(weight.numel() for weight in backbone.module.parameters())
    return {"picture_seconds": seconds, "network_parameters": n_parameters, "multiply_adds": products}


def multiply_adds(function: Callable[[], Tensor], device: torch.device) -> int:
    """Count the multiply-adds of a call's convolutions and products of matrices."""
    with FlopCounterMode(display=False) as counter, layers.plain(device):
        function()
    return int(counter.get_total_flops()) // 2


def median(function: Callable[[], Tensor], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of a call; the first, which warms up, does not count."""
    times = []
    for _ in range(TIMES + 1):
        begun = clock()
        function().sum().item()  # waits for the device
        times.append(clock() - begun)
    return statistics.median(times[1:])
