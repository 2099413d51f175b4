"""The Ray cluster that a search runs on: a local one of its own, or one that is joined by address."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray import tune
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from metabench.core import MetabenchError, signals
from metabench.search.ray import local
from metabench.search.ray.failures import ExcludedNodes, node_names
from metabench.storage import files, remote

TRIALS_PER_GPU = 4
"""Most trials that share one GPU."""

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray reports usage to its makers unless told not to
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nor may these two, which Ray imports where they are installed
    "WANDB_ERROR_REPORTING": "false",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # data folders may be relative
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables would stand between our lines
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials write their own TensorBoard files
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C needs no last checkpoint: the ledger is on disk
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # a stopped trial may be writing
    "TUNE_WARN_THRESHOLD_S": "5",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # nobody reads what Tune would save again and again
    # Each trial runs in a thread of its own; with a heap for each, a worker keeps what every trial freed.
    "MALLOC_ARENA_MAX": "1",
}

PORT_TIMEOUT_SECONDS = 10

FIRST_NODE_TIMEOUT_SECONDS = 3600
"""A machine, its setup and the pull of an image may take half an hour."""

POLL_SECONDS = 2

FORWARDED = {"METABENCH_DATA": "METABENCH_DRIVER_DATA", "METABENCH_CACHE": "METABENCH_DRIVER_CACHE"}
"""Variables that a node may set itself, to the names under which it gets those of the driver."""

MODULES = "METABENCH_DRIVER_PATH"
"""The variable by which a node gets the folders that the driver imports from."""


class TrialResources(NamedTuple):
    """What each trial gets of a node."""

    cpus: int = 1
    gpus: float | None = None  # None: as many trials share one as there are cores for, up to a limit


DEFAULT_RESOURCES = TrialResources()


class Cluster(NamedTuple):
    """What a cluster offers to trials."""

    slots: int  # trials at once
    cpus: float  # of each trial
    gpus: float  # of each trial
    excluded: ExcludedNodes | None = None

    def selector(self) -> dict[str, str]:
        """Return what Ray is to require of a node's labels."""
        return {} if self.excluded is None else self.excluded.selector()

    def request(self) -> tune.PlacementGroupFactory:
        """Return what a trial asks for."""
        labels = {"bundle_label_selector": [self.selector()]} if self.selector() else {}
        return tune.PlacementGroupFactory([{"CPU": self.cpus, "GPU": self.gpus}], **labels)


@contextlib.contextmanager
def connect(
    address: str | None,
    folder: Path,
    trial: TrialResources = DEFAULT_RESOURCES,
    cpus: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    n_workers: int | None = None,
) -> Iterator[Cluster]:
    """Start Ray on this machine, or join the cluster at an address, and leave it in the end.

    Args:
        folder: search folder, which every node must see.
        cpus: cores of a local cluster; all where it is not given.
        n_workers: nodes that a joined cluster may grow to; it stays as it is where this is not given.
    """
    with joined(address, cpus):
        if address is not None:
            with wait_for_first_node(workers) if n_workers is not None else contextlib.nullcontext():
                _check_nodes(folder)
        allocated = allocate(expected_resources(workers(), n_workers), trial)
        yield allocated._replace(excluded=ExcludedNodes(workers, say))


@contextlib.contextmanager
def joined(address: str | None, cpus: int | None = None) -> Iterator[None]:
    """Start or join Ray, and leave it in the end."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in FORWARDED:
        if name in os.environ:
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())
    os.environ[MODULES] = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    with contextlib.ExitStack() as stack:
        with signals.lent():  # Ray takes SIGTERM when it starts
            stack.enter_context(local.started(cpus) if address is None else _joined(address))
        yield


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    variables = {name: os.environ[name] for name in (*ENVIRONMENT, MODULES) if name in os.environ}
    variables |= {there: os.environ[here] for here, there in FORWARDED.items() if here in os.environ}
    try:
        _check_port(address)
        ray.init(address=address, runtime_env={"env_vars": variables}, **local.QUIET)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise MetabenchError(
            f"`address` {address}: no Ray cluster can be joined there ({error}); start one with "
            "`ray start --head`, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN if it wants a token, "
            "or leave the address out to use this machine"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_port(address: str) -> None:
    """Connect and hang up: Ray itself tries for minutes where nobody answers."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ValueError("it must be auto or HOST:PORT")
    socket.create_connection((host, int(port)), timeout=PORT_TIMEOUT_SECONDS).close()


@contextlib.contextmanager
def wait_for_first_node(
    nodes: Callable[[], Sequence[Any]],
    timeout: float = FIRST_NODE_TIMEOUT_SECONDS,
    poll: float = POLL_SECONDS,
) -> Iterator[None]:
    """Ask the autoscaler for a node where there is none, wait until it has joined, and keep it for a while.

    Not for the whole search: the wish outlives a killed one, and would keep a node that nobody uses.
    """
    if nodes():
        yield
        return
    request_resources(num_cpus=1)
    try:
        deadline = time.monotonic() + timeout
        while not nodes():
            if time.monotonic() > deadline:
                raise MetabenchError(
                    f"workers: the Ray cluster has no node for trials, and none came within {timeout:.0f} "
                    "s; see `ray status` there for what its autoscaler waits for, or start a worker by hand"
                )
            time.sleep(poll)
        yield
    finally:
        request_resources(num_cpus=0)


def expected_resources(nodes: Sequence[dict[str, Any]], n_workers: int | None = None) -> dict[str, float]:
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


def allocate(resources: dict[str, float], trial: TrialResources = DEFAULT_RESOURCES) -> Cluster:
    """Divide what a cluster has among trials: cores, and GPUs or shares of them where there are any."""
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if cpus < trial.cpus:
        raise MetabenchError(
            f"the cluster has {cpus} cores, and a trial takes {trial.cpus}; add a worker node, or lower "
            "`cpus_per_trial`; of a cluster that grows, say by `workers` how many nodes there may be"
        )
    slots = cpus // trial.cpus
    if trial.gpus == 0 or not (gpus or trial.gpus):
        return Cluster(slots=slots, cpus=trial.cpus, gpus=0)
    if trial.gpus is None:
        in_one = min(TRIALS_PER_GPU, max(1, slots // gpus))
        return Cluster(slots=gpus * in_one, cpus=trial.cpus, gpus=1 / in_one)
    if trial.gpus > 1 and trial.gpus != int(trial.gpus):
        raise MetabenchError(f"gpus_per_trial={trial.gpus:g}: must be a share of one GPU or a whole number")
    fit = int(gpus // trial.gpus) if trial.gpus >= 1 else gpus * int(1 / trial.gpus)
    if not fit:
        raise MetabenchError(f"gpus_per_trial={trial.gpus:g}: the cluster has {gpus} GPUs")
    return Cluster(slots=min(slots, fit), cpus=trial.cpus, gpus=trial.gpus)


def adopt_driver_folders() -> None:
    """Take the driver's folders, in a worker on a node that has none of its own.

    Of those that modules are imported from, it takes what is there, behind what it has: a data set may
    be made by code that stands beside a notebook.
    """
    for here, there in FORWARDED.items():
        if there in os.environ:
            os.environ.setdefault(here, os.environ[there])
    folders = os.environ.get(MODULES, "").split(os.pathsep)
    sys.path += [folder for folder in folders if os.path.isdir(folder) and folder not in sys.path]


def workers() -> list[dict[str, Any]]:
    """List the nodes that trials may run on."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def ask_each(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Call a function on each node and return its results, or what Ray said instead, by the node's name.

    A node that leaves meanwhile is left out: the search goes on without it.
    """
    nodes, remote = workers(), ray.remote(num_cpus=0, max_retries=0)(function)
    pending = {
        node["NodeID"]: remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(*arguments)
        for node in nodes
    }
    names, results = node_names(nodes), {}
    for node, reference in pending.items():
        try:
            results[names[node]] = ray.get(reference)
        except ray.exceptions.TaskUnschedulableError:
            continue
        except ray.exceptions.RayError as error:
            if any(other["NodeID"] == node for other in workers()):
                results[names[node]] = error
    return results


def describe() -> list[dict[str, Any]]:
    """List the nodes that trials may run on, for people."""
    return [
        {
            "address": node["NodeManagerAddress"],
            "cpus": node["Resources"].get("CPU", 0.0),
            "gpus": node["Resources"].get("GPU", 0.0),
        }
        for node in workers()
    ]


def _check_nodes(folder: Path) -> None:
    """Refuse a cluster with a node that does not see the search folder, before any trial starts there."""
    place = remote.canonical_url(folder)
    blind = [f"{name}: {problem}" for name, problem in ask_each(problem_of, place).items() if problem]
    if blind:
        advice = "choose a folder on a file system that all share, or object storage"
        if remote.is_url(place):
            advice = "a node needs its own credentials, by its environment or its role, and the library"
        raise MetabenchError(f"{place}: not seen by cluster node(s); {advice}:\n" + "\n".join(blind))


def problem_of(place: str) -> str:
    """Say, on a node, why a search folder cannot be seen from there; nothing where it can."""
    adopt_driver_folders()
    if not remote.is_url(place):
        return "" if (Path(place) / files.SEARCH).exists() else "no such folder"
    try:
        record = remote.Mirror(Path(), place).read(files.SEARCH)
    except MetabenchError as error:
        return str(error)
    return "no such folder" if record is None else ""
