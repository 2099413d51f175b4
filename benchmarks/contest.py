"""What `speed.py` times: one process's contestants, all with the same weights, tasks and steps."""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import peers
import peers_jax
import torch
from peers import Peer
from peers_learners import LEARNERS

from metabench import algorithms, nets
from metabench.core import Query, Support, Task, seeds, trees
from metabench.core import device as memory
from metabench.core.config import NetworkConfig
from metabench.core.objectives import OBJECTIVES
from metabench.training import vectorise
from metabench.training.evaluate import BLOCK
from metabench.training.graphs.trace import TraceCache


class Setting(NamedTuple):
    """What is computed."""

    width: int
    size: int
    channels: int
    tasks: int
    shot: int


SETTINGS = {
    "seed": Setting(width=20, size=28, channels=1, tasks=25, shot=1),
    "omni": Setting(width=64, size=28, channels=1, tasks=32, shot=1),
    "mini": Setting(width=32, size=84, channels=3, tasks=4, shot=5),
}

WAY, QUERY, STEPS = 5, 15, 5
CHECKED = 2
"""Tasks on which all must agree."""

LOOPED = 6
"""Tasks that those who loop over tasks are given at once."""


class Contest:
    """All contestants of one process."""

    def __init__(self, arguments: argparse.Namespace, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("high" if arguments.precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = arguments.precision == "tf32"
        peers_jax.prepare(threads)
        memory.raise_malloc_thresholds()
        self.arguments = arguments
        setting = SETTINGS[arguments.setting]
        device = torch.device(arguments.device)
        generator = seeds.generator("benchmark", "speed", arguments.setting)
        shape = (setting.channels, setting.size, setting.size)
        network = NetworkConfig(width=setting.width, batch_norm="transductive")
        self.net = nets.build(network, WAY, shape, OBJECTIVES["classification"], 64)
        n_tasks = arguments.tasks or setting.tasks
        drawn = []
        for examples in (setting.shot, QUERY):
            x = torch.rand(n_tasks, WAY * examples, *shape, generator=generator)
            drawn += [x.to(device), torch.arange(WAY, device=device).repeat(examples).expand(n_tasks, -1)]
        self.n_tasks = n_tasks
        self.traces = TraceCache(capture_after=0)
        self.is_second = arguments.order == "second"
        name, settings = ours(arguments.learner, self.is_second, arguments.steps)
        self.algorithm, self.h = algorithms.get(name), algorithms.hparams(name, settings)
        meta, buffers = self.algorithm.init(self.net, self.h, generator)
        self.meta, self.buffers = (trees.map(lambda leaf: leaf.to(device), tree) for tree in (meta, buffers))
        classes = torch.arange(WAY, device=device).expand(n_tasks, -1)
        self.tasks = Task(Support(*drawn[:2]), Query(*drawn[2:]), classes)
        theta = self.meta["theta"]
        weights = ordered(theta if "head" in theta else {**theta, "head": self.net.init(generator)["head"]})
        self.problem = peers.Problem(weights, tuple(drawn), arguments.steps, self.is_second)
        self.calls = {"ours": (self._ours(), n_tasks)}
        self.known: Mapping[str, Peer] = LEARNERS[arguments.learner]
        if arguments.what == "evaluate":
            self.known = peers.EVALUATION
        for title, peer in peers.present(self.known).items():
            if arguments.peers and title not in arguments.peers.split(","):
                continue
            n_taken = min(LOOPED, n_tasks) if peer.is_loop else n_tasks
            self.calls[title] = (peer.make(self.problem, n_taken), n_taken)

    def _ours(self) -> peers.Call:
        if self.arguments.what == "evaluate":
            return self._evaluate

        def call() -> list[torch.Tensor]:
            gradient, *_ = vectorise.meta_gradient(
                vectorise.Model(self.algorithm, self.net, self.meta, self.buffers, self.h),
                self.tasks,
                0.0,
                traces=self.traces,
            )
            return ordered(gradient["theta"])

        return call

    def _evaluate(self) -> list[torch.Tensor]:
        size = vectorise.at_once(self.net, self.tasks.classes.device, BLOCK)
        parts, _ = vectorise.in_parts(self._adapted, self.n_tasks, size)
        return [torch.cat(parts)]

    def _adapted(self, part: slice) -> torch.Tensor:
        def one(task: Task, meta: Any, buffers: Any) -> torch.Tensor:
            learner = self.algorithm.adapt(self.net, meta, buffers, task.support, self.h)
            return self.algorithm.predict(self.net, learner, task.query.x)

        tasks = vectorise.cut(self.tasks, part)
        return vectorise.per_task(one, tasks, self.meta, self.buffers, traces=self.traces, name="evaluation")

    def time(self, name: str) -> float:
        """Return the seconds of one call."""
        call, _ = self.calls[name]
        begun = time.perf_counter()
        float(call()[-1].sum())  # waits for the device
        return time.perf_counter() - begun

    def check(self) -> dict[str, float]:
        """Return how far each is from a loop over the same tasks, relative to it; warms up everybody.

        In float64: of noise images, a pixel within float32's rounding of another takes a different way
        through the network, and the way has its consequences over inner steps.
        """
        original = self.problem
        tasks = tuple(
            leaf[:CHECKED].double() if leaf.is_floating_point() else leaf[:CHECKED] for leaf in original.tasks
        )
        problem = original._replace(weights=[w.double() for w in original.weights], tasks=tasks)
        expected = flat(self.known["loop"].make(problem, CHECKED)())
        differences = {}
        for name, (call, _) in self.calls.items():
            call()
            got = flat(self._ours_exactly() if name == "ours" else self.known[name].make(problem, CHECKED)())
            reference = expected[: len(got)]  # a head comes last, where ours has none
            differences[name] = float((got - reference).norm() / reference.norm())
        return differences

    def _ours_exactly(self) -> list[torch.Tensor]:
        exact = copy.copy(self)
        exact.traces = TraceCache()
        exact.n_tasks = CHECKED
        exact.meta, exact.buffers = (
            trees.map(torch.Tensor.double, tree) for tree in (self.meta, self.buffers)
        )
        support, query, classes = vectorise.cut(self.tasks, slice(0, CHECKED))
        exact.tasks = Task(
            support._replace(x=support.x.double()), query._replace(x=query.x.double()), classes
        )
        return exact._ours()()


def flat(leaves: list[torch.Tensor]) -> torch.Tensor:
    """Put numbers one after another."""
    return torch.cat([leaf.flatten() for leaf in leaves])


def ours(learner: str, is_second: bool, steps: int) -> tuple[str, dict[str, Any]]:
    """Name our algorithm and its settings."""
    inner: dict[str, Any] = {"inner_lr": peers.RATE, "inner_steps": steps}
    plain = dict.fromkeys(("learned_rates", "per_step_weights"), False)
    annealed = {"derivative_annealing": not is_second, "first_order_fraction": 1.0}
    return {
        "maml": ("maml" if is_second else "fomaml", {**inner, "adapt_norm": True}),
        "multi_step": ("maml_pp", {**inner, **plain, **annealed, "adapt_norm": True}),
        "anil": ("anil", {**inner, "derivative": "second" if is_second else "first"}),
        "protonet": ("protonet", {}),
    }[learner]


def ordered(theta: Any) -> list[torch.Tensor]:
    """List our tensors in the order of a module's parameters."""
    layers = [*(f"{kind}{block}" for block in "1234" for kind in ("conv", "norm")), "head"]
    names = ("weight", "scale", "bias", "shift")
    return [theta[layer][name] for layer in layers for name in names if name in theta.get(layer, {})]
