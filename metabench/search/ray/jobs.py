"""Independent jobs on the cluster, as Ray tasks: each failure is kept apart from the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ray

from metabench.core import OutOfOrder, signals
from metabench.search.ray.cluster import Cluster
from metabench.search.ray.failures import GOES_ON, MAX_FAILURES


class Outcome(NamedTuple):
    """What became of a job on its node."""

    result: Any
    problem: str  # what is out of order there, so that nothing came of it
    node: str


def run_all(
    function: Callable[..., Any],
    jobs: Mapping[str, tuple[Any, ...]],
    cluster: Cluster,
    done: Callable[[str, Any], None],
    progress: Callable[[str], int] = lambda name: 0,
) -> dict[str, str]:
    """Call a function once a job, as many at once as the cluster has room for, and return the errors by job.

    A job whose worker dies is started again as long as it gets on; where a node is out of order, elsewhere.

    Args:
        jobs: name -> arguments.
        done: called with name and result as each job ends well.
        progress: tells how far a job has got that goes on where it was when it is started again.
    """
    failures: dict[tuple[str, int], int] = {}
    pending = {_start(function, jobs[name], cluster): name for name in jobs}
    errors = {}
    while pending:
        signals.check()
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=1)
        if not ready:
            continue
        name = pending.pop(ready[0])
        try:
            outcome = Outcome(*ray.get(ready[0]))
        except ray.exceptions.RayTaskError as error:
            errors[name] = str(error)
        except ray.exceptions.LocalRayletDiedError as error:
            raise OutOfOrder(f"Ray is lost on this machine. {GOES_ON}") from error
        except ray.exceptions.NodeDiedError:
            pending[_start(function, jobs[name], cluster)] = name  # which says nothing of the job
        except ray.exceptions.RayError as error:
            key = (name, progress(name))
            failures[key] = failures.get(key, 0) + 1
            if failures[key] > MAX_FAILURES:
                errors[name] = str(error)
            else:
                pending[_start(function, jobs[name], cluster)] = name
        else:
            if not outcome.problem:
                done(name, outcome.result)
                continue
            _avoid(cluster, outcome)
            pending[_start(function, jobs[name], cluster)] = name
    return errors


def _avoid(cluster: Cluster, outcome: Outcome) -> None:
    if cluster.avoided is None:
        raise OutOfOrder(outcome.problem)
    cluster.avoided.add(outcome.node, outcome.problem)


def _start(function: Callable[..., Any], arguments: tuple[Any, ...], cluster: Cluster) -> Any:
    labels = {} if cluster.avoided is None else cluster.avoided.selector()
    remote = ray.remote(attempt).options(
        num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=0, label_selector=labels
    )
    return remote.remote(function, arguments)


def attempt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
    """Run a job in a worker; what is out of order there is no error of the job."""
    node = ray.get_runtime_context().get_node_id()
    try:
        return Outcome(function(*arguments), "", node)
    except (OSError, OutOfOrder) as error:
        return Outcome(None, str(error) or type(error).__name__, node)
