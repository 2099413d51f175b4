"""metabench's search as `search.py` times it: with Ray, or what the driver itself does, in one process."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from search_trials import WAITS, Notes, make_report, play

from metabench import data
from metabench.core.config import SearchSpace
from metabench.core.objectives import OBJECTIVES
from metabench.search import folder
from metabench.search import space as spaces
from metabench.search.journal.ledger import Ledger
from metabench.search.progress.watch import Watch
from metabench.search.propose.searcher import FairSearcher
from metabench.search.ray import cluster, experiment
from metabench.search.ray.experiment import Endings
from metabench.search.ray.scheduler import RungScheduler


class Listener(Watch):
    """Watches as the command does, and notes."""

    notes: Notes

    def refresh(self, ledger: Ledger) -> None:
        """Note the first report."""
        super().refresh(ledger)
        if self.notes.first is None and any(trial.reports for trial in ledger.unfinished()):
            self.notes.reported()

    def ended(self, ledger: Ledger, name: str) -> None:
        """Note an ending."""
        super().ended(ledger, name)
        self.notes.ended()


def small_space(path: str, algorithm: str, trials: int, reports: int) -> SearchSpace:
    """Return the space of one algorithm of a file, with rungs at 1, 3, 9, ... tasks."""
    space = spaces.load(path)
    budget = {"tasks": 3 ** (reports - 1), "trials": trials, "grace": 1, "reduction_factor": 3}
    budget |= {"scheduler": "asha", "pause": False}  # Ray stops for good, too
    return space.model_copy(
        update={
            "algorithms": {algorithm: space.algorithms[algorithm]},
            "budget": space.budget.model_copy(update=budget),
        }
    )


def trainable(config: dict[str, Any], place: str, space: dict[str, Any]) -> None:
    """Run a trial that only reports."""

    def tell(report: dict[str, Any]) -> None:
        tune.report({"tasks_seen": report["tasks_seen"], "report": json.dumps(report)})

    setting = json.loads((Path(place).parent / "setting.json").read_text(encoding="utf-8"))
    play(setting["reports"], setting["work"], Path(place).parent / WAITS, tell)


def run(setting: dict[str, Any], notes: Notes) -> None:
    """Run what `metabench search` runs until the confirmation, with another trainable."""
    space = small_space(setting["space"], setting["algorithm"], setting["trials"], setting["reports"])
    place = Path(setting["folder"]) / "search"
    splits = data.load(space.task)
    data.check(space.task, splits)
    watch = Listener(place, space, False, OBJECTIVES[splits.kind])
    watch.notes = notes
    with folder.opened(place, None, "auto", watch.say):
        watch.space, _ = folder.create_or_resume(place, space, splits, 0)
        with cluster.connect(None, place, cpus=setting["workers"], say=watch.say) as connected:
            watch.slots, watch.nodes = connected.slots, cluster.describe
            ledger = Ledger(place, space.budget.confirm_top, watch.objective, space.budget.tasks)
            with watch.showing(ledger):
                experiment.explore(place, space, ledger, connected, watch, 0, trainable)


def drive(setting: dict[str, Any], notes: Notes) -> None:
    """Do everything that the driver does for its trials but for Ray: propose, judge, write down, show.

    Scores are random, so as many trials are stopped at each rung as the rule stops.
    """
    space = small_space(setting["space"], setting["algorithm"], setting["trials"], setting["reports"])
    place = Path(setting["folder"]) / "search"
    place.mkdir()
    ledger = Ledger(place, space.budget.confirm_top, tasks=space.budget.tasks)
    watch = Listener(place, space)
    watch.notes = notes
    searcher, endings = FairSearcher(space, ledger, 0), Endings(ledger, watch)
    scheduler = RungScheduler(ledger, space.budget)
    draw = random.Random(0)
    running: list[tuple[str, Any]] = []
    started = 0
    with watch.showing(ledger):
        while True:
            while len(running) < setting["workers"] and isinstance(
                config := searcher.suggest(str(started)), dict
            ):
                trial = SimpleNamespace(config=config, metric_analysis={}, metric_n_steps={})
                running.append((str(started), trial))
                endings.on_trial_start()
                started += 1
            if not running:
                return
            trial_id, trial = running.pop(0)
            done = len(ledger.trials[trial.config["trial"]].reports)
            report = {"report": json.dumps(make_report(3**done, draw.random()))}
            answer = scheduler.on_trial_result(None, trial, report)
            endings.on_trial_result()
            endings.on_step_begin(2, [])
            if answer == RungScheduler.CONTINUE:
                running.append((trial_id, trial))
            else:
                searcher.hand_back(trial_id)
                endings.on_trial_complete(trial=trial)


def read_back(setting: dict[str, Any]) -> float:
    """Return the seconds until a search that is continued knows what it did."""
    space = small_space(setting["space"], setting["algorithm"], setting["trials"], setting["reports"])
    begun = time.perf_counter()
    ledger = Ledger(Path(setting["folder"]) / "search", space.budget.confirm_top, tasks=space.budget.tasks)
    assert not FairSearcher(space, ledger, 0).remaining(), "nothing is left"
    return time.perf_counter() - begun


def main() -> None:
    """Run with the setting given as JSON, and print what was noted."""
    setting, notes = json.loads(sys.argv[1]), Notes()
    (Path(setting["folder"]) / "setting.json").write_text(json.dumps(setting), encoding="utf-8")
    (drive if setting["workers_are_played"] else run)(setting, notes)
    result = notes.dump(setting["begun"])
    if setting["workers_are_played"]:
        result["read_back"] = read_back(setting)
    print(json.dumps(result))
