"""Independent jobs on the cluster, as Ray tasks: each failure is kept apart from the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ray

from metabench.search.cluster import Cluster

MAX_RETRIES = 2
"""How often a job is started again when its worker or node dies."""


def run_all(
    function: Callable[..., Any],
    jobs: Mapping[str, tuple[Any, ...]],
    cluster: Cluster,
    done: Callable[[str, Any], None],
) -> dict[str, str]:
    """Call a function once a job, as many at once as the cluster has room for, and return the errors by job.

    Args:
        jobs: name -> arguments.
        done: called with name and result as each job ends well.
    """
    remote = ray.remote(function).options(
        num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=MAX_RETRIES, retry_exceptions=False
    )
    pending = {remote.remote(*arguments): name for name, arguments in jobs.items()}
    errors = {}
    while pending:
        (ready,), _ = ray.wait(list(pending), num_returns=1)
        name = pending.pop(ready)
        try:
            result = ray.get(ready)
        except ray.exceptions.RayError as error:
            errors[name] = str(error)
        else:
            done(name, result)
    return errors
