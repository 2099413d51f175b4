"""Train and test each way to normalise a query: all queries of a task together, and one at a time.

Every network is trained as it is tested. A line of JSON a network is appended to `--out`; the same command
goes on after the last line, and prints the table of means over seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from metabench import algorithms, data
from metabench.core import Splits
from metabench.core import device as memory
from metabench.core.config import NetworkConfig, RunConfig, TaskConfig
from metabench.data.tasks import frozen
from metabench.storage import files
from metabench.training import evaluate, loop

TASKS: Mapping[str, Mapping[str, Any]] = {
    "glyphs": {},
    "omniglot": {},
    "quickdraw": {"split": "cloudera", "options": {"examples_per_class": 20}},
}

GRADIENT = {"inner_lr": 0.4, "inner_steps": 3}
LEARNERS: Mapping[str, Mapping[str, Any]] = {
    "maml": GRADIENT,
    "maml_pp": GRADIENT,
    "protonet": {},
    "finetune": {},
}

MODES: Mapping[str, Mapping[str, Any]] = {
    "support_stats": {"batch_norm": "support_stats"},
    "with_support": {"batch_norm": "with_support"},
    "transductive": {"batch_norm": "transductive"},
    "group norm": {"norm": "group"},
    "per-step running": {"batch_norm": "transductive"},  # of meta-training; MAML++ alone can be tested so
}

WIDTH, TEST_TASKS = 16, 100


def cells(seeds: int) -> Iterator[tuple[str, str, str, int]]:
    """Yield data set, learner, mode and seed: seed by seed, and what is compared most first."""
    for seed, mode, dataset, learner in itertools.product(range(seeds), MODES, TASKS, LEARNERS):
        if mode != "per-step running" or learner == "maml_pp":
            yield dataset, learner, mode, seed


def measure(splits: Splits, dataset: str, learner: str, mode: str, seed: int, tasks: int) -> dict[str, Any]:
    """Train one network and score it on meta-test."""
    settings = {**LEARNERS[learner], **({"per_step_statistics": True} if mode == "per-step running" else {})}
    config = RunConfig(
        algorithm=learner,
        hyperparameters=vars(algorithms.hparams(learner, settings)),
        task=TaskConfig(dataset=dataset, **TASKS[dataset]),
        network=NetworkConfig(width=WIDTH, **MODES[mode]),
        tasks=tasks,
        rungs=[tasks],
        validation_tasks=2,
        seed=seed,
    )
    start = time.perf_counter()
    built = loop.build(config, splits)
    *_, (_, state) = loop.train(config, splits)
    seconds = time.perf_counter() - start
    test_tasks = frozen.frozen(splits, "meta_test", config.task, TEST_TASKS, "test")
    tested = evaluate.test(loop.model(built, state), splits.meta_test.images, test_tasks)
    return {
        "dataset": dataset,
        "learner": learner,
        "mode": mode,
        "seed": seed,
        "tasks": tasks,
        "together": float(tested.score.mean()),
        "alone": float(tested.alone.mean()),
        "seconds": round(seconds, 1),
    }


def as_markdown(lines: list[dict[str, Any]]) -> str:
    """Return accuracies in percent: all queries of a task together / one at a time, means over seeds."""
    by_cell: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in lines:
        by_cell.setdefault((line["dataset"], line["learner"], line["mode"]), []).append(line)
    rows = [f"| data | learner | {' | '.join(MODES)} |", "|---" * (2 + len(MODES)) + "|"]
    for dataset in TASKS:
        for learner in LEARNERS:
            shown = []
            for mode in MODES:
                seeds = by_cell.get((dataset, learner, mode), [])
                means = [
                    100 * statistics.fmean(one[key] for one in seeds)
                    for key in ("together", "alone")
                    if seeds
                ]
                shown.append(" / ".join(f"{mean:.1f}" for mean in means))
            rows.append(f"| {dataset} | {learner} | {' | '.join(shown)} |")
    return "\n".join(rows)


def main() -> None:
    """Measure what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--datasets", nargs="+", choices=TASKS, default=list(TASKS), help="of these only")
    parser.add_argument("--tasks", type=int, default=1000, help="meta-train tasks of a network")
    parser.add_argument("--out", type=Path, default=Path("runs/batch_norm.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    memory.raise_malloc_thresholds()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = files.read_lines(options.out)
    keys = ("dataset", "learner", "mode", "seed", "tasks")
    done = {tuple(line[key] for key in keys) for line in lines}
    splits: dict[str, Splits] = {}
    for cell in cells(options.seeds):
        if (*cell, options.tasks) in done or cell[0] not in options.datasets:
            continue
        dataset = cell[0]
        if dataset not in splits:
            splits[dataset] = data.load(TaskConfig(dataset=dataset, **TASKS[dataset]))
        lines.append(measure(splits[dataset], *cell, options.tasks))
        files.append_line(options.out, lines[-1])
        print(json.dumps(lines[-1]), flush=True)
    print(as_markdown([line for line in lines if line["tasks"] == options.tasks]))


if __name__ == "__main__":
    main()
