"""Tasks per second of a second-order MAML gradient: this package's conv4 beside one of torch's own layers."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from metabench import nets
from metabench.core import Tree, device, seeds, trees
from metabench.core.config import NetworkConfig


def plain(params: Tree, x: Tensor) -> tuple[Tensor, Tree]:
    """Apply conv4 as F.conv2d, F.batch_norm, scale and shift, ReLU and F.max_pool2d."""
    for block in "1234":
        norm = params["norm" + block]
        x = F.conv2d(x, params["conv" + block]["weight"], padding=1)
        x = F.batch_norm(x, None, None, training=True)
        x = F.max_pool2d(F.relu(x * norm["scale"][:, None, None] + norm["shift"][:, None, None]), 2)
    return F.linear(x.flatten(1), params["head"]["weight"], params["head"]["bias"]), {}


def step(
    apply: Callable[..., Any], theta: Tree, n_steps: int, tasks: tuple[Tensor, ...]
) -> Callable[[], Tree]:
    """Return a call that computes every task's meta-gradient."""

    def loss(phi: Tree, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(apply(phi, x)[0], y)

    def task_loss(theta: Tree, sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
        phi = theta
        for _ in range(n_steps):
            phi = trees.map(lambda p, g: p - 0.1 * g, phi, grad(loss)(phi, sx, sy))
        return loss(phi, qx, qy)

    return lambda: vmap(grad(task_loss), in_dims=(None, 0, 0, 0, 0))(theta, *tasks)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time both routes in turn, on the same tasks; CPU seconds are what a loaded machine changes least."""
    channels, size, n_tasks, way = arguments.channels, arguments.size, arguments.tasks, arguments.way
    generator = seeds.generator("benchmark", "layers")
    net = nets.build(
        NetworkConfig(width=arguments.width, batch_norm="transductive"), way, (channels, size, size)
    )
    theta = trees.map(lambda leaf: leaf.to(arguments.device), net.init(generator))
    tasks: list[Tensor] = []
    for examples in (arguments.shot, arguments.query):
        x = torch.rand(n_tasks, way * examples, channels, size, size, generator=generator)
        tasks += [
            x.to(arguments.device),
            torch.arange(way, device=arguments.device).repeat(examples).expand(n_tasks, -1),
        ]
    calls = {
        name: step(apply, theta, arguments.inner_steps, tuple(tasks))
        for name, apply in (("plain", plain), ("metabench", partial(nets.apply, net)))
    }
    gradients = {name: call() for name, call in calls.items()}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(arguments.repeats):
        for name, call in calls.items():
            seconds[name].append(timed(call))
    wall, cpu = ({k: statistics.median(pair[i] for pair in v) for k, v in seconds.items()} for i in (0, 1))
    difference = vmap(lambda a, b: trees.norm(trees.map(torch.sub, a, b)) / trees.norm(b))
    return {
        "setting": vars(arguments),
        "tasks_per_second": {name: n_tasks / value for name, value in wall.items()},
        "tasks_per_cpu_second": {name: n_tasks / value for name, value in cpu.items()},
        "ratio": wall["plain"] / wall["metabench"],
        "cpu_ratio": cpu["plain"] / cpu["metabench"],
        # The median: in float32 rounding now and then turns a ReLU or a pool, by either route.
        "relative_difference": float(difference(gradients["metabench"], gradients["plain"]).median()),
    }


def timed(call: Callable[[], Tree]) -> tuple[float, float]:
    """Return the wall and CPU seconds of one call, its device's work included."""
    wall, cpu = time.perf_counter(), time.process_time()
    float(trees.norm(call()))
    return time.perf_counter() - wall, time.process_time() - cpu


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    settings = {
        "tasks": 10,
        "way": 5,
        "shot": 1,
        "query": 5,
        "inner-steps": 5,
        "width": 20,
        "channels": 1,
        "size": 28,
    }
    for name, default in {**settings, "repeats": 7, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--keep-freed", action="store_true", help="let glibc keep freed memory, as a run does"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    if arguments.keep_freed:
        device.raise_malloc_thresholds()
    result = measure(arguments)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result["tasks_per_second"].items():
        print(f"{name:10} {value:7.1f} tasks/s {result['tasks_per_cpu_second'][name]:7.1f} tasks/CPU-s")
    print(f"ratio {result['ratio']:.2f} (CPU time {result['cpu_ratio']:.2f})")
    print(f"relative difference of a task's gradients {result['relative_difference']:.1e}")


if __name__ == "__main__":
    main()
