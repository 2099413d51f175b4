"""What tf32 and bfloat16 products would do to a meta-gradient, and to what is learnt; needs no GPU.

Matrix units of GPUs take factors of a product with 10 bits of mantissa (tf32) or 7 (bfloat16), and add up in
float32. Here both factors of every convolution are rounded to the nearest such number on a CPU, forward,
backward and in second derivatives; a unit may cut off what this rounds. Printed are distances of
meta-gradients from float64 ones, on real tasks, and accuracy on meta-validation after training with each
rounding from the same seeds.

    METABENCH_DATA=../shared/data python benchmarks/rounding.py --tasks 4000 --seeds 3
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from metabench.core import MetabenchError, Splits, Task, seeds, trees
from metabench.core.config import NetworkConfig, RunConfig, TaskConfig
from metabench.data import load
from metabench.data.tasks import frozen, sampling
from metabench.nets.kernels import cpu
from metabench.stats import mean_interval
from metabench.training import loop, vectorise

MANTISSA = 23
BITS: Mapping[str, int] = {"float32": MANTISSA, "tf32": 10, "bfloat16": 7}
"""Of the mantissa of a factor."""

COUNTS = {"tasks": 4000, "seeds": 3, "batches": 10, "width": 20}
"""Options and what they are if not given."""

SETTINGS = {"inner_lr": 0.4, "inner_steps": 5, "outer_lr": 2e-3, "task_batch_size": 16}


def rounded(x: Tensor, bits: int) -> Tensor:
    """Round float32 numbers to the nearest of so many bits of mantissa, to even where two are as near."""
    if x.dtype != torch.float32 or bits == MANTISSA:
        return x
    dropped = MANTISSA - bits
    whole = x.view(torch.int32)
    half = (1 << (dropped - 1)) - 1 + ((whole >> dropped) & 1)
    return ((whole + half) & ~((1 << dropped) - 1)).view(torch.float32)


@contextmanager
def rounding(bits: int) -> Iterator[None]:
    """Round both factors of every convolution of a fused step."""

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda a, b, groups: function(rounded(a, bits), rounded(b, bits), groups)

    with (
        mock.patch.object(cpu, "convolve", of(cpu.convolve)),
        mock.patch.object(cpu, "correlate", of(cpu.correlate)),
    ):
        yield


def described(seed: int, tasks: int, width: int, algorithm: str = "maml") -> RunConfig:
    """Describe a run on Omniglot, 5-way 1-shot."""
    return RunConfig(
        algorithm=algorithm,
        hyperparameters=SETTINGS,
        task=TaskConfig(dataset="omniglot", way=5, shot=1),
        network=NetworkConfig(width=width, batch_norm="transductive"),
        tasks=tasks,
        rungs=[tasks],
        validation_tasks=600,
        seed=seed,
    )


def distances(config: RunConfig, splits: Splits, n_batches: int) -> dict[str, list[float]]:
    """Return how far meta-gradients of each rounding are from those of float64, batch by batch."""
    learner = loop.build(config, splits)
    state = loop.start(config, learner)
    source = sampling.pool(splits.meta_train, config.task)
    by_precision: dict[str, list[float]] = {name: [] for name in BITS}
    for batch in range(n_batches):
        ((shape, _),) = sampling.shapes(config.task, config.task.query, 1, seeds.generator("rounding"))
        drawn = sampling.sample(seeds.generator("rounding", batch), source, shape, 8)
        tasks = frozen.gather(splits.meta_train.images, drawn, shape)
        exact = gradient(learner, trees.map(Tensor.double, state.meta), double(tasks))
        for name, bits in BITS.items():
            with rounding(bits):
                rough = gradient(learner, state.meta, tasks)
            difference = trees.norm(trees.map(torch.sub, rough, exact))
            by_precision[name].append(float(difference / trees.norm(exact)))
    return by_precision


def gradient(learner: loop.Learner, meta: Any, tasks: Task) -> Any:
    """Return a meta-gradient."""
    return vectorise.meta_gradient(
        vectorise.Model(learner.algorithm, learner.net, meta, {}, learner.h), tasks, 0.0
    )[0]


def double(tasks: Task) -> Task:
    """Turn images into float64."""
    support, query, classes = tasks
    return Task(support._replace(x=support.x.double()), query._replace(x=query.x.double()), classes)


def learnt(config: RunConfig, splits: Splits, bits: int) -> tuple[float, ...]:
    """Train with a rounding, evaluate without, and return the score of each task of meta-validation."""
    with rounding(bits):
        *_, (report, _) = loop.train(config, splits)
    return tuple(report.val_scores)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    for name in COUNTS:
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: must be >= 1")
    torch.set_num_threads(1)
    try:
        splits = load(TaskConfig(dataset="omniglot", way=5, shot=1))
    except MetabenchError as error:
        parser.error(str(error))
    result: dict[str, Any] = {"distances": {}, "scores": {name: [] for name in BITS}}
    for algorithm in ("maml", "fomaml"):
        config = described(0, options.tasks, options.width, algorithm)
        result["distances"][algorithm] = distances(config, splits, options.batches)
        for name, values in result["distances"][algorithm].items():
            middle, most = statistics.median(values), max(values)
            print(f"{algorithm:7} {name:9} {middle:.1e} from float64, at most {most:.1e}")
    for seed in range(options.seeds):
        for name, bits in BITS.items():
            scores = learnt(described(seed, options.tasks, options.width), splits, bits)
            result["scores"][name].append(scores)
            summary = mean_interval(torch.tensor(scores).double().numpy())
            print(
                f"seed {seed} {name:9} {100 * summary.mean:.2f} % +- {50 * (summary.high - summary.low):.2f}",
                flush=True,
            )
    for name in list(BITS)[1:]:
        pairs = zip(result["scores"][name], result["scores"]["float32"], strict=True)
        means = [statistics.fmean(rough) - statistics.fmean(exact) for rough, exact in pairs]
        spread = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
        summary = f"{100 * statistics.fmean(means):+.2f} points, standard error {100 * spread:.2f}"
        print(f"{name} less float32, over {len(means)} seeds: {summary}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
