"""Search and run folders made of plain numbers, as small as the leaderboard can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metabench.core.config import NetworkConfig, TaskConfig
from metabench.storage import files

TASK: dict[str, Any] = TaskConfig(dataset="small").model_dump(mode="json")
NETWORK = NetworkConfig(width=8, batch_norm="transductive").model_dump(mode="json")
BEFORE: dict[str, Any] = {"protocol": 1, "data_fingerprint": "f" * 64}
BUDGET = {"tasks": 100, "rungs": [50, 100]}
N_TASKS = 40
N_CLASSES = 12
CLASSES = [" ".join(map(str, np.random.default_rng(t).permutation(N_CLASSES)[:5])) for t in range(N_TASKS)]
NAMES = [f"class {number}" for number in range(N_CLASSES)]
"""What a test result says of its tasks."""


def report(
    tasks_seen: int, figure: float | None, finite: bool = True, metric: str = "accuracy"
) -> dict[str, Any]:
    """Make a line of reports.jsonl."""
    measured: dict[str, Any] = {"tasks_seen": tasks_seen, "finite": finite}
    if metric == "accuracy":
        measured |= {"val_score": figure, "val_accuracy": figure}
    else:
        measured |= {"val_score": figure and -figure, "val_accuracy": None, "val_loss": figure}
    return {**measured, "seconds": tasks_seen / 10, "peak_memory": 1000 + tasks_seen}


def task(metric: str) -> dict[str, Any]:
    """Describe a task that is judged by a metric."""
    return TASK if metric == "accuracy" else {**TASK, "way": 1, "shot": 10}


def accuracies(mean: float, seed: int, n_tasks: int = N_TASKS) -> list[float]:
    """Draw accuracies that share what is hard about each task."""
    hard = np.random.default_rng(0).normal(0, 0.1, n_tasks)
    return list(mean + hard - hard.mean() + np.random.default_rng(seed + 1).normal(0, 0.01, n_tasks))


def make_run(
    folder: Path,
    algorithm: str,
    seed: int,
    mean: float | None,
    lr: float = 0.1,
    tasks_hash: str = "a" * 64,
    metric: str = "accuracy",
) -> Path:
    """Write a trained run folder; with a mean it is tested as well."""
    described = {"algorithm": algorithm, "hyperparameters": {"inner_lr": lr, "inner_steps": 5}, "seed": seed}
    files.write_json(
        folder / files.CONFIG,
        {**BEFORE, "run": {**described, "task": task(metric), "network": NETWORK, **BUDGET}},
    )
    for tasks_seen, figure in ((50, 0.55), (100, 0.5)):
        files.append_line(folder / files.REPORTS, report(tasks_seen, figure, metric=metric))
    if mean is not None:
        scores = {metric: accuracies(mean, seed), "tasks": N_TASKS, "tasks_hash": tasks_hash}
        scores |= {"classes": CLASSES, "class_names": NAMES, "loss": accuracies(1, seed)}
        scores |= {"opened": "2026-01-01T00:00:00+00:00", "code": "c" * 16, "commit": None}
        scores |= {"config_hash": "d" * 64, "batch_norm": "transductive", "times_opened": 1}
        files.write_json(folder / files.TEST, {"protocol": 1, **scores})
    return folder


def change(path: Path, **values: Any) -> None:
    """Change what a JSON file says."""
    files.write_json(path, {**files.read_json(path), **values})


def alone(run: Path, mean: float, metric: str = "accuracy") -> Path:
    """Add to a run's result the figures of queries that are asked one at a time."""
    seed = files.read_json(run / files.CONFIG)["run"]["seed"]
    change(run / files.TEST, **{f"{metric}_one_at_a_time": accuracies(mean, seed)})
    return run


def make_search(
    folder: Path, algorithms: tuple[str, ...] = ("maml", "fomaml"), metric: str = "accuracy"
) -> Path:
    """Write a search in the middle of its trials: two ended an algorithm, one of them diverged, one runs."""
    space = {
        "task": task(metric),
        "network": NETWORK,
        "algorithms": {name: {} for name in algorithms},
        "budget": {**BUDGET, "trials": 3, "grace": 50, "seeds": 2},
    }
    files.write_json(folder / files.SEARCH, {**BEFORE, "seed": 0, "space": space})
    for algorithm in algorithms:
        for number, (status, figure) in enumerate((("pruned", 0.4), ("diverged", None))):
            line = {"trial": f"{algorithm}-{number:03d}", "algorithm": algorithm, "status": status}
            settings = {"hyperparameters": {"inner_lr": 0.1, "inner_steps": 5}, "is_default": number == 0}
            spent = {key: value for key, value in report(30, None).items() if "val" not in key}
            files.append_line(folder / files.TRIALS, {**line, **settings, **spent, f"val_{metric}": figure})
    live = {"algorithm": algorithms[0], **report(60, 0.45, metric=metric)}
    files.write_json(folder / files.RUNNING, {"trials": {f"{algorithms[0]}-002": live}})
    return folder


def finish(folder: Path, means: dict[str, tuple[float, float]], metric: str = "accuracy") -> Path:
    """Give a search its chosen settings, final runs and meta-test; means are of tuned and default."""
    (folder / files.RUNNING).unlink()
    chosen: dict[str, Any] = {}
    for algorithm, (tuned, default) in means.items():
        winner = {"trial": f"{algorithm}-000", f"val_{metric}": 0.6, f"confirm_{metric}": 0.58}
        chosen[algorithm] = {**winner, "hyperparameters": {"inner_lr": 0.4, "inner_steps": 5}}
        for seed in (0, 1):
            final = folder / files.FINAL
            make_run(final / f"{algorithm}-tuned-seed{seed}", algorithm, seed, tuned, lr=0.4, metric=metric)
            make_run(final / f"{algorithm}-default-seed{seed}", algorithm, seed + 2, default, metric=metric)
    files.write_json(folder / files.CHOSEN, chosen)
    floor = {"protocol": 1, metric: accuracies(0.35, 9), "tasks_hash": "a" * 64}
    name = files.NEAREST_MEAN if metric == "accuracy" else files.ZERO
    files.write_json(folder / files.FINAL / name, floor)
    opened = {"finished": "2026-01-01T00:00:00+00:00", "config_hash": "d" * 64, "times_opened": 1}
    files.write_json(folder / files.META_TEST, opened)
    return folder
