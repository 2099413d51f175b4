"""Independent jobs on the cluster, as Ray tasks: each failure is kept apart from the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ray

from metabench.core import OutOfOrder, out_of_memory, signals
from metabench.search.ray.cluster import Cluster
from metabench.search.ray.failures import GOES_ON, RetryPolicy


class Outcome(NamedTuple):
    """What became of a job on its node."""

    result: Any = None
    problem: str = ""  # what is out of order there, so that nothing came of it
    node: str = ""
    error: str = ""
    is_death: bool = False  # of its worker
    is_node_death: bool = False  # which says nothing of the job


def run_all(
    function: Callable[..., Any],
    jobs: Mapping[str, tuple[Any, ...]],
    cluster: Cluster,
    done: Callable[[str, Any], None],
    progress: Callable[[str], int] = lambda name: 0,
    beside: Callable[[list[str], int], bool] = lambda running, n_ended: True,
) -> dict[str, str]:
    """Call a function once a job, as many at once as the cluster has room for, and return the errors by job.

    One whose worker dies is started again as long as it gets on; where a node is out of order, elsewhere.

    Args:
        done: called with name and result as each job ends well.
        progress: tells how far a job has got that goes on where it was when it is started again.
        beside: called each second with those that run, and how many have ended; False: leave out the rest.
    """
    retries, waiting = RetryPolicy(), deque(jobs)
    pending, errors = dict[Any, str](), dict[str, str]()
    while waiting or pending:
        # No more than there is room for: Ray would start further workers for those that wait.
        for name in [waiting.popleft() for _ in range(min(len(waiting), cluster.slots - len(pending)))]:
            pending[_start(function, jobs[name], cluster)] = name
        signals.check()
        if not beside(list(pending.values()), len(jobs) - len(pending) - len(waiting)):
            for reference in pending:
                ray.cancel(reference, force=True)
            break
        if not (ready := ray.wait(list(pending), num_returns=1, timeout=1)[0]):
            continue
        name, outcome = pending.pop(ready[0]), _outcome(ready[0])
        if _starts_again(outcome, cluster) or (outcome.is_death and retries.is_allowed(name, progress(name))):
            waiting.appendleft(name)
        elif outcome.error:
            errors[name] = outcome.error
        else:
            done(name, outcome.result)
    else:
        beside([], len(jobs))
    return errors


def _starts_again(outcome: Outcome, cluster: Cluster) -> bool:
    """Tell whether what came of a job says nothing of the job; its node is left out from now on."""
    if outcome.problem:
        if cluster.excluded is None:
            raise OutOfOrder(outcome.problem)
        cluster.excluded.add(outcome.node, outcome.problem)
    return bool(outcome.problem) or outcome.is_node_death


def _outcome(reference: Any) -> Outcome:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return Outcome(error=str(error))
    except ray.exceptions.LocalRayletDiedError as error:
        raise OutOfOrder(f"Ray is lost on this machine. {GOES_ON}") from error
    except ray.exceptions.NodeDiedError:
        return Outcome(is_node_death=True)
    except ray.exceptions.RayError as error:
        return Outcome(error=str(error), is_death=True)


def _start(function: Callable[..., Any], arguments: tuple[Any, ...], cluster: Cluster) -> Any:
    remote = ray.remote(attempt).options(
        num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=0, label_selector=cluster.selector()
    )
    return remote.remote(function, arguments)


def attempt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
    """Run a job in a worker; what is out of order there is no error of the job."""
    node = ray.get_runtime_context().get_node_id()
    try:
        return Outcome(function(*arguments), "", node)
    except (OSError, OutOfOrder) as error:
        return Outcome(None, str(error) or type(error).__name__, node)
    except (MemoryError, RuntimeError) as error:
        if reason := out_of_memory(error):
            return Outcome(error=reason, node=node)
        raise
