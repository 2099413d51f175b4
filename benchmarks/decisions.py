"""What a decision of the driver costs its processor, by how many trials there are.

A search of one algorithm is taken to where it has so many trials, whose reports come from no worker; then the
driver decides what they and new ones report, and who goes on or begins, as it does for two workers. One
decision is what it takes from a report to the next. Times are those of the processor, medians and the slowest
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

from metabench.core.config import SearchSpace
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

    def __init__(self, scheduler: str, n_trials: int) -> None:
        space = spaces.load(SPACE)
        budget = space.budget.model_copy(
            update={**BUDGET, "scheduler": scheduler, "trials": 4 * n_trials, "sampler": "random"}
        )
        algorithms = {ALGORITHM: space.algorithms[ALGORITHM]}
        self.space = space.model_copy(update={"budget": budget, "algorithms": algorithms})
        self.rungs = spaces.rungs(budget)
        self.ledger = Memory(OBJECTIVES["classification"])
        self.draw = random.Random(0)
        self.running: list[tuple[str, Trial]] = []
        self.searcher = FairSearcher(self.space, self.ledger, 0)

    def report(self, trial: Trial) -> None:
        """Make a trial's next report, and decide it."""
        seen = next(rung for rung in self.rungs if rung > trial.tasks_seen)
        away = abs(math.log(trial.hyperparameters["outer_lr"] / 4e-3))
        mean = 0.5 - 0.05 * away + 0.05 * math.log(seen / self.rungs[-1]) + 0.02 * self.draw.gauss(0, 1)
        scores = [mean + 0.1 * self.draw.gauss(0, 1) for _ in range(VALIDATED)]
        self.ledger.scores[trial.name, seen] = scores
        report = {"tasks_seen": seen, "finite": True, "val_score": statistics.fmean(scores), SCORES: scores}
        decide(self.ledger, self.space.budget, trial.name, {**report, "seconds": seen / 100})

    def grow(self, n_trials: int) -> None:
        """Begin trials at random until there are so many; one in three reports twice, one in nine thrice."""
        study = self.searcher.studies[ALGORITHM]
        while (number := len(self.ledger.trials)) < n_trials:
            trial = self.searcher._new_trial(ALGORITHM, study.propose())
            self.report(trial)
            for _ in range((number % 3 == 0) + (number % 9 == 0)):
                if trial.is_waiting:
                    self.ledger.settle(trial.name, CONTINUE, {"rung": 0})
                self.report(trial)
        budget = self.space.budget.model_copy(update={"sampler": "tpe"})
        space: SearchSpace = self.space.model_copy(update={"budget": budget})
        self.searcher = FairSearcher(space, self.ledger, 0)

    def step(self, number: int) -> None:
        """Hand out what is next to two workers, and hear the first report."""
        while len(self.running) < 2 and isinstance(config := self.searcher.suggest(f"{number}"), dict):
            self.running.append((f"{number}", self.ledger.trials[config["trial"]]))
            number += 1_000_000
        trial_id, trial = self.running.pop(0)
        self.report(trial)
        decision = trial.decisions[trial.tasks_seen]
        if decision == CONTINUE or (decision == WAIT and self.searcher.goes_on(trial.name)):
            self.running.append((trial_id, trial))
        else:
            self.searcher.hand_back(trial_id)


def measure(scheduler: str, n_trials: int, n_decisions: int = DECISIONS) -> list[float]:
    """Return the processor's seconds of some decisions after so many trials."""
    driver = Driver(scheduler, n_trials)
    driver.grow(n_trials)
    driver.step(0)  # the first rebuilds what a running search has at hand
    taken = []
    for number in range(1, n_decisions + 1):
        begun = time.process_time()
        driver.step(number)
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
        cells = [f"{1e3 * statistics.median(one):.1f} ({1e3 * max(one):.1f})" for one in taken]
        print(f"| {n_trials:,} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
