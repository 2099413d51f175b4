"""What a user waits for around the meta-step: help, a run's first step, and validation between rungs.

python benchmarks/around.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WIDTH = 20
"""Channels of the network whose validation is timed."""

FIRST_STEP = """
import os, sys, time
from metabench import train
step = train.meta_step
def until_here(*args, **options):
    step(*args, **options)
    print(time.time(), "ray" in sys.modules)
    sys.stdout.flush()
    os._exit(0)
train.meta_step = until_here
from metabench.cli import main
main()
"""


def help_seconds(repeats: int) -> float:
    """Return the median seconds of `metabench --help`."""
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "from metabench.cli import main; main()", "--help"],
                       check=True, capture_output=True)  # fmt: skip
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def first_step(dataset: str, data: Path, out: Path) -> tuple[float, bool]:
    """Return the seconds until a run's first meta-step is done, and whether ray was imported by then."""
    words = ["train", "--algorithm", "maml", "--dataset", dataset, "--out", str(out)]
    begun = time.time()
    done = subprocess.run(
        [sys.executable, "-c", FIRST_STEP, *words],
        stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "METABENCH_DATA": str(data)},
    )  # fmt: skip
    moment, has_ray = done.stdout.split()[-2:]
    return float(moment) - begun, has_ray == "True"


def validation_share(
    algorithm: str, tasks: int, rungs: list[int], threads: int
) -> list[tuple[int, float, float]]:
    """Return of each rung the tasks seen, and the seconds of training and of validation since the last."""
    import torch

    from metabench import data
    from metabench.core.config import NetworkConfig, RunConfig, TaskConfig
    from metabench.training import loop

    torch.set_num_threads(threads)
    task = TaskConfig(dataset="glyphs", way=5, shot=1, query=15)
    described = {
        "algorithm": algorithm,
        "hyperparameters": {},
        "network": NetworkConfig(width=WIDTH, batch_norm="transductive"),
        "seed": 0,
    }
    config = RunConfig(**described, task=task, tasks=tasks, rungs=rungs)
    spent: list[float] = []
    evaluate = loop.evaluate

    def timed(*args: object) -> object:
        begun = time.perf_counter()
        result = evaluate(*args)  # type: ignore[arg-type]
        spent.append(time.perf_counter() - begun)
        return result

    loop.evaluate = timed  # type: ignore[assignment]
    try:
        reports = [report for report, _ in loop.train(config, data.load(task))]
    finally:
        loop.evaluate = evaluate
    seconds = [0.0, *(report.seconds for report in reports)]
    return [
        (report.tasks_seen, now - before - validation, validation)
        for report, now, before, validation in zip(reports, seconds[1:], seconds, spent, strict=False)
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder with Omniglot; only glyphs without it")
    parser.add_argument("--tasks", type=int, default=2000, help="of a full run; rungs at a ninth and a third")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(f"metabench --help                 {help_seconds(7):6.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        places = {"glyphs": Path(folder) / "data"}
        if options.data:
            places["omniglot"] = options.data.resolve()
        for dataset, data in places.items():
            for attempt in range(3):
                seconds, has_ray = first_step(dataset, data, Path(folder) / f"{dataset}-{attempt}")
                ray = ", ray was imported" if has_ray else ""
                print(f"first step on {dataset:12} run {attempt + 1}  {seconds:6.2f} s{ray}", flush=True)
    rungs = [options.tasks // 9, options.tasks // 3, options.tasks]
    for algorithm in ("maml", "fomaml", "protonet"):
        for seen, training, validation in validation_share(algorithm, options.tasks, rungs, options.threads):
            share = validation / training
            print(f"{algorithm:9} up to {seen:6} tasks: training {training:7.2f} s, "
                  f"validation {validation:6.2f} s, {share:6.1%}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
