"""Train networks, and count on held-out tasks how often the sets of their calibration hold the right class.

The calibration is that of each run's folder: of other classes, and of other tasks, than those it is judged
by. Runs are kept in `--out`; the same command goes on, and prints the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from metabench import algorithms, data, stats
from metabench.core import MetabenchError, Split, Splits, seeds
from metabench.core.config import NetworkConfig, RunConfig, TaskConfig
from metabench.data.tasks import frozen
from metabench.stats import Floats
from metabench.training import calibration, diagnostics, evaluate
from metabench.training import run as runs
from metabench.training.calibration import Outputs

DATASETS: Mapping[str, Mapping[str, Any]] = {
    "omniglot": {},
    "quickdraw": {"split": "cloudera", "options": {"examples_per_class": 20}},
}
LEARNERS: Mapping[str, Mapping[str, Any]] = {"protonet": {}, "maml": {"inner_lr": 0.4, "inner_steps": 3}}
WIDTH = 20


class Sets(NamedTuple):
    """What sets at one coverage come to, on each task."""

    coverage: Floats  # [T]
    size: Floats  # [T]
    single: Floats  # [T], share of sets of one class
    right: float  # of these


class Judged(NamedTuple):
    """What runs say of held-out tasks."""

    tasks: frozen.FrozenTasks
    asked: list[Outputs]
    p: Floats  # [T, n, N]
    y: np.ndarray  # [T, n]
    sets: Sets


def shares(outputs: Outputs, temperature: float) -> Floats:
    """Return probabilities [T, n, N]."""
    return (outputs.log_p.double() / temperature).softmax(-1).numpy()


def counted(is_in: np.ndarray, y: np.ndarray) -> Sets:
    """Count what sets [T, n, N] hold."""
    holds = np.take_along_axis(is_in, y[:, :, None], 2)[:, :, 0]
    is_single = is_in.sum(2) == 1
    return Sets(holds.mean(1), is_in.sum(2).mean(1), is_single.mean(1), float(holds[is_single].mean()))


def calibration_error(outputs: Outputs, temperature: float) -> float:
    """Return the expected calibration error."""
    binned = diagnostics.binned((outputs.log_p.double() / temperature).flatten(0, 1), outputs.y.flatten())
    return diagnostics.calibration_error({key: part[None].numpy() for key, part in binned.items()})


def piled(p: Floats, rng: np.random.Generator) -> Floats:
    """Return for each class the probability of all likelier ones, and a random part of its own.

    That is the score of adaptive prediction sets (Romano, Sesia and Candes 2020, arXiv 2006.02544).
    """
    order = np.argsort(-p, axis=2)
    sorted_shares = np.take_along_axis(p, order, 2)
    total = sorted_shares.cumsum(2) - sorted_shares * rng.random((*p.shape[:2], 1))
    return np.take_along_axis(total, np.argsort(order, axis=2), 2)


def by_piles(kept: Outputs, p: Floats, temperature: float, coverage: float) -> np.ndarray:
    """Return the sets that adaptive prediction sets would be, on the same tasks."""
    is_other = np.arange(len(kept.y)) % calibration.EVERY > 0
    y = kept.y.long().numpy()[is_other]
    rng = np.random.default_rng(0)
    right = np.take_along_axis(piled(shares(kept, temperature)[is_other], rng), y[:, :, None], 2)
    return piled(p, rng) <= stats.threshold(right[:, :, 0], coverage)


def train(learner: str, dataset: str, splits: Splits, tasks: int, seed: int, folder: Path) -> None:
    """Train one run, unless it is there."""
    config = RunConfig(
        algorithm=learner,
        hyperparameters=vars(algorithms.hparams(learner, LEARNERS[learner])),
        task=TaskConfig(dataset=dataset, **DATASETS[dataset]),
        network=NetworkConfig(width=WIDTH),
        tasks=tasks,
        rungs=[tasks // 2, tasks],
        validation_tasks=100,
        seed=seed,
    )
    runs.train_run(config, splits, folder)


def row(folders: Sequence[Path], splits: Splits, n_tasks: int, coverage: float) -> str:
    """Judge a run, or an ensemble of them, on meta-test."""
    opened = [runs.open_run(folder, splits) for folder in folders]
    models = [evaluate.by_itself(one.model) for one in opened]
    sure, kept = calibration.of(folders), calibration.read(folders[0])
    if sure is None or kept is None:
        raise MetabenchError(f"{folders}: not calibrated; remove them")

    def judged(part: Literal["meta_validation", "meta_test"], pool: Literal["confirm", "test"]) -> Judged:
        tasks = frozen.frozen(splits, part, opened[0].config.task, n_tasks, pool)
        asked = [calibration.outputs(model, getattr(splits, part).images, tasks) for model in models]
        p = np.mean([shares(*pair) for pair in zip(asked, sure.temperatures, strict=True)], 0)
        y = asked[0].y.long().numpy()
        return Judged(tasks, asked, p, y, counted(p >= calibration.least(sure, coverage), y))

    tasks, asked, p, y, sets = judged("meta_test", "test")
    same_classes = judged("meta_validation", "confirm").sets.coverage.mean()
    mean = stats.mean_interval(sets.coverage)
    of_classes = stats.class_interval(sets.coverage[None], stats.design(frozen.classes_of(tasks)))
    other = ""
    if len(folders) == 1:
        t = sure.temperatures[0]
        before, after = (f"{calibration_error(asked[0], each):.3f}" for each in (1.0, t))
        aps = counted(by_piles(kept, p, t, coverage), y)
        other = f"{t:.2f} | {before} / {after} | {aps.size.mean():.2f} ({aps.coverage.mean():.1%})"
    accuracy = (p.argmax(2) == y).mean()
    return (
        f"{accuracy:.1%} | {same_classes:.1%} | {mean.mean:.1%} [{mean.low:.1%}, {mean.high:.1%}] "
        f"[{of_classes.low:.1%}, {of_classes.high:.1%}] | {sets.size.mean():.2f} | "
        f"{sets.single.mean():.1%}, {sets.right:.1%} right | {other or '| |'}"
    )


def dealt(folder: Path, splits: Splits, n_tasks: int, coverage: float, number: int) -> float:
    """Return the coverage where the held-out classes of both pools are dealt anew, half to each."""
    model = evaluate.by_itself(runs.open_run(folder, splits).model)
    parts = (splits.meta_validation, splits.meta_test)
    images = torch.cat([part.images for part in parts])
    names = [name for part in parts for name in part.classes]
    order = torch.randperm(len(names), generator=seeds.generator("dealt", number))

    def asked(chosen: torch.Tensor, n: int) -> Outputs:
        part = Split(images[chosen], tuple(names[one] for one in chosen), ("",) * len(chosen))
        one = splits._replace(name=f"dealt {number}", meta_test=part)
        tasks = frozen.frozen(one, "meta_test", runs.read_config(folder).task, n, "test")
        return calibration.outputs(model, part.images, tasks)

    half = len(order) // 2
    sure, new = calibration.combine([asked(order[:half], calibration.TASKS)]), asked(order[half:], n_tasks)
    p, y = shares(new, sure.temperatures[0]), new.y.long().numpy()
    return float(counted(p >= calibration.least(sure, coverage), y).coverage.mean())


def main() -> None:
    """Train what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--tasks", type=int, default=4000, help="meta-train tasks of a run")
    parser.add_argument("--seeds", type=int, default=1, help="of these, an ensemble too where several")
    parser.add_argument("--test-tasks", type=int, default=1000)
    parser.add_argument("--coverage", type=float, default=0.9)
    parser.add_argument("--out", type=Path, default=Path("runs/conformal"))
    parser.add_argument("--deals", type=int, default=0, help="deal the held-out classes anew so often")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for dataset in asked.datasets:
        splits = data.load(TaskConfig(dataset=dataset, **DATASETS[dataset]))
        print(f"{dataset}: {len(splits.meta_validation.images)} classes of meta-validation", flush=True)
        for learner in asked.learners:
            folders = [asked.out / f"{dataset}-{learner}-{asked.tasks}-{seed}" for seed in range(asked.seeds)]
            for seed, folder in enumerate(folders):
                train(learner, dataset, splits, asked.tasks, seed, folder)
            for number in range(asked.deals):
                share = dealt(folders[0], splits, asked.test_tasks, asked.coverage, number)
                print(f"{dataset} {learner}, classes dealt anew {number}: {share:.1%}", flush=True)
            members = [[folder] for folder in folders] + ([folders] if asked.seeds > 1 else [])
            for each in members:
                print(f"| {dataset} | {learner} | {len(each)} | ", end="")
                print(row(each, splits, asked.test_tasks, asked.coverage), "|", flush=True)


if __name__ == "__main__":
    main()
