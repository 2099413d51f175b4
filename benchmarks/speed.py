"""Tasks per second of meta-gradients and of evaluation, ours beside other libraries', in one sitting.

Everybody gets the same weights, tasks and steps, and must find the same meta-gradient. On a CPU each is timed
twice: as one process with a thread for each core, and as one process of one thread on each core at once, as
two trials of a search run; the better of both counts. Contestants take turns, and medians are reported.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import queue
import statistics
import time
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple

import peers
import peers_jax
import torch

from metabench import algorithms, memory, nets, seeds, trees, vectorise
from metabench.config import NetworkConfig
from metabench.core import Query, Support, Task
from metabench.objectives import OBJECTIVES
from metabench.replay import Tape


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
LOOPED = 6
"""Tasks that those who loop over tasks are given at once."""

TOLERANCE = 2e-2
"""Relative difference of float32 meta-gradients: a wrong second order is far above it, rounding below."""


class Contest:
    """All contestants of one process."""

    def __init__(self, arguments: argparse.Namespace, threads: int) -> None:
        torch.set_num_threads(threads)
        peers_jax.prepare(threads)
        memory.keep_freed()
        self.arguments = arguments
        setting = SETTINGS[arguments.setting]
        device = torch.device(arguments.device)
        generator = seeds.generator("benchmark", "speed", arguments.setting)
        shape = (setting.channels, setting.size, setting.size)
        network = NetworkConfig(width=setting.width)
        self.net = nets.build(network, WAY, shape, OBJECTIVES["classification"], 64)
        n_tasks = arguments.tasks or setting.tasks
        drawn = []
        for examples in (setting.shot, QUERY):
            x = torch.rand(n_tasks, WAY * examples, *shape, generator=generator)
            drawn += [x.to(device), torch.arange(WAY, device=device).repeat(examples).expand(n_tasks, -1)]
        self.n_tasks = n_tasks
        self.is_second = arguments.order == "second"
        name = "maml" if self.is_second else "fomaml"
        self.algorithm = algorithms.get(name)
        self.h = algorithms.hparams(
            name, {"inner_lr": peers.RATE, "inner_steps": arguments.steps, "adapt_norm": True}
        )
        meta, buffers = self.algorithm.init(self.net, self.h, generator)
        self.meta, self.buffers = (trees.map(lambda leaf: leaf.to(device), tree) for tree in (meta, buffers))
        classes = torch.arange(WAY, device=device).expand(n_tasks, -1)
        self.tasks = Task(Support(*drawn[:2]), Query(*drawn[2:]), classes)
        weights = ordered(self.meta["theta"])
        self.problem = peers.Problem(weights, tuple(drawn), arguments.steps, self.is_second)
        self.calls = {"ours": (self._ours(), n_tasks)}
        known = peers.EVALUATION if arguments.what == "evaluate" else peers.TRAINING
        for title, peer in peers.present(known).items():
            if arguments.peers and title not in arguments.peers.split(","):
                continue
            given = min(LOOPED, n_tasks) if peer.is_loop else n_tasks
            self.calls[title] = (peer.make(self.problem, given), given)

    def _ours(self) -> peers.Call:
        if self.arguments.what == "evaluate":
            return self._evaluate
        tape = Tape(pays_after=0.0)  # a run records its steps once they have taken a minute

        def call() -> list[torch.Tensor]:
            gradient, *_ = vectorise.meta_gradient(
                self.algorithm, self.net, self.meta, self.buffers, self.tasks, self.h, 0.0, tape=tape
            )
            return ordered(gradient["theta"])

        return call

    def _evaluate(self) -> list[torch.Tensor]:
        def one(task: Task) -> torch.Tensor:
            learner = self.algorithm.adapt(self.net, self.meta, self.buffers, task.support, self.h)
            return self.algorithm.predict(self.net, learner, task.query.x)

        return [vectorise.per_task(one, self.tasks)]

    def time(self, name: str) -> float:
        """Return the seconds of one call."""
        call, _ = self.calls[name]
        begun = time.perf_counter()
        float(call()[-1].sum())  # waits for the device
        return time.perf_counter() - begun

    def check(self) -> dict[str, float]:
        """Return how far each is from a loop over the same tasks, relative to it; warms up everybody."""
        found = {}
        make = peers.loop_evaluate if self.arguments.what == "evaluate" else peers.loop_train
        for name, (call, n_tasks) in self.calls.items():
            expected = torch.cat([leaf.flatten() for leaf in make(self.problem, n_tasks)()])
            got = torch.cat([leaf.flatten() for leaf in call()])
            found[name] = float((got - expected).norm() / expected.norm())
        return found


def ordered(theta: Any) -> list[torch.Tensor]:
    """List our tensors in the order of a module's parameters."""
    layers = [*(f"{kind}{block}" for block in "1234" for kind in ("conv", "norm")), "head"]
    names = ("weight", "scale", "bias", "shift")
    return [theta[layer][name] for layer in layers for name in names if name in theta[layer]]


def run(arguments: argparse.Namespace, threads: int, gate: Barrier, results: Any) -> None:
    """Time everybody in turn, at the same moments as the processes beside this one."""
    contest = Contest(arguments, threads)
    differences = contest.check()
    seconds: dict[str, list[float]] = {name: [] for name in contest.calls}
    peaks: dict[str, int] = {}
    for round_ in range(arguments.repeats + 1):
        for name in contest.calls:
            gate.wait()
            memory.reset_peak(arguments.device)
            taken = contest.time(name)
            peaks[name] = memory.peak(arguments.device)
            if round_:  # the first warms up
                seconds[name].append(taken)
    tasks = {name: n_tasks for name, (_, n_tasks) in contest.calls.items()}
    results.put((seconds, tasks, differences, peaks))


def sitting(arguments: argparse.Namespace, processes: int, threads: int) -> dict[str, dict[str, float]]:
    """Run one way of using the machine; return tasks per second and more by contestant."""
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=run, args=(arguments, threads, gate, results)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    found: list[Any] = []
    while len(found) < processes:
        try:
            found.append(results.get(timeout=1.0))
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                for worker in workers:
                    worker.kill()
                raise SystemExit("a process of the benchmark failed; its error stands above") from None
    for worker in workers:
        worker.join()
    speeds = {}
    for name in found[0][0]:
        rounds = zip(*(seconds[name] for seconds, *_ in found), strict=True)
        slowest = statistics.median(max(taken) for taken in rounds)
        speeds[name] = {
            "tasks_per_second": processes * found[0][1][name] / slowest,
            "difference": max(differences[name] for _, _, differences, _ in found),
            "peak_bytes": max(peaks[name] for *_, peaks in found),
        }
    return speeds


def ceiling(device: str, threads: int) -> float:
    """Measure floating-point operations per second of a large matrix product."""
    torch.set_num_threads(threads)
    a = torch.rand(2048, 2048, device=device)
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        float((a @ a)[0, 0])
        taken.append(time.perf_counter() - begun)
    return 2 * 2048**3 / min(taken)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Let everybody run in every way, and compare."""
    cores = arguments.cores if arguments.device == "cpu" else 1
    ways = (
        {"threads": (1, cores)}
        if cores == 1 or arguments.device != "cpu"
        else {
            "threads": (1, cores),
            "processes": (cores, 1),
        }
    )
    sittings = {way: sitting(arguments, *how) for way, how in ways.items()}
    best = {
        name: max(
            (found[name] | {"way": way} for way, found in sittings.items()),
            key=lambda x: x["tasks_per_second"],
        )
        for name in next(iter(sittings.values()))
    }
    wrong = {name: own["difference"] for name, own in best.items() if own["difference"] > TOLERANCE}
    if wrong:
        raise SystemExit(f"meta-gradients disagree: {wrong}")
    ours = best.pop("ours")
    fastest = max(best, key=lambda name: best[name]["tasks_per_second"])
    peak = ceiling(arguments.device, cores)
    contest = Contest(argparse.Namespace(**{**vars(arguments), "tasks": 1}), cores)
    flops = peers.flops(contest.problem) if arguments.what == "train" else None
    return {
        "setting": arguments.setting,
        "order": arguments.order,
        "what": arguments.what,
        "steps": arguments.steps,
        "device": arguments.device,
        "machine": f"{machine(arguments.device)}, {cores} cores, torch {torch.__version__}",
        "ours": ours["tasks_per_second"],
        "peers": {name: own["tasks_per_second"] for name, own in best.items()},
        "ratio": ours["tasks_per_second"] / best[fastest]["tasks_per_second"],
        "fastest_peer": fastest,
        "ways": {name: own["way"] for name, own in {"ours": ours, **best}.items()},
        "peak_bytes": {name: own["peak_bytes"] for name, own in {"ours": ours, **best}.items()},
        "difference": {name: own["difference"] for name, own in {"ours": ours, **best}.items()},
        "flops_per_task": flops,
        "share_of_ceiling": flops and ours["tasks_per_second"] * flops / peak,
        "versions": {name: version(name) for name in ("torch", "higher", "torchopt", "jax")},
    }


def machine(device: str) -> str:
    """Name the processor or the GPU."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def version(name: str) -> str | None:
    """Return an installed library's version."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", choices=SETTINGS, default="seed")
    parser.add_argument("--order", choices=("second", "first"), default="second")
    parser.add_argument("--what", choices=("train", "evaluate"), default="train")
    parser.add_argument("--steps", type=int, default=STEPS, help="inner steps")
    parser.add_argument(
        "--tasks", type=int, default=None, help="tasks of a batch; the setting's own if not given"
    )
    parser.add_argument("--peers", default="", help="names of those to compete with; all if not given")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args()
    result = measure(arguments)
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{result['setting']}, {result['order']} order, {result['what']}, on {result['machine']}")
    for name, speed in {"ours": result["ours"], **result["peers"]}.items():
        peak = result["peak_bytes"][name] / 1e9
        print(f"{name:10} {speed:8.1f} tasks/s  ({result['ways'][name]})  peak {peak:.2f} GB")
    print(f"ratio {result['ratio']:.2f} to {result['fastest_peer']}")
    if result["share_of_ceiling"]:
        print(f"{result['share_of_ceiling']:.0%} of the matrix product's speed")


if __name__ == "__main__":
    main()
