"""What a search would do, before it is started: how many trials where, how long, at what cost."""

from __future__ import annotations

import math
import os
import statistics
from typing import Any

import torch

from metabench import data
from metabench.core import Splits
from metabench.core.config import SearchSpace, limit, n_variants
from metabench.search import space as spaces
from metabench.search.propose import feasible
from metabench.search.propose.study import Study
from metabench.search.ray import cluster
from metabench.search.space.automatic import REPORTS, Pace
from metabench.search.stages import pace

SETTINGS = 3
"""Settings of an algorithm whose speed is measured: the published one, then some as a search samples them."""

SECONDS = 2.0
"""For how long each is trained to measure its speed, beyond its first step."""


def plan(space: SearchSpace, address: str | None, seed: int, trial: cluster.TrialResources) -> dict[str, Any]:
    """Measure each algorithm's speed here, and work out what the whole search takes; starts no trial."""
    splits = data.load(space.task)
    data.check(space.task, splits)
    feasible.check(space, splits)
    allocated, nodes = where(address, trial)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    algorithms = {}
    for name in space.algorithms:
        speed = measure(space, name, splits, seed, device)
        algorithms[name] = {**speed._asdict(), **cost(space, name, speed)}
    seconds, at_most = (
        sum(part[key] for part in algorithms.values()) for key in ("seconds", "at_most_seconds")
    )
    longest = max(part["longest_run_seconds"] for part in algorithms.values())
    gpus = allocated.gpus or 1
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "slots": allocated.slots,
        "gpus_per_trial": allocated.gpus,
        "nodes": nodes,
        "rungs": spaces.rungs(space.budget),
        "algorithms": algorithms,
        "accelerator_hours": seconds * gpus / 3600,
        "at_most_accelerator_hours": at_most * gpus / 3600,
        # A trial and a final run follow each other.
        "hours": max(seconds / allocated.slots, 2 * longest) / 3600,
    }


def cost(space: SearchSpace, algorithm: str, pace: Pace) -> dict[str, Any]:
    """Work out what an algorithm takes in tasks and seconds of one process."""
    budget, rungs = space.budget, spaces.rungs(space.budget)
    its = spaces.of(space, algorithm)
    n_trials = its.n_trials
    factor = 1 if budget.scheduler == "none" else budget.reduction_factor
    # Of those that arrive at a rung one in so many goes on.
    expected = [max(1.0, n_trials / factor**k) for k in range(len(rungs))]
    steps = [rung - before for rung, before in zip(rungs, [0, *rungs], strict=False)]
    trained = sum(n * step for n, step in zip(expected, steps, strict=True))
    seconds = trained * pace.training + sum(expected) * budget.validation_tasks * pace.evaluation
    taken = {"seconds": seconds, "environment_steps": trained * pace.environment_steps}.get(budget.unit, 0.0)
    if (most := limit(budget)) is not None and taken > 0:
        expected = [n * min(1.0, most / taken) for n in expected]
    tasks = sum(n * step for n, step in zip(expected, steps, strict=True))
    validated = sum(expected) * budget.validation_tasks + budget.confirm_top * budget.confirm_tasks
    runs = n_variants(budget) * budget.seeds
    full_run = budget.tasks * pace.training + REPORTS * budget.validation_tasks * pace.evaluation
    after = runs * (full_run + budget.test_tasks * pace.evaluation)
    longest = budget.tasks * pace.slowest + len(rungs) * budget.validation_tasks * pace.evaluation
    every = n_trials * longest
    if most is not None:
        of_run = {"seconds": longest, "environment_steps": budget.tasks * pace.environment_steps}[budget.unit]
        every = min(every, most / of_run * longest) if of_run else every
    return {
        "trials": n_trials,
        "settings": int(its.n_settings) if math.isfinite(its.n_settings) else None,  # None: no end of them
        "trials_at_rungs": [round(n, 1) for n in expected],
        "trial_tasks": round(tasks),
        "final_runs": runs,
        "final_tasks": runs * budget.tasks,
        "seconds": tasks * pace.training + validated * pace.evaluation + after,
        "at_most_seconds": every + budget.confirm_top * budget.confirm_tasks * pace.evaluation + after,
        "longest_run_seconds": full_run,
    }


def measure(space: SearchSpace, algorithm: str, splits: Splits, seed: int, device: str) -> Pace:
    """Time some meta-steps and evaluations of an algorithm in this process, on one thread."""
    torch.set_num_threads(1)
    study = Study(space, algorithm, seed)
    n_settings = min(SETTINGS, study.its.n_trials)
    timed: list[pace.Timed] = []
    size = feasible.of(space, splits)
    for _ in range(n_settings + feasible.MOST_INFEASIBLE):
        sampled = study.propose(len(timed) / n_settings) if len(timed) < n_settings else None
        if sampled is None:
            break
        values = study.its.resolve(sampled)
        if size(algorithm, values).infeasible is None:
            timed.append(pace.time_one(space, algorithm, values, splits, device, SECONDS))
    training, evaluation, steps = zip(*timed, strict=True)
    mean = statistics.fmean
    return Pace(mean(training), mean(evaluation), max(training), mean(steps))


def where(
    address: str | None, trial: cluster.TrialResources, n_cpus: int | None = None
) -> tuple[cluster.Cluster, list[dict[str, Any]]]:
    """Say what trials would run on: the nodes of a cluster, or this machine, of which so many cores."""
    if address is not None:
        with cluster.joined(address):
            resources = cluster.expected_resources(cluster.workers())
            return cluster.allocate(resources, trial), cluster.describe()
    cpus, gpus = float(n_cpus or os.cpu_count() or 1), float(torch.cuda.device_count())
    here = {"address": "this machine", "cpus": cpus, "gpus": gpus}
    return cluster.allocate({"CPU": cpus, "GPU": gpus}, trial), [here]
