"""Meta-training: one meta-step, and the generator that yields a Report at each rung."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad
from torch.profiler import record_function

from metabench import algorithms, nets, stats
from metabench.core import (
    Algorithm,
    Logs,
    MetabenchError,
    Net,
    Objective,
    Report,
    Splits,
    Task,
    Tree,
    seeds,
    trees,
)
from metabench.core import device as memory
from metabench.core.config import RunConfig
from metabench.core.control import ENVIRONMENT_STEPS
from metabench.core.objectives import OBJECTIVES
from metabench.data.tasks import augment, frozen, sampling
from metabench.data.tasks.sampling import Pool
from metabench.nets import layers
from metabench.nets.frozen import centred
from metabench.storage import remote, tensors
from metabench.training import again, inputs, profile, rollouts, vectorise
from metabench.training.evaluate import Evaluation, evaluate
from metabench.training.graphs.trace import TraceCache
from metabench.training.inputs import Inputs
from metabench.training.vectorise import Model

LISTEN = 50
"""How often in a full run the listener hears of meta-training."""

STATES = ("state.safetensors", "previous.safetensors")
"""Files of the last two states of a run, in its folder of states."""

CHECKED = 16
"""Tasks by whose gradients a device's kernels are checked."""

ROUNDING, TIMES_ROUNDING = 1e-3, 10
"""Distances from float64 that rounding explains: so much, or so many times that of torch's own layers."""

Listener = Callable[[int, Mapping[str, float]], None]


class State(NamedTuple):
    """Everything that continuing a run needs; generators are named by seed and step, so the step suffices."""

    meta: Tree
    buffers: Tree
    optimizer: Tree
    step: int
    tasks_seen: int
    seconds: float


class Learner(NamedTuple):
    """An algorithm with the network and settings it was built for."""

    algorithm: Algorithm
    net: Net
    h: Any


def build(config: RunConfig, splits: Splits) -> Learner:
    """Build the algorithm, network and settings that a run's configuration names."""
    return build_for(config, inputs.of(splits))


def build_for(config: RunConfig, about: Inputs) -> Learner:
    """Do the same of what is known of the data alone."""
    algorithm = algorithms.get(config.algorithm)
    if refusals := algorithms.refusals(config.algorithm, about.data, about.kinds):
        raise MetabenchError(refusals[0])
    n_outputs = 1 if about.kind == "regression" else config.task.ways[1]
    n_outputs = n_outputs if about.environment is None else about.environment.n_actions
    if config.task.labels == "fixed":
        n_outputs = len(about.shared)
    net = nets.build(config.network, n_outputs, about.shape, OBJECTIVES[about.kind], about.n_classes)
    net = net if about.mean is None else centred(net, about.mean.cpu())
    net = net if about.environment is None else rollouts.policy(net, about.environment)
    return Learner(algorithm, net, settings(config, about))


def settings(config: RunConfig, about: Inputs) -> Any:
    """Build an algorithm's settings, and refuse such as do not go together or not with the data."""
    h = algorithms.hparams(config.algorithm, config.hyperparameters)
    problem = augment.problem(h, about.kind, about.shape, config.task.augment)
    problem = problem or algorithms.search_problem(h, about.kind)
    if config.task.labels == "fixed":
        problem = problem or algorithms.fixed_problem(config.algorithm, h)
    if problem:
        raise MetabenchError(problem)
    return h


def model(learner: Learner, state: State) -> Model:
    """Put a learner and what it has learnt together."""
    return Model(learner.algorithm, learner.net, state.meta, state.buffers, learner.h)


def start(config: RunConfig, learner: Learner, device: torch.device | str = "cpu") -> State:
    """Draw the initial parameters, the same on every device."""
    meta, buffers = learner.algorithm.init(learner.net, learner.h, seeds.generator("init", config.seed))
    meta, buffers = (trees.map(lambda leaf: leaf.to(device), tree) for tree in (meta, buffers))
    return State(meta, buffers, learner.algorithm.optimizer(learner.h).init(meta), 0, 0, 0.0)


def train(
    config: RunConfig,
    splits: Splits,
    *,
    device: torch.device | str = "cpu",
    state: State | None = None,
    listen: Listener | None = None,
    traces: TraceCache | None = None,
) -> Iterator[tuple[Report, State]]:
    """Train towards the full budget and yield at each rung; end early where a number is not finite.

    Args:
        state: where an earlier run stopped, as yielded with one of its reports.
        listen: called with tasks seen and averages over the meta-training since the last call.
        traces: of earlier runs in this process, whatever they were.
    """
    memory.raise_malloc_thresholds()
    learner = build(config, splits)
    state = start(config, learner, device) if state is None else state
    meta_train = splits.meta_train._replace(images=splits.meta_train.images.to(device))
    source = sampling.training_pool(meta_train, config.task, config.seed)
    val_images = splits.meta_validation.images.to(device)
    val_tasks = frozen.frozen(splits, "meta_validation", config.task, config.validation_tasks, "search")
    if meta_train.images.device.type != "cpu":
        check_kernels(config, model(learner, state), source)
    memory.reset_peak(device)
    traces = TraceCache() if traces is None else traces
    for rung in [rung for rung in config.rungs if rung > state.tasks_seen]:
        begun = time.perf_counter()
        state, window = _train_to(rung, config, learner, source, state, traces, listen)
        evaluation = None
        if window.finite:
            evaluation = evaluate(model(learner, state), val_images, val_tasks, traces)
        state = state._replace(seconds=state.seconds + time.perf_counter() - begun)
        report = _report(learner.net.objective, state, window, evaluation, memory.peak(device))
        yield report, state
        if not report.finite:
            return


def check_kernels(config: RunConfig, model: Model, source: Pool) -> None:
    """Compare a run's first meta-gradients by a device's kernels with those of torch's own layers.

    Where they differ by more than rounding, torch's own layers are used from now on, and a warning says by
    how much. Both are compared with float64's, by medians over tasks: a pixel that rounding puts on the other
    side of a ReLU changes all of a task's gradient.
    """
    device = source.split.images.device
    has_kernels = layers.has_kernels(device) and model.net.environment is None  # policies pass through none
    if not model.algorithm.is_trained or not has_kernels:
        return
    tasks = _drawn(config, model.h, source, 0, CHECKED)[0]
    by_kernels = _task_gradients(model, tasks)
    with layers.plain(device):
        plain = _task_gradients(model, tasks)
        double = model._replace(meta=_as_double(model.meta), buffers=_as_double(model.buffers))
        exact = _task_gradients(double, _as_double(tasks))
    difference, rounding = (distance(gradients, exact) for gradients in (by_kernels, plain))
    limit = max(ROUNDING, TIMES_ROUNDING * rounding)
    if difference > limit:
        layers.refuse_kernels(
            device,
            f"their meta-gradient is {difference:.2g} of its size away from float64's, that of torch's own "
            f"layers {rounding:.2g}",
        )


def _task_gradients(model: Model, tasks: Task) -> Tree:
    # [T, ...], at the end of all schedules, where derivatives are of second order.
    algorithm, net, meta, buffers, h = model
    net, ended = vectorise.for_tasks(net, tasks), algorithm.schedule(h, 1.0)

    def gradient(task: Task, meta: Tree, buffers: Tree) -> Tree:
        return grad(lambda meta: algorithm.task_loss(net, meta, buffers, task, h, ended)[0])(meta)

    parts, _ = vectorise.in_parts(
        lambda part: vectorise.per_task(gradient, vectorise.cut(tasks, part), meta, buffers),
        len(tasks.classes),
        vectorise.MOST,
    )
    return trees.map(lambda *leaves: torch.cat(leaves), *parts)


def _as_double(containers: Any) -> Any:
    leaves, form = trees.flatten(containers)
    return trees.unflatten([leaf.double() if leaf.is_floating_point() else leaf for leaf in leaves], form)


def distance(gradients: Tree, exact: Tree) -> float:
    """Return how far gradients [T, ...] are from exact ones, as a share of these: the median over tasks."""
    mine, theirs = (
        torch.cat([leaf.double().reshape(len(leaf), -1) for leaf in trees.leaves(tree)], 1)
        for tree in (gradients, exact)
    )
    size = theirs.norm(dim=1)
    distances = ((mine - theirs).norm(dim=1) / size)[(size > 0) & size.isfinite()]
    return float(distances.nan_to_num(nan=torch.inf, posinf=torch.inf).median())


class Window(NamedTuple):
    """Averages over the meta-steps since the last rung."""

    means: Mapping[str, float]
    finite: bool


def meta_step(
    config: RunConfig,
    learner: Learner,
    source: Pool,
    state: State,
    n_tasks: int,
    traces: TraceCache | None = None,
) -> tuple[State, Logs]:
    """Draw tasks, take their mean meta-gradient, and let the outer optimiser move."""
    with record_function("sampling"):
        groups = _drawn(config, learner.h, source, state.step, n_tasks)
    progress = state.tasks_seen / config.tasks
    meta, buffers, optimizer, logs = _moved(model(learner, state), groups, state.optimizer, progress, traces)
    state = State(meta, buffers, optimizer, state.step + 1, state.tasks_seen + n_tasks, state.seconds)
    if (environment := learner.net.environment) is not None:
        steps = state.tasks_seen * rollouts.n_steps(environment, config.task, learner.h)
        logs = {**logs, ENVIRONMENT_STEPS: steps}
    return state, logs


def _moved(
    model: Model, groups: list[Task], optimizer: Tree, progress: float, traces: TraceCache | None
) -> tuple[Tree, Tree, Tree, Logs]:
    """Let the outer optimiser move by the meta-gradient, or search on what is collected once."""
    optimiser = model.algorithm.optimizer(model.h)
    if optimiser.search is not None:
        with record_function("trajectories"):
            collected, logs = again.collect(model, groups, progress, traces)
        with record_function("outer optimiser"):
            meta, optimizer, outer = optimiser.search(collected, optimizer, model.meta, progress)
        return meta, model.buffers, optimizer, {**logs, **outer}
    with record_function("outer gradient"):
        gradient, loss, logs, buffers = vectorise.grouped_meta_gradient(model, groups, progress, traces)
    with record_function("outer optimiser"):
        meta, optimizer, outer = optimiser.update(gradient, optimizer, model.meta, progress)
    return meta, buffers, optimizer, {"loss": loss, "grad/norm": trees.norm(gradient), **logs, **outer}


def _drawn(config: RunConfig, h: Any, source: Pool, step: int, n_tasks: int) -> list[Task]:
    """Draw the tasks of a meta-step, those of one shape together, and distort their images."""
    generator = seeds.generator("meta-train", config.seed, step)
    distortion = seeds.generator("augment", config.seed, step)
    groups = []
    shapes = (source.split.n_columns, source.outputs)
    for shape, positions in sampling.shapes(config.task, config.task.query, n_tasks, generator, *shapes):
        indices = sampling.sample(generator, source, shape, len(positions))
        tasks = frozen.gather(source.split.images, indices, shape)
        groups.append(augment.tasks(tasks, h, config.task.augment, distortion))
    return groups


def _train_to(
    rung: int,
    config: RunConfig,
    learner: Learner,
    source: Pool,
    state: State,
    traces: TraceCache,
    listen: Listener | None,
) -> tuple[State, Window]:
    """Take meta-steps until exactly `rung` tasks are seen; the last step takes what is left of a batch."""
    if not learner.algorithm.is_trained:
        return state._replace(tasks_seen=rung), Window({}, True)
    every = max(config.tasks // LISTEN, 1)
    metric = learner.net.objective.metric.name
    whole, part = _Mean(metric), _Mean(metric)
    while state.tasks_seen < rung:
        n_tasks = min(learner.h.task_batch_size, rung - state.tasks_seen)
        before = state.tasks_seen
        state, logs = meta_step(config, learner, source, state, n_tasks, traces)
        profile.stepped()
        whole.add(logs, n_tasks)
        part.add(logs, n_tasks)
        if state.tasks_seen // every > before // every or state.tasks_seen == rung:
            means = part.read()
            part = _Mean(metric)
            if listen is not None:
                listen(state.tasks_seen, means)
            if not math.isfinite(means["meta_train/loss"]) or not bool(trees.is_finite(state.meta)):
                return state, Window(whole.read(), False)
    return state, Window(whole.read(), True)


class _Mean:
    """A mean of logs weighted by tasks, kept on the device until it is read."""

    def __init__(self, metric: str) -> None:
        self.averaged = {"loss": "meta_train/loss", metric: f"meta_train/{metric}", "grad/norm": "grad/norm"}
        self.sums: dict[str, Tensor] = {}
        self.last: Logs = {}
        self.n_tasks = 0
        self.begun = time.perf_counter()

    def add(self, logs: Logs, n_tasks: int) -> None:
        for name in self.averaged:
            self.sums[name] = self.sums.get(name, 0.0) + logs[name] * n_tasks
        self.last = logs
        self.n_tasks += n_tasks

    def read(self) -> dict[str, float]:
        """Return means of loss, metric and gradient norm, and the last value of everything else."""
        mean = {self.averaged[name]: float(total) / self.n_tasks for name, total in self.sums.items()}
        last = {name: float(value) for name, value in self.last.items() if name not in self.averaged}
        speed = self.n_tasks / (time.perf_counter() - self.begun)
        return {**mean, **last, "system/tasks_per_second": speed}


def _report(
    objective: Objective, state: State, window: Window, evaluation: Evaluation | None, peak_memory: int
) -> Report:
    nan = float("nan")
    mean, half_width, loss, scores, gaps = nan, nan, nan, (), {}
    if evaluation is not None:
        gaps = {} if evaluation.groups is None else _gaps(evaluation.groups)
        mean = float(evaluation.score.mean())
        half_width = stats.tasks_half_width(evaluation.score, objective.metric.scale)
        loss = float(evaluation.loss.mean())
        scores = tuple((objective.metric.sign * evaluation.score).round(6).tolist())
    return Report(
        tasks_seen=state.tasks_seen,
        finite=window.finite and math.isfinite(loss),
        val_score=objective.metric.sign * mean,
        val_accuracy=mean if objective.metric.unit == "%" else nan,
        val_ci=half_width,
        val_loss=loss,
        val_scores=scores,
        train_accuracy=window.means.get("meta_train/accuracy", nan),
        train_loss=window.means.get("meta_train/loss", nan),
        seconds=state.seconds,
        peak_memory=peak_memory,
        logs={name: value for name, value in window.means.items() if not name.startswith("meta_train/")}
        | gaps,
    )


def _gaps(groups: stats.Floats) -> dict[str, float]:
    """Name the pooled measures of two groups that are defined on meta-validation."""
    measured = {name: x for name, x in stats.measures(groups).items() if x is not None and name != "accuracy"}
    return {f"meta_validation/{name}": float(x.mean()) for name, x in measured.items()}


def save_state(folder: Path, state: State) -> None:
    """Write a state into a folder as safetensors; the one before it stays, should this one be damaged."""
    text = {"step": str(state.step), "tasks_seen": str(state.tasks_seen), "seconds": repr(state.seconds)}
    last, before = (folder / name for name in STATES)
    if last.exists():
        last.replace(before)
        remote.upload(before)
    tensors.save(last, _groups(state), text)


def load_state(
    folder: Path, config: RunConfig, splits: Splits, device: torch.device | str = "cpu", name: str = STATES[0]
) -> State:
    """Read a state back for the run it was saved by; raise `Damaged` where its file is."""
    flat, text = tensors.load(folder / name, device)
    groups = trees.fill(_groups(start(config, build(config, splits), device)), flat)
    return State(
        **groups,
        step=int(text["step"]),
        tasks_seen=int(text["tasks_seen"]),
        seconds=float(text["seconds"]),
    )


def _groups(state: State) -> Tree:
    return {"meta": state.meta, "buffers": state.buffers, "optimizer": state.optimizer}
