"""What a decision of the driver costs its processor, by how many trials there are.

A search of one algorithm is taken to where it has so many trials, whose reports come from no worker; then the
driver decides what they and new ones report, and who goes on or begins, as it does for two workers. One
decision is what it takes from a report to the next. Times are those of the processor, means and the slowest
of some, with TPE as sampler of `asha`; nothing is written.
"""

from __future__ import annotations

import argparse
import datetime
import math
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from metabench.core.objectives import OBJECTIVES
from metabench.search import space as spaces
from metabench.search.journal.ledger import CONTINUE, WAIT, Trial
from metabench.search.journal.rule import SCORES, decide
from metabench.search.propose.searcher import FairSearcher
from metabench.search.replay.simulate import Memory
from metabench.storage import files

MARKS = (100, 500, 1000, 2000)
DECISIONS = 40
VALIDATED = 50
"""Tasks that each report has scores of."""

SPACE = Path(__file__).parents[1] / "search_spaces" / "demo.yaml"
BUDGET = {"tasks": 2700, "grace": 100, "reduction_factor": 3, "validation_tasks": VALIDATED, "pause": True}
ALGORITHM = "maml_pp"


class Driver:
    """A search whose reports are made up: the better its outer rate, the better a trial scores."""

    def __init__(self, n_trials: int) -> None:
        """Begin so many trials at random, and judge them by `asha`."""
        self.ledger = Memory(OBJECTIVES["classification"])
        self.draw = random.Random(0)
        self.running: list[tuple[str, Trial]] = []
        self.n_steps = 0
        self.change(scheduler="asha", sampler="random", trials=4 * n_trials)
        while len(self.ledger.trials) < n_trials:
            self.step()

    def change(self, **budget: Any) -> None:
        """Go on with another budget, as a search that is continued."""
        space = spaces.load(SPACE)
        algorithms = {ALGORITHM: space.algorithms[ALGORITHM]}
        changed = space.budget.model_copy(update={**BUDGET, **budget})
        self.space = space.model_copy(update={"budget": changed, "algorithms": algorithms})
        self.rungs = spaces.rungs(changed)
        self.searcher = FairSearcher(self.space, self.ledger, 0)
        self.running.clear()

    def report(self, trial: Trial) -> None:
        """Make a trial's next report, and decide it."""
        seen = next(rung for rung in self.rungs if rung > trial.tasks_seen)
        away = abs(math.log(trial.hyperparameters["outer_lr"] / 4e-3))
        mean = 0.5 - 0.05 * away + 0.05 * math.log(seen / self.rungs[-1]) + 0.02 * self.draw.gauss(0, 1)
        scores = [mean + 0.1 * self.draw.gauss(0, 1) for _ in range(VALIDATED)]
        self.ledger.scores[trial.name, seen] = scores
        report = {"tasks_seen": seen, "finite": True, "val_score": statistics.fmean(scores), SCORES: scores}
        decide(self.ledger, self.space.budget, trial.name, {**report, "seconds": seen / 100})

    def step(self) -> None:
        """Hand out what is next to two workers, and hear the first report."""
        while len(self.running) < 2 and isinstance(config := self.searcher.suggest(str(self.n_steps)), dict):
            self.running.append((str(self.n_steps), self.ledger.trials[config["trial"]]))
            self.n_steps += 1
        trial_id, trial = self.running.pop(0)
        self.report(trial)
        decision = trial.decisions[trial.tasks_seen]
        if decision == CONTINUE or (decision == WAIT and self.searcher.goes_on(trial.name)):
            self.running.append((trial_id, trial))
        else:
            self.searcher.hand_back(trial_id)


def measure(scheduler: str, n_trials: int, n_decisions: int = DECISIONS) -> list[float]:
    """Return the processor's seconds of some decisions after so many trials."""
    driver = Driver(n_trials)
    driver.change(scheduler=scheduler, trials=4 * n_trials)
    driver.step()  # the first rebuilds what a running search has at hand
    taken = []
    for _ in range(n_decisions):
        begun = time.process_time()
        driver.step()
        taken.append(time.process_time() - begun)
    return taken


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schedulers", nargs="+", default=["asha", "freeze_thaw"], help="who decides")
    parser.add_argument("--trials", type=int, nargs="+", default=MARKS, help="after so many")
    options = parser.parse_args()
    print(f"{files.environment()['device']}, {datetime.date.today()}\n")
    print("| trials | " + " | ".join(f"{one}, ms a decision (slowest)" for one in options.schedulers) + " |")
    print("|---" * (1 + len(options.schedulers)) + "|")
    for n_trials in options.trials:
        taken = [measure(scheduler, n_trials) for scheduler in options.schedulers]
        cells = [f"{1e3 * statistics.fmean(one):.1f} ({1e3 * max(one):.1f})" for one in taken]
        print(f"| {n_trials:,} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
