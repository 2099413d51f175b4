"""Clusters that grow on demand: their first node is asked for, and trials are planned for those to come."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ray.autoscaler.sdk import request_resources

from metabench.core import MetabenchError

PATIENCE = 3600
"""Seconds for a first node: a machine, its setup and the pull of an image may take half an hour."""

POLL = 2


@contextlib.contextmanager
def first_node(
    workers: Callable[[], Sequence[Any]], patience: float = PATIENCE, poll: float = POLL
) -> Iterator[None]:
    """Ask the autoscaler for a node where there is none, wait until it has joined, and keep it for a while.

    Not for the whole search: the wish outlives a killed one, and would keep a node that nobody uses.
    """
    if workers():
        yield
        return
    request_resources(num_cpus=1)
    try:
        deadline = time.monotonic() + patience
        while not workers():
            if time.monotonic() > deadline:
                raise MetabenchError(
                    f"--workers: the Ray cluster has no node for trials, and none came within {patience:.0f} "
                    "s; see `ray status` there for what its autoscaler waits for, or start a worker by hand"
                )
            time.sleep(poll)
        yield
    finally:
        request_resources(num_cpus=0)


def expected(nodes: Sequence[dict[str, Any]], n_workers: int | None) -> dict[str, float]:
    """Add up what a cluster has, or what it would have of as many nodes like its largest.

    Args:
        nodes: those for trials, as `ray.nodes()` lists them.
        n_workers: how many there may be in the end; None for a cluster that stays as it is.
    """
    shapes = [(node["Resources"].get("GPU", 0.0), node["Resources"].get("CPU", 0.0)) for node in nodes]
    gpus, cpus = (sum(shape[kind] for shape in shapes) for kind in (0, 1))
    if n_workers is not None and shapes:
        largest = max(shapes)
        gpus, cpus = max(gpus, n_workers * largest[0]), max(cpus, n_workers * largest[1])
    return {"CPU": cpus, "GPU": gpus}
