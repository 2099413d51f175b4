"""Memory and time of a second-order meta-gradient over inner steps, with and without computing them again.

The most bytes that torch had allocated at once beyond those before, by its profiler on a CPU and by its
allocator on a GPU, and the median time of a call. "composed" is the step as it is composed anew each time,
"replayed" what a long run replays.

    python -m benchmarks.memory --setting seed --tasks 8 --shot 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from metabench import algorithms, nets
from metabench.core import Query, Support, Task, device, seeds, trees
from metabench.core.config import NetworkConfig
from metabench.core.objectives import OBJECTIVES
from metabench.training import vectorise
from metabench.training.graphs.trace import TraceCache
from tests.support.counting import held_at_most

SETTINGS = {"seed": (20, 28, 1), "omni": (64, 28, 1), "mini": (32, 84, 3)}
"""Width, size and channels, as in the benchmark of speed."""

WAY = 5


class Form(NamedTuple):
    """What a meta-gradient is taken of."""

    width: int
    size: int
    channels: int
    tasks: int
    shot: int
    query: int
    steps: int
    order: str = "second"
    recompute: bool = False


def step(form: Form, device: str, is_recorded: bool, chunk: int | None = None) -> Callable[[], Any]:
    """Return a call that computes one meta-gradient."""
    shape = (form.channels, form.size, form.size)
    net = nets.build(
        NetworkConfig(width=form.width, batch_norm="transductive"),
        WAY,
        shape,
        OBJECTIVES["classification"],
        64,
    )
    name = "maml" if form.order == "second" else "fomaml"
    algorithm = algorithms.get(name)
    h = algorithms.hparams(name, {"inner_steps": form.steps, "recompute": form.recompute})
    generator = seeds.generator("benchmark", "memory")
    meta, buffers = (
        trees.map(lambda leaf: leaf.to(device), tree) for tree in algorithm.init(net, h, generator)
    )
    drawn = []
    for examples in (form.shot, form.query):
        x = torch.rand(form.tasks, WAY * examples, *shape, generator=generator).to(device)
        drawn += [x, torch.arange(WAY, device=device).repeat(examples).expand(form.tasks, -1)]
    classes = torch.arange(WAY, device=device).expand(form.tasks, -1)
    tasks = Task(Support(*drawn[:2]), Query(*drawn[2:]), classes)
    traces = TraceCache(capture_after=0) if is_recorded else None
    return lambda: vectorise.meta_gradient(
        vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.0, chunk, traces
    )


def peak(call: Callable[[], Any], device: str) -> int:
    """Return the most bytes that are allocated at once during a call, beyond those before."""
    if device != "cpu":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    return held_at_most(call)


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a call."""
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        float(trees.leaves(call()[0])[0].sum())  # waits for the device
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setting", choices=SETTINGS, default="seed")
    for name, default in {"tasks": 8, "shot": 5, "query": 15, "repeats": 5, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device.raise_malloc_thresholds()
    rows = []
    for form, is_recorded in (("composed", False), ("replayed", True)):
        for steps in (1, 5, 10):
            for again in (False, True):
                problem = (*SETTINGS[options.setting], options.tasks, options.shot, options.query, steps)
                of = Form(*problem, recompute=again)
                call = step(of, options.device, is_recorded, chunk=options.tasks)
                call()
                call()
                row = {"form": form, "steps": steps, "recompute": again}
                rows.append(
                    {**row, "bytes": peak(call, options.device), "seconds": seconds(call, options.repeats)}
                )
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        how = "computed again" if row["recompute"] else "kept"
        megabytes, milliseconds = row["bytes"] / 1e6, 1e3 * row["seconds"]
        print(f"{row['form']:9} K = {row['steps']:2} {how:15} {megabytes:8.0f} MB {milliseconds:8.0f} ms")


if __name__ == "__main__":
    main()
