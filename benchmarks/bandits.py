"""Total reward of bandits over all pulls, one after another, each of which the learner knows before the next.

python benchmarks/bandits.py RUN [--tasks 2000]

RUN is a folder of `metabench train --dataset bandit --shot 1 --option baseline=none --set inner_steps=K`:
K pulls that a learner reads one by one, and one more. What is printed is the mean over frozen meta-test
tasks with its 95 % interval, of all pulls and of each; published totals are of 5 and of 10 arms.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from navigation import returns

from metabench import data, stats
from metabench.core import MetabenchError
from metabench.data.tasks import frozen
from metabench.training import evaluate
from metabench.training import run as runs


def main() -> None:
    """Print the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tasks", type=int, default=2000, help="frozen meta-test tasks")
    options = parser.parse_args()
    try:
        config = runs.read_config(options.run)
        splits = data.load(config.task)
        model = runs.open_run(options.run, splits).model
    except MetabenchError as error:
        parser.error(str(error))
    if splits.environment is None:
        parser.error(f"{options.run}: trained on {splits.name}, where nobody acts; give a run on bandit")
    tasks = frozen.frozen(splits, "meta_test", config.task, options.tasks, "test")
    pulls = np.stack([*evaluate.over(returns, model, splits.meta_test.images, tasks).values()], 1)
    mean, low, high, *_ = stats.mean_interval(pulls.sum(1))
    each = ", ".join(f"{one:.3f}" for one in pulls.mean(0).tolist())
    sys.stdout.write(
        f"{options.run}: {mean:.2f} [{low:.2f}, {high:.2f}] in {pulls.shape[1]} pulls of {options.tasks} "
        f"bandits; pull by pull {each}\n"
    )


if __name__ == "__main__":
    main()
