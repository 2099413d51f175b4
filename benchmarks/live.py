"""Search for real what `efficiency.py` replays: today's default beside `asha`, at equal spend.

First-order MAML on Quick, Draw!, the space and the best setting of a file of curves. Each way has the same
accelerator seconds and the same search seeds; what it names is trained once to the full budget and tested on
fresh tasks, the same for all. Regret is how far it is there from the best recorded setting, trained alike.
The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from metabench import data, stats
from metabench.core import MetabenchError
from metabench.core.config import SearchSpace
from metabench.search import space as spaces
from metabench.search.journal.ledger import look
from metabench.search.replay import curves
from metabench.search.replay.curves import Recording
from metabench.search.stages import final
from metabench.storage import files
from metabench.training import run as runs

CURVES = Path(__file__).with_name("curves_quickdraw_fomaml.jsonl")

WAYS: dict[str, dict[str, Any]] = {
    "default": {"validation_tasks": 50},
    "pausing": {"validation_tasks": 50, "scheduler": "asha"},
    "stopping": {"validation_tasks": 50, "scheduler": "asha", "pause": False},
    "stopping, later rungs": {"grace": 1 / 9, "validation_tasks": 200, "scheduler": "asha", "pause": False},
}
"""Settings of the budget; the last way is what was the default before trials could wait."""

EARLIEST = 1 / 24
"""Share of a full run of the lowest rung, where a way has no other."""


class Outcome(NamedTuple):
    """What one search came to."""

    trials: int
    seconds: float  # of all its trials
    differences: np.ndarray  # [T] the best recorded setting's accuracy minus that of the one it named


def space_of(recording: Recording, changes: dict[str, Any], options: argparse.Namespace) -> SearchSpace:
    """Return the recorded space with the budget of one way; one setting is confirmed, and trained once."""
    space, tasks = recording.space, options.tasks or recording.space.budget.tasks
    budget: dict[str, Any] = {"tasks": tasks, "trials": options.trials, "test_tasks": options.test_tasks}
    budget |= {"unit": "seconds", "seconds": options.seconds}
    budget |= {"confirm_top": 1, "seeds": 1, "default_runs": False, **changes}
    budget["grace"] = max(1, round(changes.get("grace", EARLIEST) * tasks))
    return SearchSpace.model_validate({**space.model_dump(mode="json", exclude={"budget"}), "budget": budget})


def search(space: SearchSpace, name: str, seed: int, options: argparse.Namespace) -> Path:
    """Run a search, or what is left of it, as a command of its own; return the run of what it named."""
    (algorithm,), path = space.algorithms, options.out / f"{name}.yaml"
    named = Path(options.out) / name / files.FINAL / f"{algorithm}-tuned-seed0"
    if not (named / files.TEST).exists():
        files.write_text(path, yaml.safe_dump(space.model_dump(mode="json"), sort_keys=False))
        command = [sys.executable, "-c", "from metabench.cli import main; main()", "search", str(path)]
        words = ["--out", str(options.out), "--name", name, "--seed", str(seed), "--quiet"]
        subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL)
    return named


def accuracies(folder: Path) -> np.ndarray:
    """Read the meta-test accuracies, [T], of a run."""
    return np.array(files.read_json(folder / files.TEST)["accuracy"])


def reference(recording: Recording, options: argparse.Namespace) -> np.ndarray:
    """Train the best recorded setting as a final run, and test it on the same tasks."""
    ((algorithm, recorded),) = recording.curves.items()
    space = space_of(recording, WAYS["default"], options)
    best = max(recorded, key=lambda one: -1.0 if one.points[-1].score is None else one.points[-1].score)
    chosen = {algorithm: {"hyperparameters": spaces.of(space, algorithm).resolve(best.sampled)}}
    (run,) = final.plan(space, chosen, seed=0)
    folder, splits = options.out / "best_recorded", data.load(space.task)
    if not (folder / files.TEST).exists():
        runs.train_run(run.config, splits, folder)
        runs.test_run(folder, splits, options.test_tasks, is_diagnosed=False)
    return accuracies(folder)


def outcome(named: Path, best: np.ndarray) -> Outcome:
    """Read what a search came to, which named the setting of a run."""
    trials = look(named.parents[1]).trials.values()
    return Outcome(len(trials), sum(trial.seconds for trial in trials), best - accuracies(named))


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """Return what each way came to, with 95 % intervals: of regret over search seeds, of each over tasks."""
    rows = ["| search | trials | accelerator seconds | points of regret | of each seed |", "|---" * 5 + "|"]
    for way, searched in outcomes.items():
        regrets = 100 * np.array([one.differences.mean() for one in searched])
        each = [stats.mean_interval(100 * one.differences) for one in searched]
        interval = stats.mean_interval(regrets)
        cells = [
            way,
            ", ".join(str(one.trials) for one in searched),
            ", ".join(f"{one.seconds:.0f}" for one in searched),
            f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]",
            "; ".join(f"{one.mean:.2f} [{one.low:.2f}, {one.high:.2f}]" for one in each),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def options_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line."""
    parser.add_argument("--curves", type=Path, default=CURVES, help="file of curves, of one algorithm")
    parser.add_argument("--out", type=Path, default=Path("runs/live"), help="folder of the searches")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="what is compared")
    parser.add_argument("--seeds", type=int, default=3, help="searches of each way")
    parser.add_argument("--trials", type=int, default=24, help="settings of a search, at most")
    parser.add_argument(
        "--seconds", type=float, default=240.0, help="of training and validation, each search"
    )
    parser.add_argument("--tasks", type=int, help="of a full run, for the recorded")
    parser.add_argument("--test-tasks", type=int, default=1000, help="fresh tasks")
    return parser.parse_args()


def main() -> int:
    """Search, seed by seed, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options = options_of(parser)
    torch.set_num_threads(1)
    try:
        recording = curves.read([options.curves])
        best = reference(recording, options)
    except MetabenchError as error:
        parser.error(str(error))
    outcomes: dict[str, list[Outcome]] = {way: [] for way in options.ways}
    for seed in range(options.seeds):
        for way, searched in outcomes.items():
            name = f"{way.replace(', ', '-').replace(' ', '-')}-{seed}"
            named = search(space_of(recording, WAYS[way], options), name, seed, options)
            searched.append(outcome(named, best))
            print(f"{name}: {100 * searched[-1].differences.mean():.2f} points of regret", flush=True)
    print(f"\n{files.environment()['device']}, {datetime.date.today()}\n\n{table(outcomes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
