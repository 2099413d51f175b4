"""Record learning curves for `metabench simulate`: settings of one algorithm, trained to the full budget.

The published settings of a search space come first, then random ones. Each is scored at points on the way, on
frozen meta-validation tasks that are kept apart. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from metabench import PROTOCOL, data
from metabench.core import MetabenchError, Splits
from metabench.core.config import RunConfig, SearchSpace
from metabench.core.device import pick as pick_device
from metabench.data.tasks import frozen as episodes
from metabench.search import space as spaces
from metabench.search.propose.searcher import TRIAL_SEEDS
from metabench.search.propose.study import Study
from metabench.search.replay import curves
from metabench.storage import files
from metabench.training import evaluate, features, loop

SHARES = (1 / 27, 1 / 16, 1 / 9, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1)
"""Of the full budget: the rungs of reduction factors 2, 3 and 4."""

AGAIN = TRIAL_SEEDS // 2
"""Between the seeds of one setting's trainings."""

WHOLE = 50
"""Points are multiples of this many tasks, so that no batch of 5, 10 or 25 tasks is cut at one."""


def points(tasks: int) -> list[int]:
    """Return the tasks seen at which a curve is recorded."""
    return sorted({min(tasks, math.ceil(tasks * share / WHOLE) * WHOLE) for share in SHARES})


def describe(space: SearchSpace, splits: Splits, algorithm: str, seed: int, n_tasks: int) -> dict[str, Any]:
    """Return the first line of a file of curves."""
    low, high = space.task.ways
    is_counted = splits.kind == "classification" and low == high
    frozen = episodes.frozen(splits, "meta_validation", space.task, n_tasks, "search")
    return {
        "curves": curves.FORMAT,
        "protocol": PROTOCOL,
        "algorithm": algorithm,
        "space": space.model_dump(mode="json"),
        "kind": splits.kind,
        "points": points(space.budget.tasks),
        "validation_tasks": n_tasks,
        "queries": low * space.task.test_query if is_counted else None,
        "data_fingerprint": splits.fingerprint,
        "tasks_hash": frozen.hash,
        "seed": seed,
    }


def record(run: RunConfig, splits: Splits, header: dict[str, Any], device: torch.device) -> list[Any]:
    """Train one setting to the full budget and return its points.

    Training and validation are timed apart, so that validating on fewer tasks can be told from it. On a CPU
    the clock is that of this process's one thread, which other processes do not slow.
    """
    clock: Callable[[], float] = time.process_time if device.type == "cpu" else time.perf_counter
    learner = loop.build(run, splits)
    images = splits.meta_validation.images.to(device)
    tasks = episodes.frozen(splits, "meta_validation", run.task, header["validation_tasks"], "search")
    lines, seconds, begun = [], 0.0, clock()
    for report, state in loop.train(run, splits, device=device):
        seconds += clock() - begun
        line: dict[str, Any] = {"tasks_seen": report.tasks_seen, "finite": False, "seconds": seconds}
        begun = clock()
        if report.finite:
            scored = evaluate.evaluate(loop.model(learner, state), images, tasks)
            line |= {"finite": math.isfinite(float(scored.score.mean() + scored.loss.mean()))}
        if line["finite"]:
            line |= {"val_seconds": round(clock() - begun, 3), "loss": round(float(scored.loss.mean()), 5)}
            line |= {"scores": curves.pack(scored.score.tolist(), header["queries"])}
        lines.append(line | {"seconds": round(seconds, 3)})
        if not line["finite"]:
            break
        begun = clock()
    return lines


def read_done(path: Path, header: dict[str, Any]) -> set[tuple[int, int]]:
    """Return number and seed of what is recorded, or refuse a file of something else; start a new file."""
    if not path.exists():
        files.append_line(path, {**header, **files.environment()})
        return set()
    first, *rest = files.read_lines(path)
    # A later version may know settings of a space that were not there then; their defaults change nothing.
    # Nor does what a search would have spent, beyond the points of the curves.
    first["space"] = SearchSpace.model_validate(first["space"]).model_dump(mode="json")
    first["space"]["budget"] = header["space"]["budget"]
    changed = [key for key, value in files.plain(header).items() if first.get(key) != value]
    if changed:
        raise MetabenchError(
            f"{path}: holds other curves ({', '.join(changed)} differ); choose another --out"
        )
    return {(line["number"], line["seed"]) for line in rest}


def settings(
    space: SearchSpace, algorithm: str, options: argparse.Namespace
) -> Iterator[tuple[int, dict[str, Any], int]]:
    """List number, setting and training seed of what is recorded; the published settings come first."""
    budget = space.budget.model_copy(update={"sampler": "random"})
    study = Study(space.model_copy(update={"budget": budget}), algorithm, options.seed)
    proposed = [study.propose() for _ in range(options.settings)]
    first = TRIAL_SEEDS * (options.seed + 1)  # as the search's trial of this number
    for again in range(options.training_seeds):
        for number, sampled in enumerate(proposed):
            yield number, sampled, first + again * AGAIN + number


def main() -> int:
    """Record what is left to record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("space", type=Path, help="YAML file of the search space")
    parser.add_argument("--algorithm", required=True, help="one of the space's")
    parser.add_argument("--settings", type=int, default=48, help="how many, the published ones first")
    parser.add_argument("--training-seeds", type=int, default=1, help="trainings of each setting")
    parser.add_argument("--tasks", type=int, help="full budget, for the space's; the grace keeps its share")
    parser.add_argument("--validation-tasks", type=int, default=400, help="scored at each point")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--out", type=Path, required=True, help="JSON-lines file to write or to go on with")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        device = pick_device(options.device)
        space = spaces.override(spaces.load(options.space), names=[options.algorithm], tasks=options.tasks)
        splits = features.load(space.task, space.network)
        data.check(space.task, splits)
        header = describe(space, splits, options.algorithm, options.seed, options.validation_tasks)
        done = read_done(options.out, header)
    except MetabenchError as error:
        parser.error(str(error))
    for number, sampled, seed in settings(space, options.algorithm, options):
        if (number, seed) in done:
            continue
        hyperparameters = spaces.of(space, options.algorithm).resolve(sampled)
        run = spaces.run_config(space, options.algorithm, hyperparameters, seed, header["points"])
        # train's own validation is not used: it keeps no tasks apart
        lines = record(run.model_copy(update={"validation_tasks": 2}), splits, header, device)
        line = {"number": number, "sampled": sampled, "hyperparameters": hyperparameters, "seed": seed}
        files.append_line(options.out, {**line, "reports": lines})
        last = lines[-1]
        shown = curves.unpack(last.get("scores", []), header["queries"])
        mean = f"{sum(shown) / len(shown):.4f}" if shown else "not finite"
        print(f"[{number + 1}/{options.settings}] {mean} after {last['tasks_seen']} tasks", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
